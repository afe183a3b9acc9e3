# SPDX-License-Identifier: Apache-2.0

"""What Nova has libvirt make of an AMI, as a command line of QEMU.

Source: Nova's virt/libvirt/driver.py: the kernel's command line is that of
``_set_guest_for_...`` (``CONSOLE``, and ``no_timer_check`` where it is not
KVM; all of it replaced by the image's ``os_command_line``), the machine that
of ``get_default_machine_type``, the SMBIOS values those of
``_get_guest_config_sysinfo``. What Nova's guests do not have is the virtio
console: it is there so that what goes to ``/dev/console`` is seen once the
guest has loaded a driver for that; see amiclient.boot.console for what comes
before.
"""

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

from amiclient import confinement
from amiclient import errors
from amiclient.ext import superblock
from amiclient import kvm
from amiclient import process
from amiclient.rootfs import check_context

#: What the disk of the root filesystem is called, and the kernel is told.
ROOT_DEVICE = '/dev/vda'

#: The longest command line of a kernel: COMMAND_LINE_SIZE on x86 and arm64.
_LONGEST = 2047

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Emulator:
    """What runs guests of one architecture.

    :param machine: the type of machine.
    :param video: the arguments for a graphics card, where Nova has one.
    """

    program: str
    machine: str
    video: tuple[str, ...]


_PC = Emulator('qemu-system-x86_64', 'pc', ('-vga', 'std'))

_EMULATORS = {
    'aarch64': Emulator('qemu-system-aarch64', 'virt', ()),
    'i686': _PC,
    'x86_64': _PC,
}


