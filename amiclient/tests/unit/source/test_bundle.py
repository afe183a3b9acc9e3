# SPDX-License-Identifier: Apache-2.0

"""What brings a kernel and a ramdisk along, and what only claims to."""

import dataclasses
import hashlib
import io
import os
import pathlib
import tarfile
from typing import Any

import fixtures

from amiclient import errors
from amiclient.glance.upload import request
from amiclient import process
from amiclient import progress
from amiclient import scratch
from amiclient.source import bundle
from amiclient.source import manifest
from amiclient.source import resolve
from amiclient.source import uec
from amiclient.tests import base
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.source import test_streams

MIB = 2**20
KERNEL = b'kernel' * 1000
RAMDISK = b'ramdisk' * 1000


class BundleCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()
        self.image = self.random.randbytes(MIB) + bytes(8 * MIB) + b'end'
        self.name = 'cirros'

    def contents(self) -> dict[str, bytes]:
        return {
            f'{self.name}-vmlinuz': KERNEL,
            f'{self.name}-initrd': RAMDISK,
            f'{self.name}.img': self.image,
        }

    def tar(
        self,
        contents: dict[str, bytes | tarfile.TarInfo],
        *,
        kind: str | None = 'gzip',
        name: str = 'uec.bin',
    ) -> pathlib.Path:
        """Make an archive; its name says nothing."""
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode='w') as archive:
            for member, data in contents.items():
                if isinstance(data, tarfile.TarInfo):
                    archive.addfile(data)
                    continue
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        data = file.getvalue()
        path = self.directory / name
        path.write_bytes(test_streams.pack(kind, data) if kind else data)
        return path

    def open(self, path: pathlib.Path) -> Any:
        return resolve.opened(path, resolve.Choice(work_directory=self.work))

    def refuse(self, path: pathlib.Path) -> str:
        def run() -> None:
            with self.open(path):
                self.fail('it was taken')

        message = str(self.assertRaises(errors.AmiError, run))
        self.assertNotIn('\n', message)
        self.assertEqual([], os.listdir(self.work))
        return message


