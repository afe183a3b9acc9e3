# SPDX-License-Identifier: Apache-2.0

"""The flags of chattr(1), from wherever files come, are in what is built."""

import fcntl
import os
import pathlib
import re
import struct
import tarfile

import fixtures

from amiclient import process
from amiclient.source import attributes
from amiclient.tests.disks import archives
from amiclient.tests.unit.source import test_build

_EXTENTS = 0x80000
_GET, _SET = 0x80086601, 0x40086602


class TestFlags(test_build.BuildCase):
    def flags(self, path: str) -> int:
        text = process.run(
            ['debugfs', '-R', f'stat {path}', self.output], access=None
        ).text
        return int(re.search('Flags: (0x[0-9a-f]+)', text)[1], 16) & ~_EXTENTS

    def source(self, **flags: str) -> pathlib.Path:
        members = []
        for name, text in flags.items():
            kind = tarfile.DIRTYPE if name == 'd' else tarfile.REGTYPE
            headers = {'SCHILY.fflags': text}
            members.append(
                archives.member(f'etc/{name}', kind, pax_headers=headers)
            )
        return self.tar(members, format=tarfile.PAX_FORMAT)

    def test_archive(self) -> None:
        log = self.useFixture(fixtures.FakeLogger())
        self.build(
            self.source(
                i='schg,nodump', a='uappnd', n='noatime,strange', t='topdir',
                d='topdir,dirsync', x='schg,noschg,nocow',
            )
        )  # fmt: skip
        self.assertEqual(0x50, self.flags('/etc/i'))
        self.assertEqual(0x20, self.flags('/etc/a'))
        self.assertEqual(0x80, self.flags('/etc/n'))
        # Only directories have these.
        self.assertEqual(0, self.flags('/etc/t'))
        self.assertEqual(0x30000, self.flags('/etc/d'))
        self.assertEqual(0, self.flags('/etc/x'))
        self.assertIn('the flag strange is left out', log.output)
        self.assertIn('the flag nocow is left out', log.output)

    def test_overrides(self) -> None:
        source = self.source(i='schg', a='uappnd')
        file = self.directory / 'mtree'
        file.write_text('etc/i flags=none\netc/a flags=sappnd,nodump\n')
        self.build(source, overrides=file)
        self.assertEqual(0, self.flags('/etc/i'))
        self.assertEqual(0x60, self.flags('/etc/a'))

    def test_directory(self) -> None:
        source = self.directory / 'source'
        (source / 'etc').mkdir(parents=True)
        (source / 'etc/plain').write_bytes(b'x')
        (source / 'etc/file').write_bytes(b'x')
        for path, wanted in (('etc/file', 0xC0), ('etc', 0x40)):
            self.set(source / path, wanted)
        self.build(source)
        self.assertEqual(0xC0, self.flags('/etc/file'))
        self.assertEqual(0x40, self.flags('/etc'))
        self.assertEqual(0, self.flags('/etc/plain'))

    def set(self, path: pathlib.Path, flags: int) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            old = struct.unpack_from(
                '=I', fcntl.ioctl(descriptor, _GET, bytes(8))
            )[0]
            fcntl.ioctl(descriptor, _SET, struct.pack('=Q', old | flags))
        except OSError:
            self.skipTest('this filesystem has no flags')
        finally:
            os.close(descriptor)

    def test_names(self) -> None:
        self.assertEqual((0, []), attributes.parse_flags('none'))
        self.assertEqual(
            (0x10, ['what']), attributes.parse_flags('schg, what')
        )
        self.assertEqual(
            (0x10, []), attributes.parse_flags('nonodump,immutable')
        )
