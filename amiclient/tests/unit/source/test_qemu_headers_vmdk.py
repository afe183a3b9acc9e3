# SPDX-License-Identifier: Apache-2.0

"""Headers of VMDK images: what is sound is taken, all else refused."""

import json
import os
import pathlib
import re
import struct

from amiclient import errors
from amiclient import process
from amiclient.source import qemu_headers
from amiclient.source import qemu_image
from amiclient.tests import base

SIZE = 24 << 20

#: As VMware writes it, and as VirtualBox does.
VMWARE = """\
# Disk DescriptorFile
version=1
encoding="UTF-8"
CID=fffffffe
parentCID=ffffffff
isNativeSnapshot="no"
createType="{}"

# Extent description
RDONLY 49152 SPARSE "generated-stream.vmdk"

# The Disk Data Base
#DDB

ddb.adapterType = "lsilogic"
ddb.encoding = "UTF-8"
ddb.geometry.cylinders = "1024"
ddb.longContentID = "0123456789abcdef0123456789abcdef"
ddb.thinProvisioned = "1"
ddb.toolsInstallType = "4"
ddb.toolsVersion = "12352"
ddb.virtualHWVersion = "13"
"""
VIRTUALBOX = """\
# Disk DescriptorFile
version=1
CID=9c5b4c8a
parentCID=ffffffff
createType="{}"

# Extent description
RW 49152 SPARSE "box-disk001.vmdk" 0

# The disk Data Base\x20
#DDB

ddb.comment=""
ddb.geometry.biosCylinders="1024"
ddb.uuid.image="2bd3a9a4-9d8f-4d3c-8d35-0123456789ab"
ddb.uuid.modification="00000000-0000-0000-0000-000000000000"
ddb.uuid.parent="00000000-0000-0000-0000-000000000000"
"""


