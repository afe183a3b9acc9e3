# SPDX-License-Identifier: Apache-2.0

"""What images of vendors have in common, and what is told of them."""

from collections.abc import Mapping
import dataclasses
import gzip
import pathlib
import uuid

from amiclient.tests.disks import userland
from amiclient.tests.unit.rootfs import samples

#: The serial number of a FAT filesystem. Other filesystems have UUIDs of their
#: own: Linux does not mount two with the same at one time.
EFI = '7B77-95E7'

_MACHINE_ID = 'ffffffffffffffffffffffffffffffff'

#: What the ESP of a vendor has.
SHIM = {'EFI/BOOT/BOOTX64.EFI': b'MZ' + b'shim' * 9999}

#: The first words of what is told of most of them.
MERGED = 'merged into the image'
FIXED = '/etc/fstab was fixed'
OPENED = '/etc/crypttab was fixed'
KERNEL = 'kernel'


@dataclasses.dataclass(frozen=True)
class Image:
    """An image, and what must come of it.

    :param seen: what the vendor's system sees when it runs.
    :param system: the ID of its os-release.
    :param fstab: what --fix leaves of its fstab; ``{uuid}`` is that of the
        filesystem that was made.
    :param files: of the EFI system partition.
    :param merged: where filesystems are mounted.
    :param notes: what is told of it, by its first words.
    """

    path: pathlib.Path
    kernel: bytes
    ramdisk: bytes
    seen: Mapping[bytes, userland.Seen]
    system: str
    fstab: str
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    merged: tuple[str, ...] = ()
    notes: tuple[str, ...] = (MERGED, FIXED, KERNEL)


def kernel(
    boot: pathlib.Path,
    release: str,
    names: tuple[str, str] = ('vmlinuz-{}', 'initramfs-{}.img'),
) -> tuple[bytes, bytes]:
    """Put a kernel and its ramdisk into a directory."""
    made = (
        samples.bzimage(release=f'{release} (mockbuild@vendor) #1'.encode()),
        samples.microcode()
        + gzip.compress(samples.initramfs(release.encode()), mtime=0),
    )
    for name, data in zip(names, made, strict=True):
        (boot / name.format(release)).write_bytes(data)
    return made


def grub(boot: pathlib.Path, name: str, text: str = '') -> None:
    (boot / name).mkdir(parents=True, exist_ok=True)
    (boot / name / 'grub.cfg').write_text(f'set timeout=1\n{text}')
    (boot / name / 'grubenv').write_bytes(b'# GRUB'.ljust(1024, b'#'))


def entries(boot: pathlib.Path, release: str, root: str, at: str = '') -> None:
    """Write what the Boot Loader Specification says, with a rescue kernel."""
    entries = boot / 'loader' / 'entries'
    entries.mkdir(parents=True)
    rescue = f'0-rescue-{_MACHINE_ID}'
    kernel(boot, rescue)
    for version, shown in ((release, release), (rescue, rescue)):
        (entries / f'{_MACHINE_ID}-{shown}.conf').write_text(
            f'title Linux ({version})\nversion {version}\n'
            f'linux {at}/vmlinuz-{version}\n'
            f'initrd {at}/initramfs-{version}.img $tuned_initrd\n'
            f'options root={root} ro console=ttyS0,115200n8 $tuned_params\n'
            'grub_users $grub_users\n'
        )


def identity() -> str:
    """Make a UUID."""
    return str(uuid.uuid4())


def xfs(uuid: str, label: str = '') -> list[str]:
    words = ['mkfs.xfs', '-q', '-f', '-m', f'uuid={uuid}']
    return [*words, '-L', label] if label else words


def ext4(uuid: str, label: str, *more: str) -> list[str]:
    words = ['mke2fs', '-q', '-F', '-t', 'ext4', '-b', '4096']
    return [*words, '-U', uuid, '-L', label, *more]
