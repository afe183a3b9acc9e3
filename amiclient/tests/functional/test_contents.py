# SPDX-License-Identifier: Apache-2.0

"""What is in a source: ``ami inspect``, ``check``, ``extract``, uploads."""

import json

from amiclient.tests.functional import upload
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.rootfs import checks
from amiclient.tests.unit.rootfs import images
from amiclient.tests.unit.rootfs import samples

NEW, OLD = '6.1.0-13-amd64', '6.1.0-9-amd64'

INSPECTED = [
    'source', 'format', 'partition', 'filesystem', 'uuid', 'label',
    'features', 'block_size', 'size', 'in_use', 'minimum_size', 'state',
    'needs_recovery', 'os_distro', 'os_version', 'architecture', 'kernels',
    'partitions',
]  # fmt: skip
EXTRACTED = ['directory', 'image', 'kernel', 'ramdisk', 'manifest']

_OPTIONS = (
    '-t', 'ext4', '-L', 'sound', '-O', '^orphan_file,^metadata_csum_seed',
)  # fmt: skip


def _boot(release: str) -> dict[str, images.Content]:
    return {
        f'boot/vmlinuz-{release}': samples.bzimage(
            release=release.encode() + b' x\0'
        ),
        f'boot/initrd.img-{release}': checks.ramdisk(checks.DRIVERS, release),
    }


class ContentsCase(upload.UploadCase):
    """A test that has a system with two kernels in it."""

    def setUp(self) -> None:
        super().setUp()
        self.files = {**checks.SOUND, **_boot(OLD), **_boot(NEW)}
        self.source = images.image(
            self.directory, self.files, name='system.img', options=_OPTIONS,
            size=96 << 20,
        )  # fmt: skip
        self.note = f'{self.source}: kernel {NEW} was found in it\n'

    def content(self, noun: str, release: str = NEW) -> bytes:
        name = {'kernel': 'vmlinuz', 'ramdisk': 'initrd.img'}[noun]
        content = self.files[f'boot/{name}-{release}']
        assert isinstance(content, bytes)
        return content

    def unboot(self):
        """Make the same system without kernels."""
        files = {k: v for k, v in self.files.items() if 'boot/' not in k}
        return images.image(
            self.directory, files, name='bare.img', options=_OPTIONS
        )


class TestUpload(ContentsCase):
    def test_newest_kernel_is_taken(self) -> None:
        told = self.openstack_json(
            'ami', 'upload', self.source, stderr=self.note
        )
        for noun in ('kernel', 'ramdisk'):
            path = self.download(told[f'{noun}_id'])
            self.assertEqual(self.content(noun), path.read_bytes())
        kernel = self.get(told['kernel_id'])
        self.assertEqual(f'vmlinuz-{NEW}', kernel['name'])
        self.assertEqual('x86_64', self.get(told['id'])['architecture'])
        self.assertNothingLeft()

    def test_another_kernel(self) -> None:
        told = self.openstack_json(
            'ami', 'upload', self.source, '--kernel-version', OLD,
            '--no-ramdisk', stderr=None,
        )  # fmt: skip
        path = self.download(told['kernel_id'])
        self.assertEqual(self.content('kernel', OLD), path.read_bytes())
        self.assertIsNone(told['ramdisk_id'])

    def test_dry_run(self) -> None:
        planned = self.openstack_json(
            'ami', 'upload', self.source, '--dry-run', stderr=self.note
        )
        self.assertEqual(
            [f'vmlinuz-{NEW}', f'initrd.img-{NEW}', 'system'],
            [step['name'] for step in planned['plan']],
        )
        self.assertEqual([], self.images())
        self.assertNothingLeft()

    def test_none_is_found(self) -> None:
        bare = self.unboot()
        self.assertEqual(
            f'{bare}: no kernel was found in it; give --kernel FILE or IMAGE, '
            'or --no-kernel\n',
            self.refused('ami', 'upload', bare),
        )

    def test_no_such_version(self) -> None:
        said = self.refused(
            'ami', 'upload', self.source, '--kernel-version', '5.10.0'
        )
        self.assertIn(f'choose from {NEW}, {OLD}', said)


class TestInspect(ContentsCase):
    def test_columns(self) -> None:
        told = self.openstack_json('ami', 'inspect', self.source)
        self.assertEqual(INSPECTED, list(told))
        self.assertEqual('ext4', told['filesystem'])
        self.assertEqual('ext4 filesystem', told['format'])
        self.assertEqual('clean', told['state'])
        self.assertIs(False, told['needs_recovery'])
        self.assertEqual(96 << 20, told['size'])
        self.assertIn('has_journal', told['features'])
        self.assertEqual(
            ('debian', '12', 'x86_64', 'sound'),
            (told['os_distro'], told['os_version'], told['architecture'],
             told['label']),
        )  # fmt: skip
        self.assertEqual(
            {
                'version': NEW,
                'kernel': f'/boot/vmlinuz-{NEW}',
                'ramdisk': f'/boot/initrd.img-{NEW}',
                'source': 'boot',
            },
            told['kernels'][0],
        )
        shrunk = self.openstack_json(
            'ami', 'shrink', self.source, '--output', self.directory / 'small'
        )
        self.assertEqual(shrunk['lower_bound'], told['minimum_size'])
        self.assertLessEqual(told['minimum_size'], shrunk['size'])

    def test_table(self) -> None:
        told = self.openstack('ami', 'inspect', self.source)
        self.assertIn(f' {OLD} ', told)
        self.assertNotIn('/boot', told)
        told = self.openstack('ami', 'inspect', self.source, '--long')
        self.assertIn(f'{OLD}: /boot/vmlinuz-{OLD}, /boot/initrd', told)

    def test_archive(self) -> None:
        path = self.directory / 'tree'
        images.write(path, _boot(NEW))
        images.write(path, {'etc/os-release': b'ID=arch\n', 'sbin/x': b''})
        told = self.openstack_json('ami', 'inspect', path)
        self.assertEqual(('arch', None), (told['os_distro'],
                                          told['os_version']))  # fmt: skip
        self.assertEqual([NEW], [k['version'] for k in told['kernels']])
        self.assertEqual('files', told['format'])
        self.assertNothingLeft()

    def test_what_is_none(self) -> None:
        said = self.refused('ami', 'inspect', self.kernel)
        self.assertIn('not an image with a root filesystem', said)


