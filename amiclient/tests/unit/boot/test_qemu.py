# SPDX-License-Identifier: Apache-2.0

"""The command line of QEMU, and that of the kernel."""

import json
import pathlib

from amiclient.boot import qemu
from amiclient import errors
from amiclient.tests import base

UUID = '11111111-2222-4333-8444-555555555555'

#: What Nova 34 gives a kernel.
NOVA = 'root=/dev/vda console=tty0 console=ttyS0 console=hvc0'


def machine(**rest: object) -> qemu.Machine:
    return qemu.Machine(
        **{
            'emulator': qemu.emulator('x86_64'),
            'kvm': False,
            'kernel': pathlib.Path('/a, b/vmlinuz'),
            'ramdisk': pathlib.Path('/a, b/initrd'),
            'disk': pathlib.Path('/tmp, x/disk.qcow2'),
            'source': pathlib.Path('/tmp, x/source.img'),
            'seed': pathlib.Path('/tmp, x/seed.img'),
            'uuid': UUID,
            'memory': 2**30,
            'cpus': 2,
            **rest,
        }
    )


def arguments(**rest: object) -> list[str]:
    return list(qemu.arguments(machine(**rest), qemu.Channels(7, 8, 9)))


def after(argv: list[str], option: str) -> list[str]:
    """Everything that follows an option, wherever it is."""
    return [argv[i + 1] for i, word in enumerate(argv) if word == option]


class TestCommandLine(base.TestCase):
    def test_as_nova_does(self) -> None:
        self.assertEqual(NOVA, qemu.command_line(kvm=True))
        self.assertEqual(
            f'{NOVA} no_timer_check', qemu.command_line(kvm=False)
        )

    def test_added_to(self) -> None:
        self.assertEqual(
            f'{NOVA} quiet init=/bin/sh',
            qemu.command_line(kvm=True, append='quiet init=/bin/sh'),
        )

    def test_replaced(self) -> None:
        # Nova says nothing of its own then.
        for kvm in (True, False):
            line = qemu.command_line(
                kvm=kvm, append='quiet', instead='root=/dev/vda console=ttyS0'
            )
            self.assertEqual('root=/dev/vda console=ttyS0 quiet', line)
        argv = arguments(command_line='root=/dev/vda ro')
        self.assertEqual(['root=/dev/vda ro'], after(argv, '-append'))

    def test_impossible(self) -> None:
        for text in ('a\nb', 'x' * 2000, 'a\0b'):
            error = self.assertRaises(
                errors.UsageError,
                qemu.command_line, kvm=True, append=text,
            )  # fmt: skip
            self.assertNotIn('\n', str(error))


class TestArguments(base.TestCase):
    def test_whole(self) -> None:
        argv = arguments()
        self.assertEqual('qemu-system-x86_64', argv[0])
        for option, value in {
            '-machine': 'pc,accel=tcg',
            '-cpu': 'max',
            '-m': '1024M',
            '-smp': '2',
            '-uuid': UUID,
            '-kernel': '/a, b/vmlinuz',
            '-initrd': '/a, b/initrd',
            '-append': f'{NOVA} no_timer_check',
            '-netdev': 'user,id=net0,restrict=on',
            '-display': 'none',
            '-serial': 'chardev:serial0',
            '-mon': 'chardev=control0,mode=control',
            '-smbios': 'type=1,manufacturer=OpenStack Foundation,'
            f'product=OpenStack Nova,serial={UUID},uuid={UUID},'
            'family=Virtual Machine',
        }.items():
            self.assertEqual([value], after(argv, option), option)
        self.assertEqual(
            [
                'socket,id=serial0,fd=7',
                'socket,id=virtual0,fd=8',
                'socket,id=control0,fd=9',
            ],
            after(argv, '-chardev'),
        )
        self.assertIn('-no-reboot', argv)
        self.assertIn('-nodefaults', argv)

    def test_the_root_is_the_first_disk(self) -> None:
        devices = after(arguments(), '-device')
        disks = [d for d in devices if d.startswith('virtio-blk')]
        self.assertEqual(
            [
                'virtio-blk-pci,drive=root,id=virtio-disk0,bootindex=1',
                'virtio-blk-pci,drive=seed,id=virtio-disk1',
            ],
            disks,
        )

    def test_only_the_disk_is_written_to(self) -> None:
        nodes = {
            node['node-name']: node
            for node in map(json.loads, after(arguments(), '-blockdev'))
        }
        self.assertEqual('/tmp, x/disk.qcow2', nodes['root-file']['filename'])
        self.assertEqual('/tmp, x/seed.img', nodes['seed-file']['filename'])
        self.assertEqual('qcow2', nodes['root']['driver'])
        self.assertEqual(
            {'seed', 'seed-file'},
            {name for name, node in nodes.items() if node.get('read-only')},
        )

    def test_kvm(self) -> None:
        argv = arguments(kvm=True)
        self.assertEqual(['pc,accel=kvm'], after(argv, '-machine'))
        self.assertEqual(['host'], after(argv, '-cpu'))
        self.assertEqual([NOVA], after(argv, '-append'))

    def test_memory_is_rounded_up(self) -> None:
        self.assertEqual(['65M'], after(arguments(memory=2**26 + 1), '-m'))

    def test_what_nova_has_besides(self) -> None:
        argv = arguments()
        devices = after(argv, '-device')
        for device in (
            'virtio-balloon-pci', 'virtio-rng-pci,rng=rng0', 'vmcoreinfo',
        ):  # fmt: skip
            self.assertIn(device, devices)
        self.assertEqual(['rng-builtin,id=rng0'], after(argv, '-object'))

    def test_no_ramdisk(self) -> None:
        self.assertNotIn('-initrd', arguments(ramdisk=None))

    def test_aarch64(self) -> None:
        argv = arguments(emulator=qemu.emulator('aarch64'))
        self.assertEqual('qemu-system-aarch64', argv[0])
        self.assertEqual(['virt,accel=tcg'], after(argv, '-machine'))
        # There is no graphics card in Nova's guests of this kind.
        self.assertNotIn('-vga', argv)

    def test_other_architectures(self) -> None:
        error = self.assertRaises(
            errors.UnsupportedError, qemu.emulator, 's390x'
        )
        self.assertIn('s390x', str(error))
        self.assertIn('aarch64, i686, x86_64', str(error))