class TestVmdk(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()

    def make(self, *options: str) -> pathlib.Path:
        path = self.directory / f'{len(os.listdir(self.directory))}.vmdk'
        argv = ['qemu-img', 'create', '-q', '-f', 'vmdk']
        for option in options:
            argv += ['-o', option]
        process.run([*argv, path, str(SIZE)], access=None)
        return path

    def read(self, path: pathlib.Path) -> qemu_image.Header:
        with path.open('rb') as file:
            return qemu_headers.read(file, 'vmdk', path.name)

    def refused(self, path: pathlib.Path, words: str) -> None:
        error = self.assertRaises(errors.SourceError, self.read, path)
        self.assertIn(words, error.message)
        self.assertIn('if you trust it', error.hint)
        self.assertNotIn('\n', str(error))

    def put(self, path: pathlib.Path, offset: int, data: bytes) -> None:
        with path.open('r+b') as file:
            file.seek(offset)
            file.write(data)

    def describe(self, path: pathlib.Path, words: str | bytes) -> None:
        if isinstance(words, str):
            words = words.encode()
        self.put(path, 512, words.ljust(20 * 512, b'\0'))

    def described(self, path: pathlib.Path) -> str:
        data = path.read_bytes()[512 : 21 * 512]
        return data.rstrip(b'\0').decode()

    def end(self, path: pathlib.Path, **changed: int) -> None:
        """Put a copy of the header at the end, which then counts."""
        head = bytearray(path.read_bytes()[:512])
        self.put(path, 56, b'\xff' * 8)
        for place, value in changed.items():
            offset = int(place.removeprefix('at'))
            head[offset : offset + 8] = struct.pack('<Q', value)
        marker = struct.pack('<QII', 1, 0, 3).ljust(512, b'\0')
        with path.open('ab') as file:
            file.write(marker + head + bytes(512))

    def test_sound(self) -> None:
        for option in (
            'subformat=monolithicSparse',
            'subformat=streamOptimized',
            'zeroed_grain=on',
            'compat6=on',
            'hwversion=17',
            'adapter_type=ide',
            'adapter_type=buslogic',
            'adapter_type=lsilogic',
            'adapter_type=legacyESX',
            'toolsversion=12352',
        ):
            header = self.read(self.make(option))
            self.assertEqual(qemu_image.Header(SIZE), header)

    def test_sound_as_others_write_it(self) -> None:
        for created in ('monolithicSparse', 'streamOptimized'):
            for words in (VMWARE, VIRTUALBOX):
                path = self.make(f'subformat={created}')
                self.describe(path, words.format(created))
                self.assertEqual(SIZE, self.read(path).size)
                lines = words.format(created).replace('\n', '\r\n')
                self.describe(path, lines)
                self.assertEqual(SIZE, self.read(path).size)
                process.run(
                    ['qemu-img', 'info', '-f', 'vmdk', path], access=None
                )

    def test_header_at_the_end(self) -> None:
        path = self.make('subformat=streamOptimized')
        self.end(path)
        self.assertEqual(SIZE, self.read(path).size)
        # QEMU agrees.
        words = ['qemu-img', 'info', '--output=json', '-f', 'vmdk', path]
        info = json.loads(process.run(words, access=None).text)
        self.assertEqual(SIZE, info['virtual-size'])

    def test_header_at_the_end_that_differs(self) -> None:
        for place, value, words in (
            (12, 0, 'names other files'),
            (12, SIZE // 256, 'copies of its VMDK header differ'),
            (28, 2, 'not where QEMU looks'),
            (36, 19, 'copies of its VMDK header differ'),
            (56, 2**64 - 1, 'copies of its VMDK header differ'),
            (56, 2**40, 'cut short'),
        ):
            path = self.make('subformat=streamOptimized')
            self.end(path, **{f'at{place}': value})
            self.refused(path, words)
        for cut in (100, 512, 1024):
            path = self.make('subformat=streamOptimized')
            self.end(path)
            os.truncate(path, path.stat().st_size - cut)
            self.refused(path, 'the end of its VMDK stream is missing')

    def test_header(self) -> None:
        damaged = 'its header is damaged'
        for offset, layout, value, words in (
            (0, '4s', b'COWD', 'not a VMDK image of one file'),
            (0, '4s', b'# Di', 'not a VMDK image of one file'),
            (4, '<I', 0, damaged),
            (4, '<I', 4, damaged),
            (8, '<I', 3 | 1 << 3, damaged),
            (8, '<I', 3 | 1 << 16, damaged),
            (8, '<I', 3 | 1 << 17, damaged),
            (12, '<Q', 0, 'holds no data, but names other files'),
            (12, '<Q', 1 << 50, damaged),
            (20, '<Q', 0, damaged),
            (20, '<Q', 24, damaged),
            (20, '<Q', 1 << 20, damaged),
            (28, '<Q', 0, 'not where QEMU looks'),
            (28, '<Q', 2, 'not where QEMU looks'),
            (36, '<Q', 0, 'not where QEMU looks'),
            (36, '<Q', 1 << 40, 'not where QEMU looks'),
            (44, '<I', 0, damaged),
            (44, '<I', 1024, damaged),
            (48, '<Q', 1 << 60, 'cut short'),
            (56, '<Q', 1 << 60, 'cut short'),
            (64, '<Q', 1 << 60, damaged),
            (73, '4s', b'\n\r\n\n', damaged),
            (77, '<H', 1, damaged),
            (77, '<H', 2, damaged),
        ):
            path = self.make()
            self.put(path, offset, struct.pack(layout, value))
            self.refused(path, words)

    def test_cut_short(self) -> None:
        path = self.make()
        for size in (60000, 5000, 512, 60, 4, 0):
            os.truncate(path, size)
            self.assertRaises(errors.SourceError, self.read, path)

    def test_lines(self) -> None:
        """Each of these, put in the place of another, is refused."""
        line = 'a line of its VMDK descriptor is not taken'
        for old, new, words in (
            ('#DDB', '# createType="vmfs"', line),
            ('#DDB', 'RW 1 FLAT "x" 0', line),
            ('#DDB', 'RW 1 SPARSE "x"', line),
            ('#DDB', 'RW\t1\tFLAT\t"/etc/shadow"\t0\t=', line),
            ('#DDB', 'RW 1 ZERO', line),
            ('#DDB', 'createType="monolithicSparse"', line),
            ('#DDB', 'createType==monolithicFlat"', line),
            ('#DDB', 'ddb.adapterType = "ide"', line),
            ('#DDB', 'ddb.x = "a"b"', line),
            ('#DDB', 'ddb.x = "a\x7f"', line),
            ('#DDB', 'ddb.nativeParentHint = "x.vmdk"', line),
            ('#DDB', 'ddb.uuid.parent="2bd3a9a4"', line),
            ('#DDB', 'changeTrackPath="x-ctk.vmdk"', line),
            ('#DDB', 'encryptionKeys="x"', line),
            ('#DDB', 'whatever', line),
            ('#DDB', '\t', line),
            ('#DDB', '#\x1b[2J', line),
            ('#DDB', '# a\rparentCID=1', line),
            ('=ffffffff', '=fffffffe', line),
            ('"monolithicSparse"', '"monolithicFlat"', line),
            ('"monolithicSparse"', '"vmfs"', line),
            ('"monolithicSparse"', '"streamOptimized"', 'not what its create'),
            ('version=1', 'version=x', line),
            ('version=1', '', 'does not tell version'),
            ('RW 49152', '# RW 49152', line),
            ('SPARSE "', 'SPARSE "../', line),
            ('RW 49152', 'RW 0', line),
            ('SPARSE', 'VMFSSPARSE', line),
            ('SPARSE', 'SESPARSE', line),
            ('#DDB', 'parentFileNameHint="/x"', 'it has the backing file /x'),
            ('#DDB', '# parentFileNameHint="nbd://x/"', 'file nbd://x/'),
            ('#DDB', 'ddb.x="parentFileNameHint="', 'it has the backing file'),
            ('#DDB', f'parentFileNameHint="{"x" * 900}"', 'xxx...'),
        ):
            path = self.make()
            told = self.described(path)
            self.assertIn(old, told)
            self.describe(path, told.replace(old, new, 1))
            self.refused(path, words)

    def test_text(self) -> None:
        path = self.make()
        told = self.described(path).encode()
        # QEMU reads on, where it does not end; and ends, where we would not.
        for words in (
            told.ljust(20 * 512, b'\n'),
            told + b'\0parentFileNameHint="/x"',
            told + b'\0' + b'47"\n'.rjust(8, b'8'),
            told[:40] + b'\0' + told[40:],
        ):
            self.describe(path, words)
            self.refused(path, 'its VMDK descriptor does not end')
        self.describe(path, b'')
        self.refused(path, 'does not tell CID, createType, extent')

    def test_parent_not_opened_by_qemu_either(self) -> None:
        """What QEMU is told is enough, should the header change meanwhile."""
        path = self.make()
        told = self.described(path)
        hint = 'parentFileNameHint="nbd+unix:///?socket=/nosuch"'
        self.describe(path, told.replace('#DDB', hint))
        node = {'driver': 'vmdk', 'backing': None}
        node['file'] = {'driver': 'file', 'filename': str(path)}
        words = ['qemu-img', 'convert', '-O', 'raw']
        told = f'json:{json.dumps(node)}'
        process.run([*words, told, self.directory / 'out'], access=None)
        del node['backing']
        told = f'json:{json.dumps(node)}'
        run = (process.run, [*words, told, self.directory / 'out'])
        error = self.assertRaises(errors.ProgramError, *run, access=None)
        self.assertIn('nosuch', str(error))

    def test_shorter_text(self) -> None:
        """As QEMU leaves it if a new CID begins with zeros."""
        path = self.make()
        told = self.described(path).encode()
        short = re.sub(b'(?m)^CID=.*$', b'CID=1', told)
        left = told[len(short) + 1 :]
        self.assertTrue(left)
        self.describe(path, short + b'\0' + left)
        self.read(path)
