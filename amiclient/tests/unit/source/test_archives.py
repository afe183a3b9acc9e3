# SPDX-License-Identifier: Apache-2.0

"""Tar archives of every make: what each header means, and where one ends."""

import pathlib
import subprocess
import tarfile

import fixtures

from amiclient import errors
from amiclient.source import streams
from amiclient.source import uec
from amiclient.tests.disks import archives
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.source import test_build

FILES = {b'/etc/passwd', b'/usr/bin/x'}


class ArchiveCase(test_build.BuildCase):
    def setUp(self) -> None:
        super().setUp()
        self.source = self.directory / 's'
        for name in ('etc/passwd', 'usr/bin/x'):
            path = self.source / name
            path.parent.mkdir(parents=True)
            path.write_text(name)

    def pack(self, name: str, *options: object) -> pathlib.Path:
        path = self.directory / name
        words = ['tar', '-C', self.source, '-cf', path, *options]
        subprocess.run([*words, 'etc', 'usr'], check=True)
        return path

    def assert_taken(self, path: pathlib.Path) -> None:
        self.build(path)
        found = exttree.read_tree(self.output)
        files = {n for n in found if found[n].type == 'file'}
        self.assertEqual(FILES, files)
        self.output.unlink()
        # What upload and inspect go by.
        self.assertTrue(uec.is_tar(path))

    def patched(self, path: pathlib.Path, *patches: tuple[int, bytes]) -> None:
        """Change the first header."""
        data = bytearray(path.read_bytes())
        for at, value in patches:
            data[at : at + len(value)] = value
        data[148:156] = b' ' * 8
        data[148:156] = b'%06o\0 ' % sum(data[:512])
        path.write_bytes(data)

    def logged(self) -> fixtures.FakeLogger:
        return self.useFixture(fixtures.FakeLogger('amiclient'))


class TestMakes(ArchiveCase):
    def test_each(self) -> None:
        for format in ('v7', 'oldgnu', 'gnu', 'ustar', 'posix'):
            options = [] if format == 'v7' else ['--label=some volume']
            options = options if format != 'ustar' else []
            self.assert_taken(
                self.pack('a.tar', f'--format={format}', *options)
            )

    def test_other_times(self) -> None:
        path = self.pack('a.tar', '--format=gnu', '--incremental')
        self.assertNotEqual(0, path.read_bytes()[345])
        self.assert_taken(path)

    def test_listed(self) -> None:
        for format in ('gnu', 'posix'):
            listed = f'--listed-incremental={self.directory / format}'
            options = [f'--format={format}', listed]
            self.assert_taken(self.pack('a.tar', *options))
            (self.source / 'etc' / format).write_text('new')
            text = self.refused(self.pack('b.tar', *options))
            self.assertIn('only what changed since another one', text)
            self.assertIn('passwd is missing', text)
            (self.source / 'etc' / format).unlink()

    def test_long_names_in_gnu_headers(self) -> None:
        """Go wrote them until 1.8, and Docker with it."""
        for magic in (b'ustar  \0', b'ustar\x0000', b'ustar000'):
            path = self.pack('a.tar', '--format=gnu')
            self.patched(path, (257, magic), (345, b'usr/share/some'))
            self.build(path)
            found = exttree.read_tree(self.output)
            self.assertIn(b'/usr/share/some/etc', found)

    def test_star(self) -> None:
        path = self.pack('a.tar', '--format=ustar')
        times = b'14563041533 14563041533 '
        self.patched(path, (476, times), (508, b'tar\0'))
        self.assert_taken(path)
        self.patched(path, (257, bytes(8)))
        self.assertIn('old version of star', self.refused(path))

    def test_old_headers_have_nothing_more(self) -> None:
        path = self.pack('a.tar', '--format=v7')
        self.patched(path, (345, b'nonsense'))
        self.assert_taken(path)

    def test_what_is_not_taken(self) -> None:
        for kind, words in (
            (b'M', 'etc/x: a file that began in another volume'),
            (b'N', 'a list of long names'),
            (b'Z', 'it is of the unknown type Z'),
            (b'\x80', 'it is of the unknown type 0x80'),
        ):
            text = self.refused(self.tar([archives.member('etc/x', kind)]))
            self.assertIn(words, text)
        continued = archives.member(
            'etc/x', pax_headers={'GNU.volume.offset': '1024'}
        )
        self.assertIn('another volume', self.refused(self.tar([continued])))

    def test_headers_without_end(self) -> None:
        header = tarfile.TarInfo('x')
        header.type, header.size = tarfile.XHDTYPE, 12
        one = header.tobuf() + b'12 path=abc\n'.ljust(512, b'\0')
        path = self.directory / 'a.tar'
        path.write_bytes(one * 2000)
        self.assertIn('too many headers of one file', self.refused(path))


