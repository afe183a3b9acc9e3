# SPDX-License-Identifier: Apache-2.0

"""How the distribution that this runs on calls its packages.

What is not told is told as Debian calls it, or not at all.
"""

from collections.abc import Mapping
import dataclasses
import platform

#: Debian's name of the package that holds a program.
PACKAGES = {
    'debugfs': 'e2fsprogs',
    'dumpe2fs': 'e2fsprogs',
    'e2fsck': 'e2fsprogs',
    'e2image': 'e2fsprogs',
    'gpgv': 'gpgv',
    'guestfish': 'libguestfs-tools',
    'lz4': 'lz4',
    'mcopy': 'mtools',
    'mdir': 'mtools',
    'mke2fs': 'e2fsprogs',
    'qemu-img': 'qemu-utils',
    'qemu-nbd': 'qemu-utils',
    'qemu-system-aarch64': 'qemu-system-arm',
    'qemu-system-x86_64': 'qemu-system-x86',
    'resize2fs': 'e2fsprogs',
    'setpriv': 'util-linux',
    'sqfs2tar': 'squashfs-tools-ng',
    'supermin': 'supermin',
    'tune2fs': 'e2fsprogs',
    'zstd': 'zstd',
}


@dataclasses.dataclass(frozen=True)
class Distribution:
    """A distribution, and those that are like it.

    :param install: the command that installs packages.
    :param names: what others than Debian call a package of Debian's, or that
        of one program; None where they have none.
    """

    install: str
    names: Mapping[str, str | None]

    def package(self, program: str) -> str | None:
        """Name the package that holds a program; None if there is none."""
        package = PACKAGES[program]
        return self.names.get(program, self.names.get(package, package))


_FEDORA = {
    'gpgv': 'gnupg2',
    'libguestfs-tools': 'guestfs-tools',
    'qemu-utils': 'qemu-img',
}

#: By the ID in os-release(5) of the one that the others are like.
KNOWN = {
    'debian': Distribution('apt install', {}),
    # Before Fedora, which it is like.
    'rhel': Distribution(
        'dnf install',
        {
            **_FEDORA,
            # There is qemu-kvm, of another name and in another place.
            'qemu-system-arm': None,
            'qemu-system-x86': None,
            'squashfs-tools-ng': None,
        },
    ),
    'fedora': Distribution(
        'dnf install', {**_FEDORA, 'qemu-system-arm': 'qemu-system-aarch64'}
    ),
    'suse': Distribution(
        'zypper install',
        {
            'gpgv': 'gpg2',
            'libguestfs-tools': 'libguestfs',
            'qemu-system-arm': 'qemu-arm',
            'qemu-system-x86': 'qemu-x86',
            'qemu-utils': 'qemu-tools',
            'squashfs-tools-ng': None,
        },
    ),
    'alpine': Distribution(
        'apk add',
        {
            'debugfs': 'e2fsprogs-extra',
            'dumpe2fs': 'e2fsprogs-extra',
            'e2image': 'e2fsprogs-extra',
            'libguestfs-tools': None,
            'qemu-system-arm': 'qemu-system-aarch64',
            'qemu-system-x86': 'qemu-system-x86_64',
            'qemu-utils': 'qemu-img',
            'resize2fs': 'e2fsprogs-extra',
            'supermin': None,
            'tune2fs': 'e2fsprogs-extra',
            'util-linux': 'setpriv',
        },
    ),
    'arch': Distribution(
        'pacman -S',
        {
            'gpgv': 'gnupg',
            'libguestfs-tools': 'libguestfs',
            'qemu-system-arm': 'qemu-system-aarch64',
            'qemu-utils': 'qemu-img',
            # The users' own repository has it.
            'squashfs-tools-ng': None,
        },
    ),
}


def here() -> Distribution | None:
    """Tell which distribution this is like; None if it is like none.

    Source: os-release(5): ID_LIKE names the closest one first.
    """
    try:
        release = platform.freedesktop_os_release()
    except (OSError, UnicodeDecodeError):
        return None
    alike = {*release.get('ID_LIKE', '').split(), release.get('ID')}
    return next((KNOWN[name] for name in KNOWN if name in alike), None)


def remedy(program: str) -> str | None:
    """Say how to install a program; None if nobody knows.

    :param program: its name, without a directory.
    """
    debian = PACKAGES.get(program)
    if debian is None:
        return None
    distribution = here()
    if distribution is None:
        return f'install the package {debian}, or what is called so in Debian'
    package = distribution.package(program)
    if package is None:
        return (
            'this distribution has no package of it: use another one, or a '
            'container'
        )
    return f'install the package {package} ({distribution.install} {package})'