class TestArchives(BundleCase):
    def test_all_compressions(self) -> None:
        for kind in (None, 'gzip', 'bzip2', 'xz', 'zstd'):
            with self.open(self.tar(self.contents(), kind=kind)) as source:
                assert source.kernel and source.ramdisk
                self.assertEqual(KERNEL, source.kernel.read_bytes())
                self.assertEqual(RAMDISK, source.ramdisk.read_bytes())
                same = source.root.read_bytes() == self.image
                self.assertTrue(same, kind)
                self.assertLess(source.root.stat().st_blocks * 512, 2 * MIB)
                self.assertEqual(0o600, source.root.stat().st_mode & 0o777)
                self.assertEqual('cirros', source.name)
                self.assertFalse(source.finished)
            self.assertEqual([], os.listdir(self.work))

    def test_names_of_others(self) -> None:
        contents = {
            'd/x-vmlinuz-virtual': KERNEL,
            'd/x-initrd-virtual': RAMDISK,
            'd/x-loader': b'loader',
            'd/x-floppy.img': b'floppy',
            'd/x.img': self.image,
            'd/README': b'text',
        }
        with self.open(self.tar(contents)) as source:
            assert source.kernel and source.ramdisk
            self.assertEqual(KERNEL, source.kernel.read_bytes())
            self.assertEqual(RAMDISK, source.ramdisk.read_bytes())
            self.assertEqual('x', source.name)

    def test_no_ramdisk(self) -> None:
        contents = self.contents()
        del contents['cirros-initrd']
        with self.open(self.tar(contents)) as source:
            self.assertIsNone(source.ramdisk)
            self.assertTrue(source.complete)

    def test_sparse_members(self) -> None:
        """As GNU tar -S writes them."""
        for name, data in self.contents().items():
            path = self.directory / name
            path.write_bytes(data)
            process.run(['fallocate', '--dig-holes', path], access=None)
        path = self.directory / 'sparse.tar'
        process.run(
            ['tar', '-C', self.directory, '-cSf', path, *self.contents()],
            access=None,
        )
        self.assertLess(path.stat().st_size, 2 * MIB)
        with self.open(path) as source:
            self.assertTrue(source.root.read_bytes() == self.image, 'other')

    def test_no_uec(self) -> None:
        for contents in ({'x.img': self.image}, {'vmlinuz': KERNEL}):
            message = self.refuse(self.tar(contents))
            self.assertIn('not a root filesystem', message)

    def test_empty(self) -> None:
        """It is told for what it is."""
        message = self.refuse(self.tar({}))
        self.assertIn('in it is nothing but zeros', message)

    def test_files_of_a_system(self) -> None:
        """They become a filesystem, whatever else is beside them."""
        link = tarfile.TarInfo('bin')
        link.type, link.linkname = tarfile.SYMTYPE, 'usr/bin'
        many = {f'etc/{number}': b'' for number in range(40)}
        for contents in (
            {'bin': link, **self.contents()},
            {**many, **self.contents()},
        ):
            path = self.tar(contents)
            with self.open(path) as source:
                expected = bundle.Source(
                    root=source.root, own=True, format='files', name='uec'
                )
                self.assertEqual(expected, source)
                found = exttree.read_tree(source.root)
            names = {b'/' + os.fsencode(name) for name in contents}
            self.assertEqual(set(), names - set(found))
            self.assertEqual([], os.listdir(self.work))

    def test_names_lead_nowhere(self) -> None:
        names = ('../../a-vmlinuz', '/tmp/b-initrd', '../c.img')
        data = (KERNEL, RAMDISK, self.image)
        contents = dict(zip(names, data, strict=True))
        with self.open(self.tar(contents)) as source:
            for path in (source.root, source.kernel, source.ramdisk):
                assert path
                self.assertEqual(source.root.parent, path.parent)
            self.assertTrue(source.root.is_relative_to(self.work))
        self.assertEqual(['uec.bin'], os.listdir(self.directory))

    def test_two_kernels(self) -> None:
        path = self.tar({**self.contents(), 'b-vmlinuz': KERNEL})
        message = self.refuse(path)
        self.assertIn('two members may be the kernel', message)

    def test_cut_short(self) -> None:
        # A block of bzip2 is all there or not there at all.
        for kind in (None, 'gzip', 'xz', 'zstd'):
            path = self.tar(self.contents(), kind=kind)
            os.truncate(path, path.stat().st_size - 600000)
            self.assertIn(str(path), self.refuse(path))

    def test_damaged(self) -> None:
        path = self.tar(self.contents())
        data = bytearray(path.read_bytes())
        data[-6] ^= 1
        path.write_bytes(data)
        self.assertIn('damaged', self.refuse(path))

    def test_limits(self) -> None:
        self.useFixture(
            fixtures.MockPatchObject(uec, '_LIMITS', {'kernel': 100})
        )
        message = self.refuse(self.tar(self.contents()))
        self.assertIn('the kernel in it has 6000 bytes', message)
        self.assertIn('no more than 100 are taken', message)

    def test_no_room(self) -> None:
        self.useFixture(
            fixtures.MockPatchObject(scratch, 'room', lambda _: 20 * MIB)
        )
        message = self.refuse(self.tar(self.contents()))
        self.assertIn(f'the image in it has {len(self.image)}', message)
        self.assertIn('has room for 4.0 MiB; use --work-directory', message)

    def test_blank(self) -> None:
        """As CirrOS's: a filesystem that was made, and never filled."""
        blank = self.directory / 'blank'
        for options in (['ext3'], ['ext4'], ['ext2', '-b', '1024']):
            blank.write_bytes(b'')
            os.truncate(blank, 24 * MIB)
            process.run(
                ['mke2fs', '-q', '-F', '-t', *options, blank], access=None
            )
            contents = self.contents()
            del contents['cirros.img']
            contents['cirros-blank.img'] = blank.read_bytes()
            with self.open(self.tar(contents)) as source:
                self.assertTrue(source.finished)
                self.assertIn('has no files', source.notes[0])
                self.assertEqual('cirros', source.name)
            # By itself it is shrunk as any other.
            with self.open(blank) as source:
                self.assertFalse(source.finished)
                self.assertEqual((), source.notes)


