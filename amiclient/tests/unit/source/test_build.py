# SPDX-License-Identifier: Apache-2.0

"""Filesystems made of archives: what is in them is what was archived."""

import dataclasses
import os
import pathlib
import re
import struct
import subprocess
import sys
import tarfile

import fixtures

from amiclient import errors
from amiclient.ext import reader
from amiclient.ext import superblock
from amiclient import process
from amiclient.source import build
from amiclient import sparse
from amiclient.tests import base
from amiclient.tests.disks import archives
from amiclient.tests.oracle import disk as exttree_disk
from amiclient.tests.oracle import exttree
from amiclient import units

MIB = 2**20


class BuildCase(base.TestCase):
    """A test that builds filesystems."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.output = self.directory / 'out' / 'root.img'
        self.output.parent.mkdir()

    def build(self, source: pathlib.Path, **options) -> build.Built:
        request = build.BuildRequest(
            source, self.output, **base.with_options(options)
        )
        built = build.execute(build.plan(request))
        self.assertEqual(self.output.stat().st_size, built.size)
        return built

    def refused(
        self, source: pathlib.Path, *, kind=errors.SourceError, **options
    ) -> str:
        """Fail to build, leave nothing behind, and tell why."""
        error = self.assertRaises(kind, self.build, source, **options)
        self.assertEqual([], sorted(self.output.parent.iterdir()))
        self.assertNotIn('\n', str(error))
        return str(error)

    def tar(self, members, **options) -> pathlib.Path:
        return archives.archive(self.directory / 'in.tar', members, **options)

    def assert_holds(self, wanted: dict[bytes, archives.Expected]) -> None:
        found = exttree.read_tree(self.output)
        # The directories on the way to a file may be missing in an archive.
        names = set(found) - {b'/', b'/lost+found'}
        implied = {n for n in names if found[n].type == 'directory'}
        self.assertEqual(set(), set(wanted) - set(found))
        self.assertEqual(set(), names - implied - set(wanted))
        for name, entry in wanted.items():
            got = {
                field.name: getattr(found[name], field.name)
                for field in dataclasses.fields(entry)
            }
            self.assertEqual(dataclasses.asdict(entry), got, name)


class TestFormats(BuildCase):
    def check(self, format: int, *, attributes: bool = False) -> None:
        source = self.tar(
            archives.plain_members(attributes=attributes), format=format
        )
        self.build(source)
        self.assert_holds(archives.expected(source))

    def test_pax(self) -> None:
        self.check(tarfile.PAX_FORMAT, attributes=True)
        found = exttree.read_tree(self.output)
        strange = found[b'/' + os.fsencode(archives.STRANGE)]
        self.assertEqual({b'user.note': b'hello'}, strange.xattrs)
        self.assertEqual(1600000000123456789, strange.mtime)
        self.assertEqual(
            {b'security.capability': archives.CAPABILITY},
            found[b'/ping'].xattrs,
        )
        self.assertEqual((b'/su', b'/su2'), found[b'/su'].names)

    def test_gnu(self) -> None:
        self.check(tarfile.GNU_FORMAT)

    def test_ustar(self) -> None:
        members = [
            m
            for m in archives.plain_members(attributes=False)
            if not isinstance(m, tuple) or m[0].uid < 2**21 - 1
        ]
        source = self.tar(members, format=tarfile.USTAR_FORMAT)
        self.build(source)
        self.assert_holds(archives.expected(source))

    def test_v7(self) -> None:
        (self.directory / 'a').mkdir()
        (self.directory / 'a' / 'b').write_bytes(b'old')
        source = self.directory / 'v7.tar'
        subprocess.run(
            ['tar', '-C', self.directory, '--format=v7', '-cf', source, 'a'],
            check=True,
        )
        self.build(source)
        self.assert_holds(archives.expected(source))

    def test_compressions(self) -> None:
        source = self.tar(archives.plain_members())
        self.build(source)
        plain = self.output.read_bytes()
        for program in ('gzip', 'bzip2', 'xz', 'zstd'):
            # Told by content: the name says nothing.
            packed = self.directory / 'packed'
            with packed.open('wb') as file:
                subprocess.run(
                    [program, '-c', source], stdout=file, check=True
                )
            self.build(packed)
            self.assertEqual(plain, self.output.read_bytes(), program)
            data = packed.read_bytes()
            self.output.unlink()
            packed.write_bytes(data[: len(data) * 2 // 3])
            self.assertIn('cut short', self.refused(packed))


class TestSparse(BuildCase):
    def check(self, *options: str) -> None:
        inside = self.directory / 'in'
        inside.mkdir()
        with (inside / 'sparse').open('wb') as file:
            for offset in (5000, 3 * MIB + 1, 2**31 + 12345):
                file.seek(offset)
                file.write(self.random.randbytes(9000))
            file.truncate(2**31 + 100 * MIB)
        source = self.directory / 'sparse.tar'
        subprocess.run(
            ['tar', '-C', inside, '--sparse', *options, '-cf', source, '.'],
            check=True,
        )
        self.assertLess(source.stat().st_size, MIB)
        self.build(source)
        found = exttree.read_tree(self.output)[b'/sparse']
        self.assertEqual(2**31 + 100 * MIB, found.size)
        self.assert_content(inside / 'sparse', b'/sparse')
        self.assertLess(self.output.stat().st_size, 20 * MIB)

    def assert_content(self, source: pathlib.Path, name: bytes) -> None:
        """Compare what is data on either side, without reading the holes."""
        number = exttree.inode_numbers(self.output)[name]
        with (
            exttree_disk.Filesystem(self.output) as filesystem,
            source.open('rb') as file,
        ):
            runs = filesystem.runs(filesystem.inode(number))
            covered = set()
            for offset, piece in filesystem.pieces(runs):
                file.seek(offset)
                data = file.read(len(piece))
                self.assertEqual(data, piece[: len(data)])
                covered.update(range(offset, offset + len(piece), 4096))
            for first, end in sparse.data_in(file.fileno(), 0, 2**31):
                self.assertEqual(set(), set(range(first, end, 4096)) - covered)

    def test_old_gnu(self) -> None:
        self.check('--format=gnu')

    def test_pax_0_0(self) -> None:
        self.check('--format=pax', '--sparse-version=0.0')

    def test_pax_0_1(self) -> None:
        self.check('--format=pax', '--sparse-version=0.1')

    def test_pax_0_1_long_name(self) -> None:
        name = 'n' * 120
        (self.directory / name).touch()
        os.truncate(self.directory / name, MIB)
        source = self.directory / 'sparse.tar'
        subprocess.run(
            ['tar', '-C', self.directory, '--format=pax', '--sparse',
             '--sparse-version=0.1', '-cf', source, name],
            check=True,
        )  # fmt: skip
        self.build(source)
        found = exttree.read_tree(self.output)
        self.assertEqual(MIB, found[b'/' + name.encode()].size)

    def test_pax_1_0(self) -> None:
        self.check('--format=pax', '--sparse-version=1.0')

    def test_many_extents(self) -> None:
        sparse = self.directory / 'd' / 'many'
        sparse.parent.mkdir()
        with sparse.open('wb') as file:
            for number in range(1500):
                file.seek(number * 12288)
                file.write(b'%d' % number)
        self.build(sparse.parent)
        found = exttree.read_tree(self.output)[b'/many']
        self.assertTrue(found.holes.startswith('1500 spans'), found.holes)


class TestLists(BuildCase):
    TEXT = (
        'user::rwx,user:lisa:r--,group::r-x,group:adm:rw-,mask::rwx,other::---'
    )

    def members(self, text: str, key: str = 'SCHILY.acl.access'):
        return [
            (
                archives.member('f', mode=0o770, pax_headers={key: text}),
                b'',
            ),
            *archives.plain_members(),
        ]

    def test_names(self) -> None:
        self.build(self.tar(self.members(self.TEXT)))
        stored = struct.pack('<I', 1)
        stored += struct.pack('<HH', 1, 7) + struct.pack('<HHI', 2, 4, 1042)
        stored += struct.pack('<HH', 4, 5) + struct.pack('<HHI', 8, 6, 1043)
        stored += struct.pack('<HH', 16, 7) + struct.pack('<HH', 32, 0)
        found = exttree.read_tree(self.output)[b'/f']
        self.assertEqual([stored], list(found.xattrs.values()))

    def test_base_only(self) -> None:
        text = 'user::rw-\ngroup::r--\nother::r--\n'
        self.build(self.tar(self.members(text)))
        self.assertEqual({}, exttree.read_tree(self.output)[b'/f'].xattrs)

    def test_default_of_base_only(self) -> None:
        """It says what new files get, which no mode does."""
        text = 'user::rwx,group::r-x,other::---'
        self.build(self.tar(self.members(text, 'SCHILY.acl.default')))
        found = exttree.read_tree(self.output)[b'/f']
        self.assertEqual(1, len(found.xattrs))
        self.assertEqual(0o770, found.mode)

    def test_mode(self) -> None:
        """The group's bits are the mask, or the list has no effect."""
        text = 'user::rw-,user:1234:r--,group::---,mask::r--,other::---'
        unmasked = text.replace('mask::r--,', '').replace('1234', 'x')
        directory = archives.member(
            'd',
            tarfile.DIRTYPE,
            mode=0o700,
            pax_headers={
                'SCHILY.acl.access': text.replace('rw-', 'rwx'),
                'SCHILY.acl.default': text.replace('r--', 'rwx'),
            },
        )
        value = struct.pack('<I', 2) + b''.join(
            struct.pack('<HHI', *entry)
            for entry in ((1, 6, 2**32 - 1), (2, 4, 7), (4, 0, 2**32 - 1),
                          (16, 4, 2**32 - 1), (32, 1, 2**32 - 1))
        )  # fmt: skip
        members = [
            archives.member(name, mode=0o4600, pax_headers={key: words})
            for name, key, words in (
                ('text', 'SCHILY.acl.access', text),
                (
                    'unmasked',
                    'SCHILY.acl.access',
                    unmasked.replace('r--', 'r--:1234', 1),
                ),
                (
                    'binary',
                    'SCHILY.xattr.system.posix_acl_access',
                    value.decode('utf-8', 'surrogateescape'),
                ),
            )
        ]
        overrides = self.directory / 'overrides'
        overrides.write_text(
            f'./plain xattr.system.posix_acl_access=0x{value.hex()}\n'
            './again mode=0620\n'
        )
        again = archives.member(
            'again', mode=0o600, pax_headers={'SCHILY.acl.access': text}
        )
        self.build(
            self.tar([directory, *members, archives.member('plain'), again]),
            overrides=overrides,
        )
        found = exttree.read_tree(self.output)
        for name, mode in (
            (b'/d', 0o740),
            (b'/text', 0o4640),
            (b'/unmasked', 0o4640),
            (b'/binary', 0o4641),
            (b'/plain', 0o641),
            (b'/again', 0o620),
        ):
            self.assertEqual(oct(mode), oct(found[name].mode), name)
        # As chmod(1) does, the mask is what is asked for.
        (stored,) = found[b'/again'].xattrs.values()
        self.assertIn(struct.pack('<HH', 16, 2), stored)

    def test_numbers_beside_names(self) -> None:
        """As GNU tar writes them, who may call root what it likes."""
        value = struct.pack('<I', 2) + b''.join(
            struct.pack('<HHI', *entry)
            for entry in ((1, 7, 2**32 - 1), (2, 4, 77), (4, 5, 2**32 - 1),
                          (16, 7, 2**32 - 1), (32, 0, 2**32 - 1))
        )  # fmt: skip
        header = archives.member(
            'f',
            mode=0o770,
            pax_headers={
                'SCHILY.acl.access': self.TEXT.replace('lisa', 'bart'),
                'SCHILY.xattr.system.posix_acl_access': value.decode(
                    'utf-8', 'surrogateescape'
                ),
            },
        )
        self.build(self.tar([(header, b'')]))
        found = exttree.read_tree(self.output)[b'/f']
        (stored,) = found.xattrs.values()
        self.assertIn(struct.pack('<HHI', 2, 4, 77), stored)

    def test_old_map_of_holes(self) -> None:
        """GNU tar's own format, whose map ends in empty places."""
        tree = self.directory / 'tree'
        tree.mkdir()
        path = tree / 'sparse'
        with path.open('wb') as file:
            file.truncate(1 << 20)
            file.seek(1 << 20)
            file.write(b'data')
            file.truncate(2 << 20)
        for kind in ('gnu', 'oldgnu', 'pax'):
            source = self.directory / f'{kind}.tar'
            process.run(
                ['tar', '-S', f'--format={kind}', '-C', tree, '-cf', source,
                 '.'], access=None
            )  # fmt: skip
            self.build(source)
            with reader.opened(self.output) as opened:
                found = opened.read_file('sparse', 4 << 20)
            self.assertEqual(path.read_bytes(), found, kind)

    def test_unknown_name(self) -> None:
        text = self.TEXT.replace('lisa', 'bart')
        self.assertIn(
            "names 'bart'", self.refused(self.tar(self.members(text)))
        )


