# SPDX-License-Identifier: Apache-2.0

"""Disks in archives, and root filesystems in a directory of one."""

import os
import pathlib
import struct
import subprocess
import tarfile
import zipfile

import fixtures

from amiclient import errors
from amiclient.source import build
from amiclient.source import contents
from amiclient.source import resolve
from amiclient.source import unpacking
from amiclient.tests.disks import archives
from amiclient.tests.disks import disks
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.source import test_build
from amiclient.tests.unit.source import test_disk

member = archives.member


class TestDisks(test_disk.DiskCase):
    def whole(self) -> pathlib.Path:
        return self.disk(disks.Part(30, self.root))

    def packed(self, name: str, *files: pathlib.Path, options=()):
        path = self.directory / name
        words = ['tar', '--create', '--file', path, *options]
        for each in files:
            words += ['-C', each.parent, each.name]
        subprocess.run(words, check=True)
        return path

    def text(self, name: str, content: str = '{}') -> pathlib.Path:
        path = self.directory / name
        path.write_text(content)
        return path

    def unpacked(self) -> list[str]:
        """Note what is unpacked from here on."""
        names: list[str] = []
        real = unpacking.unpack

        def unpack(stream, target, **options):
            names.append(target.name)
            return real(stream, target, **options)

        self.patch(unpacking, 'unpack', unpack)
        return names

    def test_appliance(self) -> None:
        """As VMware and VirtualBox export it."""
        names = self.unpacked()
        image = disks.convert(
            self.whole(), 'vmdk', '-o', 'subformat=streamOptimized'
        )
        path = self.packed(
            'a.ova', self.text('box.ovf'), image, self.text('box.mf')
        )
        source = self.check(path)
        self.assertEqual(
            f'vmdk disk, gpt ({image.name} in an archive)', (source.format)
        )
        self.assertEqual('a', source.name)
        self.assertEqual([], names)

    def test_each_format_in_its_place(self) -> None:
        names = self.unpacked()
        whole = self.whole()
        for kind in ('qcow2', 'vpc', 'vdi', 'vhdx'):
            image = disks.convert(whole, kind)
            self.check(self.packed('a.tar', self.text('info'), image))
        self.check(self.packed('a.tar', whole))
        # A filesystem alone is taken as it is.
        self.check(self.packed('a.tar', self.text('info'), self.root))
        self.assertEqual([], names)

    def test_size_that_qemu_would_round(self) -> None:
        image = disks.convert(self.whole(), 'qcow2')
        with image.open('ab') as file:
            file.write(b'x')
        self.check(self.packed('a.tar', image))

    def test_backing_file_is_still_refused(self) -> None:
        image = self.directory / 'layer'
        subprocess.run(
            [
                *('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw'),
                *('-b', self.whole(), image),
            ],
            check=True,
        )
        text = self.refused(self.packed('a.tar', image))
        self.assertIn('has the backing file', text)

    def test_box(self) -> None:
        """As Vagrant has them: compressed, with texts around it."""
        image = disks.convert(self.whole(), 'qcow2', '-c')
        image = image.rename(self.directory / 'box.img')
        path = self.packed(
            'a.box',
            *(self.text('metadata.json'), self.text('info.json')),
            *(self.text('Vagrantfile'), image),
            options=['--gzip'],
        )
        self.check(path)

    def test_sparse_and_compressed(self) -> None:
        """As Google's documentation has it, and others do."""
        whole = self.whole().rename(self.directory / 'disk.raw')
        for format in ('oldgnu', 'posix'):
            for options in (['--gzip'], ['--zstd'], []):
                words = ['--sparse', f'--format={format}', *options]
                self.check(self.packed('a.tar', whole, options=words))

    def test_compressed_within(self) -> None:
        whole = self.whole()
        subprocess.run(['xz', '-0', '-k', whole], check=True)
        inner = whole.with_name(whole.name + '.xz')
        for options in ([], ['--gzip']):
            self.check(self.packed('a.tar', inner, options=options))

    def test_several(self) -> None:
        whole = self.whole()
        other = disks.copy(whole, 'other')
        for options in ([], ['--gzip']):
            path = self.packed('a.tar', whole, other, options=options)
            text = self.refused(path)
            self.assertIn('several disks are in it: disk, other', text)

    def test_deeper(self) -> None:
        (self.directory / 'a' / 'b').mkdir(parents=True)
        whole = self.whole().rename(self.directory / 'a' / 'disk')
        path = self.packed('a.tar', self.directory / 'a')
        self.check(path)
        whole.rename(self.directory / 'a' / 'b' / 'disk')
        path = self.packed('a.tar', self.directory / 'a')
        self.assertIn('a/b/disk', self.refused(path))

    def test_cut_short(self) -> None:
        path = self.packed('a.tar', self.whole())
        os.truncate(path, 8 * disks.MIB)
        self.assertIn('cut short: disk in it', self.refused(path))

    def test_number_of_the_partition(self) -> None:
        path = self.packed('a.tar', self.whole())
        self.check(path, partition=1)
        text = self.refused(path, partition=7)
        self.assertIn('there is no partition 7', text)

    def test_root_filesystem_with_a_disk_in_it(self) -> None:
        """It is what it is, wherever in the archive the disk is."""
        whole = self.whole()
        tree = self.tmp()
        for name in ('etc', 'usr'):
            (tree / name).mkdir(parents=True)
        for options in ([], ['--gzip']):
            path = self.directory / 'a.tar'
            words = ['tar', '-cf', path, *options, '-C', whole.parent]
            words += [whole.name, '-C', tree, 'etc', 'usr']
            subprocess.run(words, check=True)
            with self.opened(path) as source:
                names = exttree.read_tree(source.root)
            self.assertIn(b'/disk', names)


