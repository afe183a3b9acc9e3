# SPDX-License-Identifier: Apache-2.0

"""What must not become a filesystem, and directories that become one."""

import errno
import io
import os
import pathlib
import socket
import tarfile

from amiclient import errors
from amiclient.source import build
from amiclient.source import origins
from amiclient.tests.disks import archives
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.source import test_build
from amiclient import units

MIB = 2**20
DIR, LINK, SYMLINK = tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE
member = archives.member


class TestHostileArchives(test_build.BuildCase):
    def test_members(self) -> None:
        etc = member('etc', SYMLINK, linkname='/etc')
        for members, words in (
            ([member('a/../../b')], 'contains ..'),
            ([etc, member('etc/x')], 'etc is a symbolic link, not'),
            ([member('f'), member('f/x')], 'f is a file, not'),
            ([member('x', LINK, linkname='../passwd')], 'contains ..'),
            ([member('x', LINK, linkname='/etc/passwd')], 'not there'),
            ([member('d', DIR), member('x', LINK, linkname='d')], 'directory'),
            ([member('d/x'), member('d')], 'not empty'),
            ([member('.')], 'not a directory'),
            ([member('n' * 256)], 'too long'),
            ([member('d/' * 3000)], 'path is too long: 4095 bytes'),
            ([member('u', uid=2**32)], 'owner'),
            ([member('x', tarfile.CHRTYPE, devmajor=4096)], 'device'),
            ([member('s', SYMLINK, linkname='')], 'without a target'),
            ([member('s', SYMLINK, linkname='x' * 99 + '\0y')], 'a NUL'),
            ([member('lost+found')], 'lost+found'),
            ([member('q', b'?')], 'unknown type'),
            ([self.xattr('x' * 5000)], 'too large'),
        ):
            text = self.refused(self.tar(members))
            self.assertIn(words, text)
            self.assertIn('in.tar', text)

    def xattr(self, value: str) -> tarfile.TarInfo:
        return member('f', pax_headers={'SCHILY.xattr.user.x': value})

    def test_absolute_names_are_below_the_root(self) -> None:
        source = self.tar([(member('/etc/amiclient-test'), b'x')])
        self.build(source)
        self.assertIn(b'/etc/amiclient-test', exttree.read_tree(self.output))
        self.assertFalse(os.path.exists('/etc/amiclient-test'))

    def test_cut_short_and_damaged(self) -> None:
        data = self.tar(archives.plain_members()).read_bytes()
        source = self.directory / 'bad.tar'
        end = len(data.rstrip(b'\0')) + 511 & ~511
        # Within a file, within a header, and between two files, where most
        # programs take what is there for the whole.
        for size in (4096, 3 * 512 + 100, 512, end):
            source.write_bytes(data[:size])
            self.assertIn('cut short', self.refused(source), size)
        damaged = bytearray(data)
        damaged[512 : 512 + 100] = self.random.randbytes(100)
        source.write_bytes(damaged)
        self.assertIn('damaged', self.refused(source))

    def test_random_damage(self) -> None:
        data = self.tar(archives.plain_members()).read_bytes()
        source = self.directory / 'bad.tar'
        for _ in range(60):
            damaged = bytearray(data)
            for _ in range(self.random.randrange(1, 4)):
                at = self.random.randrange(len(data.rstrip(b'\0')))
                damaged[at] = self.random.randrange(256)
            source.write_bytes(damaged)
            try:
                self.build(source, journal='none')
            except errors.AmiError as error:
                self.assertNotIn('report this', str(error))

    def test_headers_of_impossible_size(self) -> None:
        header = member('x', tarfile.XHDTYPE)
        header.size = 2**30
        source = self.directory / 'huge.tar'
        source.write_bytes(header.tobuf() + bytes(10240))
        self.assertIn('impossible size', self.refused(source))

    def test_bomb(self) -> None:
        source = self.directory / 'bomb.tar.gz'
        with tarfile.open(source, 'w:gz') as tar:
            header = member('zeros')
            header.size = 64 * MIB
            tar.addfile(header, io.BytesIO(bytes(header.size)))
        self.assertLess(source.stat().st_size, MIB)
        text = self.refused(source, kind=errors.NoSpaceError, size=10 * MIB)
        self.assertIn('zeros: what it holds takes more than 10.0 MiB', text)

    def test_maps_of_holes_that_make_no_sense(self) -> None:
        for pairs in ('0,9999999', '5000,1,0,1'):
            headers = {
                'GNU.sparse.map': pairs,
                'GNU.sparse.size': '10000',
                'GNU.sparse.numblocks': '1',
            }
            source = self.tar([(member('f', pax_headers=headers), b'x' * 9)])
            self.assertIn('map of holes', self.refused(source))

    def test_output_that_is_no_file(self) -> None:
        source = self.tar([member('f')])
        os.mkfifo(self.output)
        error = self.assertRaises(errors.UsageError, self.build, source)
        self.assertIn('not a regular file', str(error))
        self.assertTrue(self.output.is_fifo())

    def test_sizes_that_are_impossible(self) -> None:
        source = self.tar([member('f')])
        for options, words in (
            ({'size': 100_000 << 40}, '--size'),
            ({'headroom': units.Headroom(100_000 << 40)}, '--headroom'),
            ({'journal': 100 << 40}, 'a journal'),
        ):
            text = self.refused(source, kind=errors.UsageError, **options)
            self.assertIn(f'{words} of ', text)
            self.assertIn('too large', text)

    def test_other_things(self) -> None:
        other = self.directory / 'other'
        other.write_bytes(b'\x7fELF' + bytes(5000))
        self.assertIn('tar archive is needed', self.refused(other))
        other.write_bytes(bytes(10240))
        self.assertIn('zeros', self.refused(other))
        self.assertIn('no such file', self.refused(self.directory / 'missing'))