class TestResult(BuildCase):
    def test_same_bytes(self) -> None:
        source = self.tar(archives.plain_members())
        first = self.build(source)
        data = self.output.read_bytes()
        os.utime(source, (1, 1))
        self.assertEqual(first, self.build(source))
        self.assertEqual(data, self.output.read_bytes())

    def test_epoch(self) -> None:
        source = self.tar(archives.plain_members())
        self.useFixture(
            fixtures.EnvironmentVariable('SOURCE_DATE_EPOCH', '1234567890')
        )
        self.build(source)
        entry = exttree.read_tree(self.output)[b'/lost+found']
        self.assertEqual(1234567890 * 10**9, entry.mtime)

    def test_last_one_wins(self) -> None:
        secret = b'secret' * 5000
        source = self.tar(
            [
                (archives.member('a'), secret),
                (archives.member('b'), b'x' * 5000),
                (archives.member('a', mode=0o600), b'new'),
            ]
        )
        self.build(source)
        found = exttree.read_tree(self.output)
        self.assertEqual((0o600, 3), (found[b'/a'].mode, found[b'/a'].size))
        self.assertNotIn(b'secret', self.output.read_bytes())

    def test_size_headroom_journal(self) -> None:
        source = self.tar(archives.plain_members())
        small = self.build(source, journal='none')
        self.assertEqual(0, self.free())
        self.build(source, journal='none', headroom=units.Headroom(5 * MIB))
        self.assertEqual(5 * MIB, self.free())
        larger = self.build(source, size=300 * MIB, label='root')
        self.assertEqual(300 * MIB, larger.size)
        journal = self.build(source, journal=4 * MIB)
        self.assertEqual(small.size + 4 * MIB, journal.size)
        self.output.unlink()
        text = self.refused(
            source, kind=errors.NoSpaceError, size=4 * MIB, journal=4 * MIB
        )
        self.assertIn('choose a larger --size', text)

    def test_least_size(self) -> None:
        source = self.tar(archives.plain_members())
        for size in (3 << 19, 9 * MIB):
            text = self.refused(
                source,
                kind=errors.NoSpaceError,
                size=size,
                headroom=units.Headroom(MIB * (size > 8 * MIB) * 5),
            )
            told = re.search('takes ([0-9]+) bytes', text)
            self.build(
                source,
                size=int(told[1]),
                headroom=units.Headroom(MIB * (size > 8 * MIB) * 5),
            )
            self.assertEqual(int(told[1]), self.output.stat().st_size)
            self.output.unlink()

    def free(self) -> int:
        text = process.run(['dumpe2fs', '-h', self.output], access=None).text
        (line,) = (x for x in text.splitlines() if x.startswith('Free bl'))
        return int(line.split()[-1]) * 4096

    def test_grows(self) -> None:
        source = self.tar(archives.plain_members())
        self.build(source, journal='none')
        before = exttree.read_tree(self.output)
        process.run(['resize2fs', self.output, '3G'], access=None)
        process.run(['e2fsck', '-fn', self.output], access=None)
        after = exttree.read_tree(self.output)
        self.assertEqual([], exttree.diff_trees(before, after))

    def test_large_directories(self) -> None:
        # One level of the index, and two.
        for count, length in ((400, 40), (9000, 200)):
            names = [f'{n:05}' + 'n' * (length + n % 50) for n in range(count)]
            source = self.tar(
                [archives.member(f'd/{n}', tarfile.FIFOTYPE) for n in names],
                format=tarfile.GNU_FORMAT,
            )
            # e2fsck, which execute() runs, knows what a good index is.
            self.build(source, journal='none')
            found = exttree.read_tree(self.output)
            self.assertEqual(count + 3, len(found))
            shape = process.run(
                ['debugfs', '-R', 'htree_dump /d', self.output], access=None
            ).text
            self.assertIn(f'Indirect levels: {int(count > 400)}', shape)


