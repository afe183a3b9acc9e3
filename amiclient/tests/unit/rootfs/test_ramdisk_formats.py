# SPDX-License-Identifier: Apache-2.0


import bz2
import gzip
import lzma
import subprocess
import time

import fixtures

from amiclient import errors
from amiclient.rootfs import ramdisk_formats
from amiclient.tests import base
from amiclient.tests.hostile import bombs
from amiclient.tests.unit.rootfs import samples

_NAMES = ['.', 'bin', 'bin/sh.static', 'usr/lib/modules/1/virtio-blk.ko.xz']
_MAIN = samples.cpio(_NAMES, data=b'x' * 5001)


def _program(name: str, *options: str):
    def run(data: bytes) -> bytes:
        return subprocess.run(
            [name, '-c', *options], input=data, capture_output=True, check=True
        ).stdout

    return run


class TestNames(base.TestCase):
    def names(self, content: bytes) -> set[str]:
        path = self.tmp() / 'initrd'
        path.write_bytes(content)
        return {*ramdisk_formats.files_in(path).names}

    def test_every_compression(self) -> None:
        for pack in (
            bytes,
            gzip.compress,
            bz2.compress,
            lzma.compress,
            lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
            _program('zstd', '-q'),
            _program('lz4', '-q'),
            _program('lz4', '-q', '-l'),
        ):
            early = samples.microcode()
            for before in (b'', early, early + bytes(512) + early):
                found = self.names(before + pack(_MAIN))
                self.assertLessEqual({*_NAMES}, found)
                self.assertEqual(
                    bool(before),
                    'kernel/x86/microcode/GenuineIntel.bin' in found,
                )

    def test_archives_on_end_within(self) -> None:
        other = samples.cpio(['etc', 'etc/x.conf'])
        packed = gzip.compress(_MAIN + bytes(256) + other)
        self.assertEqual({*_NAMES, 'etc', 'etc/x.conf'}, self.names(packed))

    def test_real_cpio(self) -> None:
        tree = self.tmp()
        for name in ('init', 'lib/modules/1/ext4.ko', 'dir/a b'):
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.random.randbytes(777))
        packed = subprocess.run(
            ['cpio', '--create', '--format=newc', '--quiet'],
            input='\n'.join(
                str(p.relative_to(tree)) for p in sorted(tree.rglob('*'))
            ).encode(),
            cwd=tree,
            capture_output=True,
            check=True,
        ).stdout
        expected = {str(p.relative_to(tree)) for p in tree.rglob('*')}
        self.assertEqual(expected, self.names(packed))

    def test_damage_ends_the_list(self) -> None:
        for content in (
            b'', b'nothing', _MAIN[:300], _MAIN[:60],
            gzip.compress(_MAIN)[:100], b'070701' + b'z' * 200,
            b'070701' + b'f' * 104, samples.microcode()[:-100] + b'x' * 5000,
            gzip.compress(b'nothing' * 1000),
        ):  # fmt: skip
            self.assertLessEqual(
                {n for n in self.names(content) if 'kernel' not in n},
                {*_NAMES},
            )

    def test_what_follows_is_left_alone(self) -> None:
        for pack in (gzip.compress, _program('zstd', '-q')):
            found = self.names(pack(_MAIN) + b'garbage' * 100)
            self.assertEqual({*_NAMES}, found)

    def test_one_behind_the_other(self) -> None:
        """As boot loaders load several, whatever they are compressed by."""
        packs = (
            bytes, gzip.compress, bz2.compress, lzma.compress,
            _program('zstd', '-q'), _program('lz4', '-q'),
        )  # fmt: skip
        more = samples.cpio(['init', 'etc/more.conf'])
        for first in packs:
            for second in packs:
                before = first(_MAIN)
                for gap in (-len(before) % 4, -len(before) % 4 + 512):
                    found = self.names(before + bytes(gap) + second(more))
                    self.assertEqual({*_NAMES, 'init', 'etc/more.conf'}, found)

    def test_lists_of_what_is_built_in(self) -> None:
        path = self.tmp() / 'initrd'
        name = 'lib/modules/6.1/modules.builtin'
        data = b'kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio-pci.ko\n'
        for pack in (bytes, gzip.compress):
            path.write_bytes(pack(samples.cpio([name, 'init'], data=data)))
            found = ramdisk_formats.files_in(path)
            self.assertEqual({'ext4', 'virtio_pci'}, found.built_in)
            self.assertEqual({name, 'init'}, found.names)

    def test_modules(self) -> None:
        found = ramdisk_formats.modules_in(
            frozenset({*_NAMES, 'lib/modules/1/a.ko', 'lib/a.txt'})
        )
        self.assertEqual({'virtio_blk', 'a'}, found)


