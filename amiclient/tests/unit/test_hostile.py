# SPDX-License-Identifier: Apache-2.0

"""Hostile input is refused or mended, and does no harm."""

import gzip
import lzma
import os
import pathlib
import time

from amiclient import errors
from amiclient.ext import e2fsprogs
from amiclient.ext import geometry
from amiclient.ext import layout
from amiclient.ext import shrink
from amiclient import process
from amiclient.rootfs import inspect
from amiclient.source import probe
from amiclient import sparse
from amiclient.tests import base
from amiclient.tests.fuzz import mutate as fuzz_mutate
from amiclient.tests.fuzz import run as fuzz_run
from amiclient.tests.fuzz import targets
from amiclient.tests.hostile import corpus as hostile
from amiclient.tests.hostile import patch as hostile_patch
from amiclient.tests.hostile import seeds
from amiclient.tests.unit.ext import shrinking
from amiclient.tests.unit.rootfs import samples

_MIB = 1 << 20


class HostileCase(base.TestCase):
    def attempt(
        self, path: pathlib.Path, **wanted: fuzz_run.Target
    ) -> dict[str, str]:
        """Do things with a file, none of which may do harm."""
        report = fuzz_run.run(path, wanted, self.tmp())
        self.assertEqual([], report.findings)
        return report.results


@shrinking.for_each(*(set(hostile.CORPUS) - {'huge-and-sparse'}))
class TestCorpus(HostileCase):
    def check_it(self, name: str) -> None:
        # Seconds: e2fsck takes hundredths of one for what it comes through.
        self.patch(e2fsprogs, '_CPU', 2)
        path = hostile.make(name, self.tmp())
        results = self.attempt(
            path,
            **targets.READERS,
            **targets.BROWSERS,
            shrink=targets.SHRINKERS['shrink'],
        )
        expected = hostile.CORPUS[name].expected
        if expected:
            self.assertIn(expected, results['shrink'])
        else:
            self.assertEqual('ok', results['shrink'])


@shrinking.for_each('quota', 'orphans', 'journal', 'super2')
class TestSound(HostileCase):
    def check_it(self, name: str) -> None:
        path = seeds.make(name, self.tmp())
        results = self.attempt(path, shrink=targets.SHRINKERS['shrink'])
        self.assertEqual({'shrink': 'ok'}, results)


class TestSuperblocks(HostileCase):
    def test_every_field(self) -> None:
        for name in ('plain', 'bigalloc'):
            path = seeds.make(name, self.tmp())
            size = path.stat().st_size
            sound = path.read_bytes()[1024:2048]
            for at, width in fuzz_mutate.SUPERBLOCK:
                for value in (b'\0', b'\1', b'\x7f', b'\x80', b'\xff'):
                    block = bytearray(sound)
                    block[at : at + width] = value * width
                    with path.open('r+b') as file:
                        file.seek(1024)
                        file.write(block)
                    try:
                        found = probe.open_root(path).superblock
                    except errors.SourceError as error:
                        self.assertTrue(str(error).isprintable())
                        continue
                    self.assertLess(found.group_count, 1 << 21)
                    self.assertLessEqual(found.size, size)

    def test_4_tib_that_are_holes(self) -> None:
        path = hostile.make('huge-and-sparse', self.tmp())
        started = time.monotonic()
        request = shrink.ShrinkRequest(
            image=probe.open_root(path), output=self.tmp() / 'result'
        )
        error = self.assertRaises(
            errors.AmiError, lambda: shrink.execute(shrink.plan(request))
        )
        self.assertIn('damaged', str(error))
        self.assertLess(time.monotonic() - started, 60)

    def test_one_bitmap_for_all_groups(self) -> None:
        path = hostile.make('groups-shared', self.tmp())
        found = probe.open_root(path).superblock
        with sparse.opened(path, os.O_RDONLY) as descriptor:
            error = self.assertRaises(
                errors.DamagedError, layout.Layout, descriptor, found
            )
        self.assertIn('share their metadata', str(error))

    def test_groups_without_room(self) -> None:
        path = hostile.make('groups-of-metadata', self.tmp())
        found = probe.open_root(path).superblock
        measured = geometry.Geometry(found, 9000, 12, (), ())
        error = self.assertRaises(errors.DamagedError, measured.need)
        self.assertIn('no room', str(error))