class TestDirectories(test_build.BuildCase):
    def setUp(self) -> None:
        super().setUp()
        self.source = self.directory / 'tree'
        self.source.mkdir()
        (self.source / 'bin').mkdir(mode=0o750)
        (self.source / 'bin' / 'su').write_bytes(b'su' * 3000)
        os.chmod(self.source / 'bin' / 'su', 0o4711)
        os.link(self.source / 'bin' / 'su', self.source / 'su')
        os.symlink('/etc/passwd', self.source / 'link')
        os.mkfifo(self.source / 'fifo')
        name = os.fsencode(self.source) + b'/' + os.fsencode(archives.STRANGE)
        with open(name, 'wb') as file:
            file.truncate(10 * MIB)
            file.seek(5 * MIB)
            file.write(b'in the middle')
        os.utime(name, ns=(1, 1234567890123456789))

    def test_as_it_is(self) -> None:
        noted = self.note(self.source / 'su')
        built = self.build(self.source)
        # One of the names is a second one of the same file.
        self.assertEqual(5, built.files)
        found = exttree.read_tree(self.output)
        su = found[b'/su']
        self.assertEqual(
            ((b'/bin/su', b'/su'), 0o4711, os.getuid(), 6000),
            (su.names, su.mode, su.uid, su.size),
        )
        self.assertEqual(noted, su.xattrs)
        self.assertEqual(b'/etc/passwd', found[b'/link'].target)
        sparse = found[b'/' + os.fsencode(archives.STRANGE)]
        self.assertEqual('1280-1281', sparse.holes)
        # Here it may be rounded: ext3, for one, has no more than seconds.
        mtime = os.stat(self.source / archives.STRANGE).st_mtime_ns
        self.assertEqual(1234567890, mtime // 10**9)
        self.assertEqual(mtime, sparse.mtime)
        self.assertEqual(sparse.mtime, sparse.atime)

    def note(self, path: pathlib.Path) -> dict[bytes, bytes]:
        """Give a file an attribute, if it can have any; tell all it has."""
        try:
            os.setxattr(path, 'user.note', b'\0\xff')
        except OSError as error:
            # As on a tmpfs before Linux 6.6.
            self.assertEqual(errno.EOPNOTSUPP, error.errno)
            return {}
        return {
            os.fsencode(name): os.getxattr(path, name)
            for name in os.listxattr(path)
        }

    def test_overrides_and_owner(self) -> None:
        file = self.directory / 'overrides'
        file.write_text(
            '#mtree\n/set uid=0 gid=7\n'
            './bin/su mode=0755 uid=5 time=77.5 sha256digest=00 \\\n'
            '  xattr.security.capability=0x0102\n'
            './dev type=dir mode=0700\n'
            './dev/console type=char device=native,5,1 mode=0600\n'
            './a\\040b type=link link=c\\\\d\n'
        )
        self.build(self.source, owner=(3, 4), overrides=file)
        found = exttree.read_tree(self.output)
        su, console = found[b'/su'], found[b'/dev/console']
        self.assertEqual((5, 7, 0o755), (su.uid, su.gid, su.mode))
        self.assertEqual(77 * 10**9 + 5, su.mtime)
        self.assertEqual({b'security.capability': b'\1\2'}, su.xattrs)
        self.assertEqual(((5, 1), 0o600), (console.device, console.mode))
        self.assertEqual(b'c\\d', found[b'/a b'].target)
        self.assertEqual((3, 4), (found[b'/'].uid, found[b'/fifo'].gid))

    def test_overrides_that_make_no_sense(self) -> None:
        file = self.directory / 'overrides'
        for line, words in (
            ('./missing mode=0644', 'line 2: ./missing is not there'),
            ('./missing type=char', 'has no device='),
            ('./su type=dir', 'of another type'),
            ('./su mode=99', 'line 2: '),
            ('./su uid=root', 'number of a user'),
            ('./link link=a\\0b', 'a NUL in it'),
            (f'./link link={"x" * 4096}', 'too long'),
            ('./su color=red', "the keyword 'color' is not known"),
            ('../su uid=0', 'contains ..'),
        ):
            file.write_text(f'# a comment\n{line}\n')
            self.assertIn(words, self.refused(self.source, overrides=file))

    def test_what_cannot_be(self) -> None:
        self.output = self.source / 'bin' / 'out.img'
        error = self.assertRaises(errors.UsageError, self.build, self.source)
        self.assertIn('within the source; choose an output', str(error))
        error = self.assertRaises(
            errors.UsageError, build.temporary_image, self.source,
            origins.found(self.source), self.source / 'bin',
        )  # fmt: skip
        self.assertIn('the source; choose another directory', str(error))
        self.output = self.directory / 'overrides'
        self.output.write_text('./su uid=1\n')
        error = self.assertRaises(
            errors.UsageError, self.build, self.source, overrides=self.output
        )
        self.assertIn('the same file as the source; choose', str(error))
        self.output = self.directory / 'out' / 'root.img'
        for options, words in (
            ({'label': 'seventeen letters'}, 'more than 16 bytes'),
            ({'journal': MIB}, 'too small'),
        ):
            text = self.refused(self.source, kind=errors.UsageError, **options)
            self.assertIn(words, text)

    def test_socket_and_headroom_in_percent(self) -> None:
        with socket.socket(socket.AF_UNIX) as made:
            descriptor = os.open(self.source, os.O_RDONLY)
            self.addCleanup(os.close, descriptor)
            made.bind(f'/proc/self/fd/{descriptor}/sock')
        small = self.build(self.source, journal='none')
        large = self.build(
            self.source, journal='none', headroom=units.Headroom(percent=50)
        )
        self.assertAlmostEqual(1.5, large.size / small.size, 2)
        self.assertEqual(
            'socket', exttree.read_tree(self.output)[b'/sock'].type
        )
