# SPDX-License-Identifier: Apache-2.0

"""From what a user has into the cloud, back again, and to a login prompt.

One command each way, and one that boots: real guests, without KVM.
"""

import os
import pathlib
import tarfile

import amiclient
from amiclient import process
from amiclient.tests.disks import disks
from amiclient.tests.disks import guest
from amiclient.tests.functional import base
from amiclient.tests.runbook import inputs as runbook_inputs

MIB = 2**20

_ROOT = pathlib.Path(amiclient.__file__).parents[1]

_FSTAB = """\
UUID=5ea93f1c-54a4-4f0a-9b1f-0d5f3f0f7c11 / ext4 errors=remount-ro 0 1
LABEL=boot /boot ext4 defaults 0 2
"""


class TestWholeWay(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()

    def go(
        self,
        source: pathlib.Path,
        *words: object,
        login: str = 'guest login:',
    ) -> None:
        """Upload a source, save what that made, and boot what was saved."""
        sent = self.openstack_json(
            *('ami', 'upload', source, '--headroom', '4M', *words),
            stderr=None,
        )
        self.assertEqual('active', sent['status'])
        self.assertIsNotNone(sent['kernel_id'])
        self.assertIsNotNone(sent['ramdisk_id'])
        saved = self.directory / 'saved'
        self.openstack('ami', 'save', sent['id'], '--directory', saved)
        told = self.openstack_json(
            *('ami', 'boot', saved, '--disk', '1G', '--append', guest.QUIET),
            *('--until', '[a-z]+ login:'),
        )
        self.assertEqual('booted', told['result'])
        self.assertEqual(login, told['matched'])
        self.assertEqual(sent['size'], told['root_size_before'])
        self.assertEqual(1024 * MIB, told['root_size'])

    @base.slow
    def test_debian(self) -> None:
        """A real one, that tools/test has made by mmdebstrap."""
        archive = _ROOT / '.test' / 'debian.tar'
        if not archive.exists():
            self.skipTest(f'there is no {archive}; tools/test makes it')
        self.go(archive, '--headroom', '64M', login='demo login:')

    def test_archive_as_mmdebstrap_makes_it(self) -> None:
        runbook_inputs.debian(self.directory)
        self.go(self.directory / 'debian.tar')

    def test_qcow2_with_gpt_and_a_boot_partition(self) -> None:
        made = guest.make(
            self.directory, size=48 * MIB, files={'etc/fstab': _FSTAB}
        )
        tree = self.directory / 'boot-tree'
        tree.mkdir()
        release = guest.kernel().name.removeprefix('vmlinuz-')
        for name, path in (
            (f'vmlinuz-{release}', made.kernel),
            (f'initrd.img-{release}', made.ramdisk),
        ):
            (tree / name).write_bytes(path.read_bytes())
        boot = self.directory / 'boot.img'
        boot.touch()
        os.truncate(boot, 64 * MIB)
        process.run(
            ['mke2fs', '-q', '-F', '-L', 'boot', '-d', tree, boot], access=None
        )
        disk = disks.make(
            self.directory / 'machine.raw',
            [
                disks.Part(1, type=disks.ESP),
                disks.Part(64, boot),
                disks.Part(48, made.root, type=disks.ROOT),
                disks.Part(8, type='S'),
            ],
        )
        self.go(disks.convert(disk, 'qcow2', '-c'))

    @base.slow
    def test_uec_tarball(self) -> None:
        made = guest.make(self.directory)
        archive = self.directory / 'guest-uec.tar.gz'
        with tarfile.open(archive, 'w:gz', dereference=True) as file:
            for name, path in (
                ('guest.img', made.root),
                ('guest-vmlinuz', made.kernel),
                ('guest-initrd', made.ramdisk),
            ):
                file.add(path, name)
        self.go(archive)

    def test_archive_as_docker_export_makes_it(self) -> None:
        made = guest.make(self.directory)
        tree = self.directory / 'container'
        tree.mkdir()
        process.run(
            ['debugfs', '-R', f'rdump / {tree}', made.root], access=None
        )
        (tree / 'lost+found').rmdir()
        (tree / '.dockerenv').touch(mode=0o755)
        archive = self.directory / 'container.tar'
        with tarfile.open(archive, 'w') as file:
            # Without a directory for all, and without a leading dot.
            for path in sorted(tree.iterdir()):
                file.add(path, path.name, filter=_by_root)
        self.go(archive, '--kernel', made.kernel, '--ramdisk', made.ramdisk)


def _by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    return member
