# SPDX-License-Identifier: Apache-2.0

"""A small guest that really boots, in a few seconds, without KVM.

Its kernel is the one for clouds that the distribution has (bindep.txt); the
initramfs is made of that kernel's modules and busybox; the root filesystem
holds busybox, and resize2fs to grow itself when it boots, as cloud-init and
systemd would have it done. The same input gives the same bytes.
"""

import atexit
from collections.abc import Iterable, Mapping
import dataclasses
import functools
import os
import pathlib
import platform
import re
import shutil
import stat
import struct
import tempfile

from amiclient import errors
from amiclient import process
from amiclient.source import build
from amiclient.tests.unit.rootfs import samples

#: Modules that the initramfs loads, with what they need. What is built into
#: the kernel is left out.
MODULES = ('virtio_pci', 'virtio_blk', 'virtio_console', 'ext4')

#: What an emulated processor need not do: ciphers that test themselves, guards
#: against what only a real one does, modules that confine nobody here.
TIMESAVING = 'cryptomgr.notests mitigations=off lsm=none nokaslr'

#: For a kernel whose messages nobody reads, either.
QUIET = f'quiet {TIMESAVING}'

_KERNELS = pathlib.Path('/boot')
_MODULES = pathlib.Path('/lib/modules')
#: How a kernel may be packed, and what unpacks that.
_PACKERS = {
    b'\x1f\x8b': 'gzip',
    b'\xfd7zXZ': 'xz',
    b'\x02\x21\x4c\x18': 'lz4',
    b'\x28\xb5\x2f\xfd': 'zstd',
}
_LIBRARY = re.compile(r'(/\S+) \(0x')

#: What the root filesystem is called, in /etc/os-release.
RELEASE = 'ID=amiclient-guest\nVERSION_ID="1"\nPRETTY_NAME="A small guest"\n'

#: The initramfs's first program. It does what Debian's does: load drivers,
#: wait for the root device that the kernel was told, mount it, and go on
#: there; with no such device, or no init, say so in the same words and give a
#: shell. Like that, it does so on /dev/console as the kernel opened it, before
#: there was a driver for the virtio console: that is the screen.
_INIT = """\
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
modprobe -a $(cat /modules)
for word in $(cat /proc/cmdline); do
    case $word in
    root=*) root=${word#root=} ;;
    ro) options="-o ro" ;;
    esac
done
tries=0
until [ -b "$root" ] || [ $tries -ge 20 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
if ! mount -t ext4 $options "$root" /root; then
    echo "Gave up waiting for root file system device.  Common problems:"
    echo " - Boot args (cat /proc/cmdline)"
    echo " - Missing modules (cat /proc/modules; ls /dev)"
    echo "ALERT!  $root does not exist.  Dropping to a shell!"
    PS1='(initramfs) ' exec sh -i
fi
# A link may lead to what is only there once that is the root.
if [ ! -x /root/sbin/init ] && [ ! -L /root/sbin/init ]; then
    echo "run-init: /sbin/init: No such file or directory"
    echo "Target filesystem doesn't have requested /sbin/init."
    for init in /sbin/init /etc/init /bin/init; do
        echo "run-init: $init: No such file or directory"
    done
    exec chroot /root sh -i
fi
mount --move /dev /root/dev
mount --move /proc /root/proc
mount --move /sys /root/sys
exec switch_root /root /sbin/init
"""

#: The first program of the root filesystem.
_ROOT_INIT = """\
#!/bin/sh
# /dev/console is what the kernel was told last, which may not be there.
exec >/dev/ttyS0 2>&1 </dev/ttyS0
export PATH=/bin:/sbin
cat /etc/os-release
cat /proc/cmdline
resize2fs /dev/vda
for device in /dev/vd[b-z]; do
    if [ -b "$device" ]; then
        mount -t ext4 -o ro "$device" /mnt && cat /mnt/openstack/latest/*
    fi
done
while true; do
    printf '\\nguest login: '
    read -r command || sleep 1
    eval "$command"
done
"""


class NotInstalledError(Exception):
    """What the guest is made of is not there."""