class TestEnds(ArchiveCase):
    def test_another_archive(self) -> None:
        data = self.pack('a.tar').read_bytes()
        path = self.directory / 'two.tar'
        for between in (b'', bytes(3 << 20)):
            path.write_bytes(data + between + data)
            self.assertIn('another archive follows', self.refused(path))
            # What upload and inspect look at first.
            error = self.assertRaises(
                errors.SourceError, list, self.members(path)
            )
            self.assertIn('another archive follows', str(error))

    def members(self, path: pathlib.Path):
        with (
            streams.opened(path, wanted='an archive') as stream,
            uec._opened(stream) as archive,
        ):
            yield from archive

    def test_padding(self) -> None:
        path = self.pack('a.tar')
        path.write_bytes(path.read_bytes() + bytes(3 << 20))
        log = self.logged()
        self.assert_taken(path)
        self.assertEqual('', log.output)

    def test_anything_else(self) -> None:
        path = self.pack('a.tar')
        path.write_bytes(path.read_bytes() + b'anything else')
        log = self.logged()
        self.assert_taken(path)
        self.assertIn('what follows the end of the archive', log.output)


class TestNames(ArchiveCase):
    """What is told of a name is short, whatever the name is."""

    def test_errors(self) -> None:
        long = 'long \x1b name/' * 200_000
        acl = 'SCHILY.acl.access'
        for members in (
            [archives.member(long)],
            [archives.member('x', tarfile.LNKTYPE, linkname=long)],
            [archives.member('x', tarfile.SYMTYPE, linkname=long)],
            [archives.member('x', pax_headers={acl: f'user:{long}:r--'})],
            [archives.member('x', pax_headers={acl: long})],
            [archives.member('x', pax_headers={'mtime': long})],
            [
                archives.member(
                    'x', pax_headers={'SCHILY.xattr.user.' + 'n' * 10**6: 'y'}
                )
            ],
        ):
            text = self.refused(self.tar(members))
            self.assertIn('in.tar', text)
            self.assertLess(len(text), 500)
            self.assertTrue(text.isprintable())

    def test_warnings(self) -> None:
        log = self.logged()
        name = 'SCHILY.xattr.strange.' + 'n\n' * 10**6
        self.build(self.tar([archives.member('x', pax_headers={name: 'y'})]))
        self.assertIn('ext4 does not have', log.output)
        self.assertLess(len(log.output), 500)
        self.assertEqual(1, log.output.count('\n'))

    def test_numbers_that_are_none(self) -> None:
        for key in ('uid', 'gid', 'size'):
            member = archives.member('x', pax_headers={key: 'root'})
            text = self.refused(self.tar([member]))
            self.assertIn(f"x: its header is invalid: the {key} 'root'", text)

    def test_symbolic_link_that_is_too_long(self) -> None:
        link = archives.member('x', tarfile.SYMTYPE, linkname='x' * 4096)
        text = self.refused(self.tar([link]))
        self.assertIn('longer than 4095 bytes', text)
        link.linkname = 'x' * 4095
        self.build(self.tar([link]))
        # As Linux has it, not as it is in the archive.
        found = exttree.read_tree(self.output)[b'/x']
        self.assertEqual((0o644, 0o777), (link.mode, found.mode))