class TestCheck(ContentsCase):
    def check(self, *words, status: int = 0):
        finished = self.run_openstack('ami', 'check', *words, '-f', 'json')
        self.assertEqual((status, ''), (finished.status, finished.stderr))
        return [row['rule'] for row in json.loads(finished.stdout)]

    def test_sound(self) -> None:
        self.assertEqual([], self.check(self.source))
        self.assertNothingLeft()

    def test_exit_status(self) -> None:
        bare = self.unboot()
        # 16 MiB are little room, and there is no kernel.
        self.assertEqual(['little-room', 'no-kernel'], self.check(bare))
        self.check(bare, '--strict', status=1)
        ignored = ('--strict', '--ignore', 'little-room')
        self.assertEqual(['no-kernel'], self.check(bare, *ignored))
        self.assertEqual(
            ['virtio-blk', 'little-room', 'virtio-scsi'],
            self.check(
                bare, '--kernel', self.source_kernel(), '--ramdisk',
                self.ramdisk, status=1,
            ),
        )  # fmt: skip

    def source_kernel(self):
        path = self.directory / 'kernel'
        path.write_bytes(self.content('kernel'))
        return path

    def test_files(self) -> None:
        """That a filesystem made of them has no room is no finding."""
        path = self.directory / 'files'
        images.write(path, self.files)
        (path / 'etc/fstab').write_text('/dev/vda / ext4 defaults 0 1\n')
        self.assertEqual([], self.check(path))
        self.assertNothingLeft()

    def test_unknown_rule(self) -> None:
        said = self.refused('ami', 'check', self.source, '--ignore', 'nosuch')
        self.assertIn('choose from', said)


class TestExtract(ContentsCase):
    def extract(self, *words, **options):
        options = {'stderr': self.note, **options}
        return self.openstack_json(
            'ami', 'extract', self.source, *words, **options
        )

    def test_there_and_back(self) -> None:
        target = self.directory / 'out'
        told = self.extract('--directory', target)
        self.assertEqual(EXTRACTED, list(told))
        self.assertEqual(
            exttree.read_tree(self.source), exttree.read_tree(told['image'])
        )
        for noun in ('kernel', 'ramdisk'):
            with open(told[noun], 'rb') as file:
                self.assertEqual(self.content(noun), file.read())
        uploaded = self.openstack_json('ami', 'upload', target)
        # It was in no cloud yet, so it is shrunk.
        self.assertLess(uploaded['size'], 96 << 20)
        self.assertEqual('system', uploaded['name'])
        path = self.download(uploaded['id'])
        self.assertEqual(
            exttree.read_tree(self.source), exttree.read_tree(path)
        )
        kernel = self.get(uploaded['kernel_id'])
        self.assertEqual(f'vmlinuz-{NEW}', kernel['name'])
        self.assertNothingLeft()

    def test_again(self) -> None:
        target = self.directory / 'out'
        told = self.extract('--directory', target)
        before = {p: p.stat().st_ino for p in target.iterdir()}
        self.assertEqual(told, self.extract('--directory', target))
        self.assertEqual(
            before, {p: p.stat().st_ino for p in target.iterdir()}
        )

    def test_nothing_is_overwritten(self) -> None:
        target = self.directory / 'out'
        target.mkdir()
        (target / 'system-initrd').write_bytes(b'mine')
        said = self.run_openstack(
            'ami', 'extract', self.source, '--directory', target
        )
        self.assertEqual(1, said.status)
        self.assertIn('is there already, and is something else', said.stderr)
        self.assertEqual([target / 'system-initrd'], list(target.iterdir()))
        self.assertEqual(b'mine', (target / 'system-initrd').read_bytes())

    def test_nothing_is_left_of_a_failure(self) -> None:
        target = self.directory / 'out'
        said = self.run_openstack(
            'ami', 'extract', self.kernel, '--directory', target
        )
        self.assertEqual(1, said.status)
        self.assertFalse(target.exists())

    def test_without_a_kernel(self) -> None:
        bare = self.unboot()
        told = self.openstack_json(
            'ami', 'extract', bare, '--directory', self.directory / 'out'
        )
        self.assertEqual((None, None), (told['kernel'], told['ramdisk']))