class TestEndless(HostileCase):
    def test_an_e2fsck_that_spins_is_ended(self) -> None:
        self.patch(e2fsprogs, '_CPU', 1)
        path = hostile.make('indirect-loop', self.tmp())
        error = self.assertRaises(
            errors.ProgramError, shrinking.shrunk, path,
            output=self.tmp() / 'result', repair=True,
        )  # fmt: skip
        self.assertEqual(
            'e2fsck was stopped: it took more than 1 seconds of processor '
            'time; its input is probably damaged',
            str(error),
        )

    def test_an_e2fsck_that_begins_anew_for_ever_is_ended(self) -> None:
        path = seeds.make('ext2-rev0', self.tmp())
        with hostile_patch.Patch(path) as patch:
            patch.write(2 * patch.block_size, bytes(patch.block_size))
        started = time.monotonic()
        toolbox = e2fsprogs.Toolbox.of(probe.open_root(path).superblock)
        self.assertRaises(process.TooTalkative, toolbox._fsck, path)
        self.assertFalse(toolbox.check(path))
        self.assertIn('Corrupt group', toolbox.objections(path))
        self.assertLess(time.monotonic() - started, 30)


class TestContents(HostileCase):
    def release(self, *commands: str, size: int = 0) -> inspect.Release:
        directory = self.tmp()
        path = seeds.make('plain', directory)
        (directory / 'file').write_bytes(b'ID=debian\n'.ljust(size, b'#'))
        process.run(
            ['debugfs', '-w', '-f', '-', path],
            input='\n'.join(
                ['rm /etc/os-release', 'rm /usr/lib/os-release', *commands]
            ).encode() + b'\n',
            cwd=directory,
            access=None,
        )  # fmt: skip
        self.attempt(path, release=targets.BROWSERS['release'])
        return inspect.read_release(path)

    def test_os_release_that_is_none(self) -> None:
        for commands in (
            ('symlink /etc/os-release os-release',),
            ('symlink /etc/os-release ../../../../../etc/os-release',),
            ('symlink /etc/os-release /proc/self/root/etc/os-release',),
            ('cd etc', 'mknod os-release p'),
            ('cd etc', 'mknod os-release c 1 5'),
            ('cd etc', 'mknod os-release b 8 0'),
            ('mkdir /etc/os-release',),
        ):
            found = self.release(*commands)
            self.assertEqual(inspect.Release(None, None), found, commands)

    def test_os_release_that_is_huge(self) -> None:
        found = self.release('write file etc/os-release', size=3 * _MIB)
        self.assertEqual(inspect.Release(None, None), found)

    def test_os_release_with_a_huge_hole(self) -> None:
        found = self.release(
            'write file etc/os-release',
            'sif /etc/os-release size 0x7ffffffffff',
            size=20,
        )
        self.assertEqual(inspect.Release(None, None), found)

    def test_os_release_that_wants_to_be_more(self) -> None:
        for value in ('"a\x1b[2Jb"', '$(id)', 'a b', '"\u202eok"', 'x' * 65):
            fields = inspect.parse_os_release(f'ID={value}\n'.encode())
            self.assertIsNone(inspect._sane(fields.get('ID')), value)


class TestBombs(HostileCase):
    def readers(self, data: bytes) -> dict[str, str]:
        path = self.tmp() / 'image'
        path.write_bytes(data)
        return self.attempt(path, **targets.READERS)

    def test_compressed_zeros(self) -> None:
        zeros = bytes(200 * _MIB)
        for data in (
            gzip.compress(zeros, 1),
            lzma.compress(zeros, preset=0),
        ):
            results = self.readers(data)
            for name in ('open_root', 'kernel', 'ramdisk'):
                self.assertIn('compressed', results[name])

    def test_a_kernel_that_does_not_end(self) -> None:
        head = samples.elf(62, content=b'')
        results = self.readers(gzip.compress(head + bytes(200 * _MIB), 1))
        self.assertIn('compressed', results['kernel'])

    def test_zstd(self) -> None:
        zeros = process.run(
            ['sh', '-c', 'head -c 300M /dev/zero | zstd -q -c'], access=None
        ).stdout
        results = self.readers(zeros)
        self.assertIn('compressed', results['open_root'])

    def test_boxes_in_boxes(self) -> None:
        data = samples.initramfs()
        for pack in (gzip.compress, lzma.compress) * 3:
            data = pack(data)
        results = self.readers(data)
        self.assertIn('not an initramfs', results['ramdisk'])

    def test_every_length_of_a_kernel_and_ramdisk(self) -> None:
        directory = self.tmp()
        lengths = range(0, 600, 37 if base.SLOW else 148)
        for name, data in fuzz_mutate.parts().items():
            for size in (*lengths, len(data) // 2, len(data) - 1):
                path = directory / 'part'
                path.write_bytes(data[:size])
                for target in ('kernel', 'ramdisk', 'identify'):
                    try:
                        wrong = targets.READERS[target](path, directory)
                    except errors.AmiError as error:
                        self.assertTrue(str(error).isprintable(), name)
                    else:
                        self.assertIsNone(wrong, name)