class TestSaved(BundleCase):
    def write(self, **changes: Any) -> manifest.Manifest:
        parts = {}
        for noun, (name, data) in zip(
            ('kernel', 'ramdisk', 'image'),
            self.contents().items(),
            strict=True,
        ):
            (self.directory / name).write_bytes(data)
            parts[noun] = manifest.ManifestPart(
                file=name,
                size=len(data),
                sha512=hashlib.sha512(data).hexdigest(),
                disk_format='ami',
                container_format='ami',
                id=f'11111111-2222-3333-4444-{len(name):012}',
                name=f'the {noun}',
                tags=('blue',),
                min_ram=64,
                properties={'architecture': 'x86_64', 'foo': 'bar'},
            )
        parts['image'] = dataclasses.replace(parts['image'], **changes)
        written = manifest.Manifest(**parts)
        (self.directory / manifest.NAME).write_bytes(manifest.dump(written))
        return written

    def test_a_directory_and_its_manifest(self) -> None:
        written = self.write()
        for path in (self.directory, self.directory / manifest.NAME):
            with self.open(path) as source:
                self.assertEqual(written, source.manifest)
                self.assertEqual(self.directory / 'cirros.img', source.root)
                self.assertEqual(
                    self.directory / 'cirros-vmlinuz', source.kernel
                )
                self.assertTrue(source.finished)

    def test_what_was_in_no_cloud(self) -> None:
        """Such as what was extracted: it is shrunk as any other."""
        self.write(id=None)
        with self.open(self.directory) as source:
            self.assertFalse(source.finished)

    def test_blank(self) -> None:
        """As what was extracted of CirrOS: it is sent as it was there."""
        blank = self.directory / 'blank'
        blank.write_bytes(bytes(24 * MIB))
        process.run(['mke2fs', '-q', '-F', '-t', 'ext3', blank], access=None)
        self.image = blank.read_bytes()
        blank.unlink()
        self.write(id=None)
        for path in (self.directory, self.directory / manifest.NAME):
            with self.open(path) as source:
                self.assertTrue(source.finished)
                self.assertIn('has no files', source.notes[0])

    def test_a_directory_without(self) -> None:
        message = self.refuse(self.directory)
        self.assertIn('not a root filesystem', message)
        (self.directory / 'etc').mkdir()
        with self.open(self.directory) as source:
            self.assertIn(b'/etc', exttree.read_tree(source.root))

    def test_altered(self) -> None:
        self.write(sha512='0' * 128)
        message = self.refuse(self.directory)
        self.assertIn('cirros.img is not what the manifest says', message)
        self.write(size=5)
        self.assertIn('not 5', self.refuse(self.directory))

    def test_packed(self) -> None:
        for sha512, good in (('', True), ('0' * 128, False)):
            written = self.write(**({'sha512': sha512} if sha512 else {}))
            members = [self.directory / manifest.NAME] + [
                self.directory / part.file for part in written.parts.values()
            ]
            path = self.tmp() / 'x.tar.gz'
            uec.pack(members, path, progress=progress.QUIET)
            if good:
                found = bundle.verified(path, progress=progress.QUIET)
                self.assertEqual(written, found)
                with self.open(path) as source:
                    self.assertEqual(written, source.manifest)
            else:
                self.assertIn('the image in it is not what', self.refuse(path))
        ramdisk = self.directory / 'cirros-initrd'
        some = [member for member in members if member != ramdisk]
        uec.pack(some, path, progress=progress.QUIET)
        self.assertIn('is not what', self.refuse(path))
        self.write()
        uec.pack(some, path, progress=progress.QUIET)
        self.assertIn('ramdisk of its manifest is missing', self.refuse(path))

    def test_an_ami_that_is_named_like_something_else(self) -> None:
        for name in ('vmlinuz-6', 'my-loader', 'initrd'):
            self.name = name
            written = self.write()
            members = [self.directory / manifest.NAME] + [
                self.directory / part.file for part in written.parts.values()
            ]
            path = self.tmp() / 'x.tar.gz'
            uec.pack(members, path, progress=progress.QUIET)
            with self.open(path) as source:
                self.assertEqual(written, source.manifest)
                self.assertEqual(self.image, source.root.read_bytes())

    def test_adopted(self) -> None:
        self.write(min_disk=7)
        with self.open(self.directory) as source:
            wanted = request.UploadRequest(
                source=self.directory,
                kernel=str(source.kernel),
                ramdisk='some image',
                traits=request.Traits(
                    architecture='arm', properties={'foo': 'baz'}
                ),
            )
            found = request.adopt(wanted, source)
        self.assertEqual(source.root, found.source)
        self.assertEqual('the image', found.traits.name)
        self.assertEqual({'foo': 'baz'}, found.traits.properties)
        self.assertEqual(('blue',), found.traits.tags)
        self.assertEqual((7, 64), (found.min_disk, found.min_ram))
        self.assertEqual('the kernel', found.kernel_traits.name)
        self.assertEqual('bar', found.kernel_traits.properties['foo'])
        # Another one was named, which has traits of its own.
        self.assertEqual(request.Traits(), found.ramdisk_traits)