class Channels(NamedTuple):
    """The descriptors of sockets that lead to a machine.

    :param serial: its first serial line.
    :param virtual: its virtio console.
    :param control: QEMU's own protocol, QMP.
    """

    serial: int
    virtual: int
    control: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A virtual machine, and what it boots.

    :param kvm: whether it runs on the processor itself; else it is emulated.
    :param disk: a qcow2 file, which is written to.
    :param source: the file or device that holds what it does not.
    :param seed: a file with the configuration drive, which is not.
    :param memory: bytes.
    :param cpus: how many.
    :param append: what to add to the kernel's command line.
    :param command_line: what to give the kernel instead of Nova's.
    """

    emulator: Emulator
    kvm: bool
    kernel: pathlib.Path
    ramdisk: pathlib.Path | None
    disk: pathlib.Path
    source: pathlib.Path
    seed: pathlib.Path
    uuid: str
    memory: int
    cpus: int
    append: str = ''
    command_line: str = ''


def emulator(architecture: str) -> Emulator:
    """Choose what runs kernels of an architecture.

    :param architecture: as Nova calls it.
    :raises UnsupportedError: if there is nothing for it.
    """
    try:
        return _EMULATORS[architecture]
    except KeyError as error:
        raise errors.UnsupportedError(
            f'no guests of the architecture {architecture} can be booted',
            hint=f'only those of {", ".join(sorted(_EMULATORS))} can',
        ) from error


def access(machine: Machine) -> confinement.Access:
    """Tell what the program that runs a machine has to open."""
    reads = [machine.kernel, machine.seed, machine.source]
    if machine.ramdisk is not None:
        reads.append(machine.ramdisk)
    return confinement.Access(
        reads=reads, writes=(machine.disk,), devices=(kvm.DEVICE,)
    )


def command_line(*, kvm: bool, append: str = '', instead: str = '') -> str:
    """Write what the kernel is told.

    :param instead: what takes the place of all that Nova says: the image's
        ``os_command_line``.
    :raises UsageError: if that is too long, or more than one line.
    """
    words = (
        [instead] if instead else [f'root={ROOT_DEVICE}', check_context.NOVA]
    )
    if not (kvm or instead):
        words.append('no_timer_check')
    if append:
        words.append(append)
    line = ' '.join(words)
    if not line.isprintable() or len(line.encode()) > _LONGEST:
        raise errors.UsageError(
            "the kernel's command line is too long, or has characters that "
            'cannot be printed',
            hint=f'the whole may have {_LONGEST} bytes: look at --append and '
            'at the os_command_line of the image',
        )
    return line


def arguments(machine: Machine, channels: Channels) -> tuple[str, ...]:
    """Make the command line that runs a machine.

    :raises UsageError: if the kernel's command line is impossible.
    """
    emulated = machine.emulator
    accel = 'kvm' if machine.kvm else 'tcg'
    found = [
        emulated.program,
        '-name', 'amiclient',
        '-machine', f'{emulated.machine},accel={accel}',
        '-cpu', 'host' if machine.kvm else 'max',
        '-m', f'{-(-machine.memory // MIB)}M',
        '-smp', str(machine.cpus),
        '-uuid', machine.uuid,
        '-smbios', _smbios(machine.uuid),
        '-no-user-config',
        '-nodefaults',
        '-display', 'none',
        *emulated.video,
        # A guest that wants to restart has ended.
        '-no-reboot',
        '-boot', 'strict=on',
        '-rtc', 'base=utc',
        '-kernel', str(machine.kernel),
        '-append',
        command_line(
            kvm=machine.kvm,
            append=machine.append,
            instead=machine.command_line,
        ),
    ]  # fmt: skip
    if machine.ramdisk is not None:
        found += ['-initrd', str(machine.ramdisk)]
    found += _disks(machine) + _network() + _channels(channels)
    # QEMU's own source of random numbers, which needs no device to open.
    return (
        *found,
        '-device', 'virtio-balloon-pci',
        '-object', 'rng-builtin,id=rng0',
        '-device', 'virtio-rng-pci,rng=rng0',
        '-device', 'vmcoreinfo',
    )  # fmt: skip


def _smbios(uuid: str) -> str:
    # A comma within a value would be two.
    values = {
        'type': '1',
        'manufacturer': 'OpenStack Foundation',
        'product': 'OpenStack Nova',
        'serial': uuid,
        'uuid': uuid,
        'family': 'Virtual Machine',
    }
    return ','.join(f'{name}={value}' for name, value in values.items())


def _disks(machine: Machine) -> list[str]:
    # Nobody needs it after a crash of the host.
    cache = {'direct': False, 'no-flush': True}
    return [
        *_node('root-file', 'file', filename=str(machine.disk), cache=cache),
        *_node('root', 'qcow2', file='root-file', cache=cache),
        '-device', 'virtio-blk-pci,drive=root,id=virtio-disk0,bootindex=1',
        *_node('seed-file', 'file', filename=str(machine.seed), ro=True),
        *_node('seed', 'raw', file='seed-file', ro=True),
        '-device', 'virtio-blk-pci,drive=seed,id=virtio-disk1',
    ]  # fmt: skip


def _node(
    name: str, driver: str, *, ro: bool = False, **rest: Any
) -> list[str]:
    # As JSON, for file names may have commas in them.
    node = {'node-name': name, 'driver': driver, **rest}
    if ro:
        node['read-only'] = True
    return ['-blockdev', json.dumps(node)]


def _network() -> list[str]:
    # The guest gets an address, and reaches nobody.
    return [
        '-netdev', 'user,id=net0,restrict=on',
        '-device',
        'virtio-net-pci,netdev=net0,mac=fa:16:3e:00:00:01,romfile=',
    ]  # fmt: skip


def _channels(channels: Channels) -> list[str]:
    return [
        '-chardev', f'socket,id=serial0,fd={channels.serial}',
        '-serial', 'chardev:serial0',
        '-device', 'virtio-serial-pci',
        '-chardev', f'socket,id=virtual0,fd={channels.virtual}',
        '-device', 'virtconsole,chardev=virtual0',
        '-chardev', f'socket,id=control0,fd={channels.control}',
        '-mon', 'chardev=control0,mode=control',
    ]  # fmt: skip


#: Bytes of a disk come in sectors.
SECTOR = 512

#: Bytes of a disk that the qcow2 format has room for: 32 MiB of a table, each
#: 8 bytes of which stand for 512 MiB (QEMU, block/qcow2.h).
LARGEST = 2 << 50

#: Where superblocks end; what is read at a time.
_BLOCK = 4096


def make_disk(source: pathlib.Path, target: pathlib.Path, size: int) -> None:
    """Make a disk that is like a file or device, until it is written to.

    :param target: the qcow2 file to make.
    :param size: of the disk, in bytes, rounded up.
    :raises ProgramError: if qemu-img is missing, or fails.
    """
    # Absolute, for qemu-img takes what is before a colon for a protocol, and
    # the path of the backing file to be relative to the target.
    room = str(-(-size // SECTOR) * SECTOR)
    process.run(
        [
            'qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw',
            '-b', source.absolute(), target, room,
        ],
        access=confinement.Access(reads=(source,), writes=(target,)),
    )  # fmt: skip


def superblock_of(
    disk: pathlib.Path, source: pathlib.Path, directory: pathlib.Path
) -> superblock.Superblock | None:
    """Read the superblock of the filesystem on a disk that is not in use.

    :param source: what it was like before.
    :param directory: where to put what is temporary.
    :returns: None if the guest destroyed it.
    :raises ProgramError: if qemu-img fails.
    """
    piece = directory / 'superblock'
    process.run(
        [
            'qemu-img', 'dd', '-f', 'qcow2', '-O', 'raw', f'bs={_BLOCK}',
            'count=1', f'if={disk}', f'of={piece}',
        ],
        access=confinement.Access(reads=(disk, source), writes=(piece,)),
    )  # fmt: skip
    return _read(piece)


def replayed(
    disk: pathlib.Path, source: pathlib.Path, directory: pathlib.Path
) -> superblock.Superblock | None:
    """Read the superblock as it is once the journal is replayed.

    That takes a copy of what is in use. See :func:`superblock_of`.
    """
    copy = directory / 'copy.img'
    process.run(
        ['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', disk, copy],
        access=confinement.Access(reads=(disk, source), writes=(copy,)),
    )
    try:
        # Whatever is left to mend is none of our business.
        process.run(
            ['e2fsck', '-p', '-E', 'journal_only', copy],
            access=confinement.Access(writes=(copy,), mounts=True),
            ok=range(9),
        )
        return _read(copy)
    finally:
        copy.unlink()


def _read(path: pathlib.Path) -> superblock.Superblock | None:
    try:
        return superblock.read(path)
    except (superblock.NotExtError, errors.DamagedError):
        return None


_LABEL = 'config-2'
_SIZE = '1M'

_NAME = 'amiclient-boot'


def make_seed(directory: pathlib.Path, uuid: str) -> pathlib.Path:
    """Make a configuration drive.

    :param directory: where; what it is made of is left there as well.
    :param uuid: of the server.
    :raises ProgramError: if mke2fs is missing, or fails.
    """
    tree = directory / 'seed'
    latest = tree / 'openstack' / 'latest'
    latest.mkdir(parents=True)
    for name, content in _contents(uuid).items():
        (latest / name).write_text(json.dumps(content))
    path = directory / 'seed.img'
    process.run(
        [
            'mke2fs', '-q', '-F', '-t', 'ext4', '-O', '^has_journal',
            '-b', '1024', '-L', _LABEL, '-E', 'root_owner=0:0', '-d', tree,
            path, _SIZE,
        ],
        access=confinement.Access(reads=(tree,), writes=(path,), mounts=True),
    )  # fmt: skip
    return path


def _contents(uuid: str) -> dict[str, object]:
    return {
        'meta_data.json': {
            'uuid': uuid,
            'name': _NAME,
            'hostname': _NAME,
            'launch_index': 0,
            'availability_zone': 'nova',
            'meta': {},
        },
        'vendor_data.json': {},
    }