class TestOrdinaryUser(BuildCase):
    def test_same_bytes(self) -> None:
        if os.geteuid():
            self.skipTest('only root can become somebody else')
        source = self.tar(archives.plain_members())
        self.build(source)
        data = self.output.read_bytes()
        # Whatever the umask is.
        os.chmod(source, 0o644)
        os.chmod(self.directory, 0o755)
        os.chmod(self.output.parent, 0o777)
        other = self.output.parent / 'other.img'
        done = self.as_nobody(
            'import pathlib, sys\n'
            'from amiclient.source import build\n'
            'r = build.BuildRequest(*map(pathlib.Path, sys.argv[1:]))\n'
            'build.execute(build.plan(r))\n',
            source,
            other,
        )
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertEqual(data, other.read_bytes())

    def as_nobody(self, code: str, *words: object):
        root = pathlib.Path(build.__file__).parents[2]
        options = {
            'user': 65534,
            'group': 65534,
            'extra_groups': [],
            'cwd': root,
            'env': {'PATH': os.environ['PATH'], 'PYTHONPATH': str(root)},
            'capture_output': True,
        }
        test = [
            '-c',
            'import sys, amiclient.source.build as t\n'
            't.tools_.require()\n'
            'open(sys.argv[1]).close()\n',
            str(words[0]),
        ]
        # The one that runs this, or the files, may be where nobody may go.
        for python in (sys.executable, '/usr/bin/python3'):
            try:
                subprocess.run([python, *test], check=True, **options)
            except (OSError, subprocess.CalledProcessError):
                continue
            return subprocess.run(
                [python, '-c', code, *map(str, words)], check=False, **options
            )
        return self.skipTest('nobody can run no Python, or read no files')