@dataclasses.dataclass(frozen=True)
class Guest:
    """The files of a guest."""

    root: pathlib.Path
    kernel: pathlib.Path
    ramdisk: pathlib.Path


def make(
    directory: pathlib.Path,
    *,
    size: int = 24 * 2**20,
    modules: Iterable[str] = MODULES,
    files: Mapping[str, str] | None = None,
    packed: bool = True,
) -> Guest:
    """Make a guest that boots to ``guest login:``, and grows itself.

    At that prompt, a line is a shell command; ``poweroff -f`` is one.

    :param directory: where to make its three files; the kernel is a link.
    :param size: of the root filesystem, in bytes.
    :param modules: what the initramfs loads.
    :param files: text files for the root filesystem, by their names; they
        are executable, and may take the place of ``sbin/init``.
    :param packed: false for a kernel that does not unpack itself first, which
        is a third of what an emulator has to do. Nobody tells that one of a
        screen.
    :raises NotInstalledError: if a package is missing; it says which.
    """
    source = kernel()
    link = directory / 'vmlinuz'
    link.symlink_to(source if packed else _unpacked(source))
    initramfs = directory / 'initrd.img'
    release = source.name.removeprefix('vmlinuz-')
    initramfs.write_bytes(ramdisk(release, modules))
    return Guest(root(directory, size=size, files=files), link, initramfs)


def kernel() -> pathlib.Path:
    """Find a kernel that is installed here: if there is one, for clouds.

    :raises NotInstalledError: if there is none.
    """
    found = [
        path
        for path in sorted(_KERNELS.glob('vmlinuz-*'))
        if (_MODULES / path.name.removeprefix('vmlinuz-')).is_dir()
    ]
    found.sort(key=lambda path: '-cloud-' in path.name)
    if not found:
        machine = {'x86_64': 'amd64', 'aarch64': 'arm64'}
        name = machine.get(platform.machine(), platform.machine())
        raise NotInstalledError(
            f'there is no kernel: install linux-image-cloud-{name}'
        )
    return found[-1]


@functools.cache
def _unpacked(packed: pathlib.Path) -> pathlib.Path:
    """Unpack what is in a bzImage, if that can be done here.

    Source: the kernel's Documentation/arch/x86/boot.rst.
    """
    image = packed.read_bytes()
    start, size = struct.unpack_from('<II', image, 0x248)
    start += 512 * (image[0x1F1] + 1)
    data = image[start : start + size]
    for magic, program in _PACKERS.items():
        if image[0x202:0x206] == b'HdrS' and data.startswith(magic):
            # The size of what was packed comes last.
            argv, ok = [program, '-dc'], range(3)
            unpacked = process.run(argv, input=data, ok=ok, access=None)
            directory = tempfile.mkdtemp(prefix='amiclient-kernel-')
            atexit.register(shutil.rmtree, directory, ignore_errors=True)
            path = pathlib.Path(directory, 'vmlinux')
            path.write_bytes(unpacked.stdout)
            return path
    return packed


def idle(directory: pathlib.Path) -> pathlib.Path:
    """Make a kernel that writes a full stop to ttyS0, and then waits."""
    image = bytearray(samples.bzimage())
    # mov dx, 0x3f8; mov al, '.'; out dx, al; hlt; jmp to the hlt
    code = b'\xba\xf8\x03\xb0.\xee\xf4\xeb\xfd'
    image[0x26C : 0x26C + len(code)] = code
    # How far up a ramdisk may be.
    struct.pack_into('<I', image, 0x22C, 0x37FFFFFF)
    path = directory / 'idle'
    path.write_bytes(image)
    return path