class TestZip(test_disk.DiskCase):
    def zipped(self, *files: pathlib.Path, kind=zipfile.ZIP_DEFLATED):
        path = self.directory / 'a.zip'
        with zipfile.ZipFile(path, 'w', kind) as archive:
            archive.writestr('readme', 'read me ' * 5000)
            for each in files:
                archive.write(each, each.name)
        return path

    def whole(self) -> pathlib.Path:
        return self.disk(disks.Part(30, self.root))

    def test_fixed_vhd(self) -> None:
        """As Azure has it."""
        image = disks.convert(
            self.whole(), 'vpc', '-o', 'subformat=fixed,force_size'
        )
        source = self.check(self.zipped(image))
        self.assertIn('in an archive', source.format)
        self.check(self.zipped(image, kind=zipfile.ZIP_STORED))

    def test_others(self) -> None:
        whole = self.whole()
        for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            for form in ('qcow2', 'vmdk', 'vpc'):
                self.check(self.zipped(disks.convert(whole, form), kind=kind))
            self.check(self.zipped(self.root, kind=kind))

    def test_several_and_none(self) -> None:
        whole = self.whole()
        path = self.zipped(whole, disks.copy(whole, 'other'))
        self.assertIn('several disks', self.refused(path))
        self.assertIn('without a disk', self.refused(self.zipped()))

    def test_what_is_not_taken(self) -> None:
        path = self.zipped(self.whole(), kind=zipfile.ZIP_BZIP2)
        self.assertIn('unusual way', self.refused(path))
        data = bytearray(self.zipped(self.whole()).read_bytes())
        for magic, at in ((b'PK\3\4', 6), (b'PK\1\2', 8)):
            place = data.index(magic)
            while place >= 0:
                data[place + at] |= 1
                place = data.find(magic, place + 1)
        path.write_bytes(data)
        self.assertIn('is encrypted', self.refused(path))

    def test_damaged(self) -> None:
        path = self.zipped(self.whole())
        whole = path.read_bytes()
        for data in (
            whole[: len(whole) // 2],
            whole[:-30],
            whole[: len(whole) // 2] + b'?' + whole[len(whole) // 2 + 1 :],
            whole[:4] + bytes(2000),
        ):
            path.write_bytes(data)
            self.assertIn('damaged', self.refused(path))

    def test_list_that_is_too_long(self) -> None:
        path = self.directory / 'a.zip'
        end = struct.Struct('<4s4H2IH')
        size = 200 << 20
        with path.open('wb') as file:
            file.write(b'PK\3\4')
            file.truncate(4 + size)
            file.seek(4 + size)
            file.write(end.pack(b'PK\5\6', 0, 0, 9, 9, size, 4, 0))
        self.assertIn('too long', self.refused(path))
        with zipfile.ZipFile(path, 'w') as archive:
            for number in range(5000):
                archive.writestr(f'{number}', '')
        self.assertIn('more than 4096 files', self.refused(path))


class TestPrefixes(test_build.BuildCase):
    def members(self, prefix: str):
        return [
            member(f'{prefix}etc/', tarfile.DIRTYPE),
            (member(f'{prefix}etc/passwd'), b'lisa:x:1042:1:::\n'),
            member(f'{prefix}usr/bin/', tarfile.DIRTYPE),
            (member(f'{prefix}usr/bin/a'), b'a' * 5000),
            member(
                f'{prefix}usr/bin/b',
                tarfile.LNKTYPE,
                linkname=f'{prefix}usr/bin/a',
            ),
            (
                member(
                    f'{prefix}usr/c',
                    pax_headers={
                        'SCHILY.acl.access': 'user::rw-,user:lisa:r--,'
                        'group::r--,mask::r--,other::---'
                    },
                ),
                b'c',
            ),
        ]

    def tree(self, path: pathlib.Path, **options):
        log = self.useFixture(fixtures.FakeLogger('amiclient'))
        self.build(path, **options)
        return exttree.read_tree(self.output), log.output

    def test_found(self) -> None:
        self.build(self.tar(self.members('')))
        wanted = exttree.read_tree(self.output)
        outside = [
            (member('metadata.yaml'), b'x' * 20_000),
            member('templates/', tarfile.DIRTYPE),
            (member('app/bin/run'), b''),
            (member('app/etc/conf'), b''),
        ]
        for prefix in ('rootfs/', './root.x86_64/', 'a/b/c/'):
            path = self.tar(outside + self.members(prefix))
            found, told = self.tree(path)
            for name in (b'/usr/bin/a', b'/usr/c', b'/etc/passwd'):
                self.assertEqual(wanted[name], found[name])
            self.assertEqual(wanted.keys(), found.keys())
            self.assertIn(os.path.normpath(prefix), told)

    def test_links_from_outside(self) -> None:
        link = member('x', tarfile.LNKTYPE, linkname='r/usr/bin/a')
        found, _ = self.tree(self.tar([*self.members('r/'), link]))
        self.assertEqual(
            (b'/usr/bin/a', b'/usr/bin/b'), found[b'/usr/bin/a'].names
        )

    def test_several(self) -> None:
        # But for what names a user.
        path = self.tar(self.members('a/')[:-1] + self.members('b/')[:-1])
        text = self.refused(path, rooted=True)
        self.assertIn('several directories', text)
        self.assertIn(': a, b', text)
        # Whoever only wants a filesystem has all of them.
        found, _ = self.tree(path)
        self.assertIn(b'/a/usr/bin/a', found)

    def test_that_of_the_archive_comes_first(self) -> None:
        path = self.tar(self.members('') + self.members('srv/rootfs/'))
        found, _ = self.tree(path, rooted=True)
        self.assertIn(b'/srv/rootfs/usr/bin/a', found)

    def test_strip_components(self) -> None:
        path = self.tar(
            [
                (member('readme'), b'x'),
                *self.members('a/'),
                *self.members('b/c/'),
            ]
        )
        work = self.tmp()
        choice = resolve.Choice(strip_components=2, work_directory=work)
        with resolve.opened(path, choice) as source:
            found = exttree.read_tree(source.root)
        self.assertIn(b'/usr/bin/a', found)
        self.assertIn(b'/passwd', found)
        self.assertNotIn(b'/etc', {n for n in found if n.count(b'/') > 1})

    def test_strip_components_of_what_is_no_archive(self) -> None:
        self.build(self.tar(self.members('')))
        choice = resolve.Choice(strip_components=1)
        for path in (self.output, self.tmp()):
            with self.assertRaisesRegex(errors.UsageError, 'leave out'):
                with resolve.opened(path, choice):
                    pass

    def test_hint(self) -> None:
        text = self.refused(self.tar([member('a/b/x')]), rooted=True)
        self.assertIn('--strip-components', text)


class TestBounds(test_build.BuildCase):
    def test_names(self) -> None:
        """No name leads anywhere, and links do not either."""
        path = self.tar(
            [
                (member('../../index.json'), b'{"manifests": []}'),
                (member('oci-layout'), b'{}'),
                member('x', tarfile.SYMTYPE, linkname='/etc/passwd'),
                (member('/manifest.json'), b'[{"Config": "x", "Layers": []}]'),
            ]
        )
        with self.assertRaisesRegex(errors.SourceError, 'missing'):
            with resolve.opened(path):
                pass

    def test_many_members(self) -> None:
        many = [(member(f'{n:064x}'), b'') for n in range(5000)]
        path = self.tar(many)
        held = contents.survey(path, 'name')
        self.assertTrue(held.is_files)
        for mode in ('w', 'w:gz'):
            path = self.tar(many, mode=mode)
            with self.assertRaisesRegex(errors.SourceError, 'not a root'):
                with resolve.opened(path):
                    pass

    def test_endless_member(self) -> None:
        """A size that is said and not there takes no time and no room."""
        header = member('disk.raw')
        header.size = 1 << 50
        path = self.directory / 'a.tar'
        path.write_bytes(header.tobuf(tarfile.PAX_FORMAT))
        with self.assertRaisesRegex(errors.SourceError, 'cut short'):
            with resolve.opened(path):
                pass

    def test_request_alone(self) -> None:
        """Whoever builds of a path gets an archive as it is."""
        path = self.tar([(member('disk'), b'x' * 20_000)])
        request = build.BuildRequest(path, self.output)
        build.execute(build.plan(request))