class TestBounds(base.TestCase):
    """What unpacks for ever is read for a while, and that is told."""

    def listing(self, content: bytes) -> ramdisk_formats.Listing:
        path = self.tmp() / 'initrd'
        path.write_bytes(content)
        return ramdisk_formats.files_in(path)

    def bound(self, **values: float) -> None:
        for name, value in values.items():
            self.useFixture(
                fixtures.MockPatchObject(ramdisk_formats, name, value)
            )

    def test_zeros(self) -> None:
        self.bound(_MOST=4 << 20)
        for data in (
            _MAIN + bytes(9 << 20),
            samples.cpio(['a.large'], data=bytes(9 << 20)),
        ):
            for pack in (
                bytes, gzip.compress, bz2.compress, lzma.compress,
                _program('zstd', '-q'), _program('lz4', '-q'),
            ):  # fmt: skip
                found = self.listing(pack(data))
                self.assertEqual('4.0 MiB', found.end)
                self.assertNotEqual(frozenset(), found.names)

    def test_100_gib(self) -> None:
        path = bombs.zstd(self.tmp() / 'initrd', _MAIN, 100)
        since = time.monotonic()
        found = ramdisk_formats.files_in(path)
        self.assertLess(time.monotonic() - since, 25)
        self.assertIn(found.end, ('1.0 GiB', '10 seconds'))
        self.assertLessEqual({*_NAMES}, found.names)

    def test_names(self) -> None:
        self.bound(_NAMES=1000)
        data = samples.cpio([f'{number:0200}' for number in range(5000)])
        for content in (data, gzip.compress(data), data[:-124] + _MAIN):
            self.assertEqual('1000 files', self.listing(content).end)

    def test_cut_short(self) -> None:
        """What is damaged at its begin is not read again and again."""
        for options in (('zstd', '-q'), ('lz4', '-q'), ('lz4', '-q', '-l')):
            packed = _program(*options)(_MAIN)
            for size in (len(packed) // 2, len(packed) - 1):
                found = self.listing(packed[:size])
                self.assertIsNone(found.end)
            self.assertTrue(self.listing(packed + b'garbage').complete)
        for packed in (gzip.compress(_MAIN), _MAIN):
            self.assertFalse(self.listing(packed[:-40]).whole)

    def test_seconds(self) -> None:
        self.bound(_SECONDS=0.0)
        self.assertEqual('0 seconds', self.listing(_MAIN).end)

    def test_one_after_the_other(self) -> None:
        """The bound is for all of them together."""
        self.bound(_MOST=1 << 20)
        self.assertEqual('1.0 MiB', self.listing(_MAIN * 100).end)
        with (self.tmp() / 'initrd').open('w+b') as file:
            file.write(_MAIN * 40)
            self.useFixture(
                fixtures.MockPatchObject(ramdisk_formats, '_ENTRIES', 30)
            )
            error = self.assertRaises(
                errors.SourceError,
                ramdisk_formats.recognise,
                file,
                name='it',
            )
            self.assertIn('too many entries', str(error))

    def test_small_entries_are_quick(self) -> None:
        data = samples.cpio(['x'])[:112] * 300_000
        since = time.monotonic()
        self.assertIsNone(self.listing(gzip.compress(data, 1)).end)
        self.assertLess(time.monotonic() - since, 15)


class TestReal(base.TestCase):
    def test_of_the_host(self) -> None:
        """One that initramfs-tools made, if there is one here."""
        found = samples.installed('initrd.img')
        if not found:
            self.skipTest('there is no initrd here')
        names = ramdisk_formats.files_in(found[-1]).names
        self.assertIn('init', names)
        self.assertNotEqual(set(), ramdisk_formats.modules_in(names))