def root(
    directory: pathlib.Path,
    *,
    size: int = 24 * 2**20,
    files: Mapping[str, str] | None = None,
) -> pathlib.Path:
    """Make the root filesystem alone. See :func:`make`."""
    tree = directory / 'tree'
    for name in ('dev', 'proc', 'sys', 'mnt', 'tmp', 'etc'):
        (tree / name).mkdir(parents=True)
    contents = {
        **_programs('busybox', 'resize2fs'),
        'sbin/init': _ROOT_INIT.encode(),
        'etc/os-release': RELEASE.encode(),
        **{name: text.encode() for name, text in (files or {}).items()},
    }
    for name, data in contents.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        path.chmod(0o755)
    for applet in _applets():
        (tree / 'bin' / applet).symlink_to('busybox')
    # As it is there once it was moved to its place.
    (tree / 'etc' / 'mtab').symlink_to('/proc/mounts')
    for path in (tree, *tree.rglob('*')):
        os.utime(path, (0, 0), follow_symlinks=False)
    path = directory / 'root.img'
    build.execute(
        build.plan(
            build.BuildRequest(
                source=tree, output=path, size=size, owner=(0, 0)
            )
        )
    )
    shutil.rmtree(tree)
    return path


def ramdisk(release: str, modules: Iterable[str] = MODULES) -> bytes:
    """Make an initramfs, that is a cpio archive.

    :param release: of the kernel, as ``uname -r`` says.
    :param modules: what it loads.
    """
    found = _modules(release, modules)
    place = f'lib/modules/{release}'
    contents = {
        **_programs('busybox'),
        **{f'{place}/{name}.ko': data for name, data in found.items()},
        # One program loads all of them, in this order.
        f'{place}/modules.dep': ''.join(f'{n}.ko:\n' for n in found).encode(),
        'modules': '\n'.join(found).encode(),
        'init': _INIT.encode(),
    }
    links = {f'bin/{applet}': b'busybox' for applet in _applets()}
    directories = {'dev', 'proc', 'sys', 'root'}
    for name in contents:
        parents = pathlib.PurePath(name).parents
        directories.update(str(path) for path in parents if path.name)
    return cpio(
        [
            *(
                (name, stat.S_IFDIR | 0o755, b'')
                for name in sorted(directories)
            ),
            *(
                (n, stat.S_IFREG | 0o755, d)
                for n, d in sorted(contents.items())
            ),
            *((n, stat.S_IFLNK | 0o777, d) for n, d in sorted(links.items())),
        ]
    )


def cpio(members: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Make a cpio archive in the "newc" format.

    Source: the kernel's Documentation/driver-api/early-userspace/
    buffer-format.rst.

    :param members: name, mode and content of each.
    """
    archive = bytearray()
    ending = ('TRAILER!!!', 0, b'')
    for number, (name, mode, data) in enumerate((*members, ending), 1):
        encoded = name.encode() + b'\0'
        fields = (
            number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0,
        )  # fmt: skip
        archive += b'070701' + b''.join(b'%08X' % field for field in fields)
        archive += encoded
        archive += bytes(-len(archive) % 4)
        archive += data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _applets() -> list[str]:
    names = process.run(['busybox', '--list'], access=None).text.split()
    return [name for name in names if name != 'busybox']


def _programs(*names: str) -> dict[str, bytes]:
    """Read programs and the libraries that they load, by their names."""
    found = {}
    for name in names:
        try:
            path = process.find(name)
        except errors.ProgramError as error:
            raise NotInstalledError(str(error)) from error
        found[f'bin/{name}'] = pathlib.Path(path).read_bytes()
        # A static one has none, which ldd takes for a failure.
        loaded = process.run(['ldd', path], ok=(0, 1), access=None).text
        for library in _LIBRARY.findall(loaded):
            found[library.lstrip('/')] = pathlib.Path(library).read_bytes()
    return found


def _modules(release: str, names: Iterable[str]) -> dict[str, bytes]:
    """Read modules by their names, each after those that it needs."""
    found = {}
    for name in names:
        told = process.run(
            ['modprobe', '--show-depends', '--set-version', release, name],
            access=None,
        )
        for line in told.text.splitlines():
            if line.startswith('insmod '):
                path = pathlib.Path(line.split()[1])
                file, _, packed = path.name.partition('.ko')
                data = path.read_bytes()
                if packed:
                    # Not every insmod can unpack it.
                    program = {'.xz': 'xz', '.zst': 'zstd'}[packed]
                    data = process.run(
                        [program, '-dc'], input=data, access=None
                    ).stdout
                found[file] = data
    return found