class TestSystems(BuildCase):
    """What is known of root filesystems."""

    def file(
        self, name: str, data: bytes = b'x', **attributes
    ) -> tuple[tarfile.TarInfo, bytes]:
        header = tarfile.TarInfo(name)
        for key, value in attributes.items():
            setattr(header, key, value)
        return header, data

    def test_called_as_fstab_says(self) -> None:
        value = '11111111-2222-3333-4444-555555555555'
        line = f'UUID={value.upper()} / xfs defaults 0 0\n'.encode()
        built = self.build(self.tar([self.file('etc/fstab', line)]))
        self.assertEqual(value, built.uuid)
        process.run(['e2fsck', '-f', '-n', self.output], access=None)
        for text, label in (
            (b'LABEL=root / ext4\n', 'root'),
            (b'#LABEL=root /\nLABEL=home /home ext4\n', ''),
            (b'LABEL=longer-than-16-bytes / btrfs\n', ''),
            (b'UUID=00000000-0000-0000-0000-000000000000 / ext4\n', ''),
            (b'UUID=ABCD-1234 / vfat\n', ''),
            (b'\xff\xfe LABEL', ''),
        ):
            built = self.build(self.tar([self.file('./etc/fstab', text)]))
            found = superblock.read(self.output)
            self.assertEqual(label, found.label)
            # Made of the content.
            self.assertEqual('8', built.uuid[14])
        # The user knows better.
        line = b'LABEL=root / ext4\n'
        self.build(self.tar([self.file('etc/fstab', line)]), label='mine')
        self.assertEqual('mine', superblock.read(self.output).label)

    def warned(self, *members, **options) -> str:
        with fixtures.FakeLogger('amiclient') as log:
            self.build(self.tar(members), **options)
            return log.output

    def test_owners(self) -> None:
        other = self.file('etc/passwd', uid=1000)
        self.assertIn('/etc/passwd belongs to user 1000', self.warned(other))
        self.assertEqual('', self.warned(other, owner=(0, 0)))
        self.assertEqual(
            '',
            self.warned(self.file('usr/bin/x', uid=7), self.file('etc/fstab')),
        )

    def test_lists_of_xfs(self) -> None:
        """They are there a second time, as POSIX has them."""
        log = self.useFixture(fixtures.FakeLogger('amiclient'))
        headers = {
            'SCHILY.xattr.trusted.SGI_ACL_FILE': 'x' * 20,
            'SCHILY.xattr.trusted.SGI_ACL_DEFAULT': 'x' * 20,
            'SCHILY.xattr.trusted.other': 'kept',
        }
        self.build(self.tar([self.file('f', pax_headers=headers)]))
        found = exttree.read_tree(self.output)[b'/f']
        self.assertEqual({b'trusted.other': b'kept'}, found.xattrs)
        self.assertEqual('', log.output)
