# SPDX-License-Identifier: Apache-2.0

"""Hints name the package of the distribution at hand, and its command."""

import pathlib
import platform
from unittest import mock

import amiclient
from amiclient import distribution
from amiclient import process
from amiclient.tests import base

#: What is said on each: by the fields of its os-release, what of guestfish, of
#: qemu-nbd, of resize2fs and of sqfs2tar.
_SAYS = {
    'ID=debian': (
        'apt install libguestfs-tools',
        'apt install qemu-utils',
        'apt install e2fsprogs',
        'apt install squashfs-tools-ng',
    ),
    'ID=linuxmint ID_LIKE=ubuntu,debian': (
        'apt install libguestfs-tools',
        'apt install qemu-utils',
        'apt install e2fsprogs',
        'apt install squashfs-tools-ng',
    ),
    'ID=fedora': (
        'dnf install guestfs-tools',
        'dnf install qemu-img',
        'dnf install e2fsprogs',
        'dnf install squashfs-tools-ng',
    ),
    'ID=rocky ID_LIKE=rhel,centos,fedora': (
        'dnf install guestfs-tools',
        'dnf install qemu-img',
        'dnf install e2fsprogs',
        'no package',
    ),
    'ID=opensuse-leap ID_LIKE=suse,opensuse': (
        'zypper install libguestfs',
        'zypper install qemu-tools',
        'zypper install e2fsprogs',
        'no package',
    ),
    'ID=alpine': (
        'no package',
        'apk add qemu-img',
        'apk add e2fsprogs-extra',
        'apk add squashfs-tools-ng',
    ),
    'ID=manjaro ID_LIKE=arch': (
        'pacman -S libguestfs',
        'pacman -S qemu-img',
        'pacman -S e2fsprogs',
        'no package',
    ),
    'ID=gentoo': (
        'libguestfs-tools, or what is called so in Debian',
        'qemu-utils, or what is called so in Debian',
        'e2fsprogs, or what is called so in Debian',
        'squashfs-tools-ng, or what is called so in Debian',
    ),
}
_PROGRAMS = ('guestfish', 'qemu-nbd', 'resize2fs', 'sqfs2tar')

#: The columns of the table in the page of installation.
_COLUMNS = ('debian', 'fedora', 'rhel', 'suse')


class TestDistribution(base.TestCase):
    def on(self, release: dict[str, str] | Exception) -> None:
        how = (
            {'side_effect': release}
            if isinstance(release, Exception)
            else {'return_value': release}
        )
        patched = mock.patch.object(platform, 'freedesktop_os_release', **how)
        patched.start()
        self.addCleanup(patched.stop)

    def test_package_and_command(self) -> None:
        for release, says in _SAYS.items():
            self.on(
                {
                    name: value.replace(',', ' ')
                    for name, value in (
                        each.split('=') for each in release.split()
                    )
                }
            )
            for program, words in zip(_PROGRAMS, says, strict=True):
                self.assertIn(
                    words, distribution.remedy(program) or '', release
                )

    def test_hint(self) -> None:
        """Whoever needs the program gets this."""
        self.on({'ID': 'fedora'})
        self.patch(process, '_SBIN', ())
        self.patch(process.os, 'environ', {'PATH': '/'})
        error = self.assertRaises(
            process.errors.ProgramError, process.find, 'qemu-nbd'
        )
        self.assertEqual(
            'qemu-nbd was not found; install the package qemu-img (dnf '
            'install qemu-img)',
            str(error),
        )

    def test_nothing_is_known(self) -> None:
        """Neither of the distribution, nor of the program."""
        self.on(OSError('there is none'))
        self.assertEqual(
            'install the package zstd, or what is called so in Debian',
            distribution.remedy('zstd'),
        )
        self.assertIsNone(distribution.remedy('no-such-program'))

    def test_page(self) -> None:
        """The page of installation has the same names."""
        page = (
            pathlib.Path(amiclient.__file__).parent.parent
            / 'doc/source/install/index.rst'
        )
        if not page.exists():
            self.skipTest('this is not the repository')
        _, _, rest = page.read_text().partition('.. packages\n')
        rows = [
            [cell.strip('- \n').replace('\\', '') for cell in row.split('\n')]
            for row in rest.partition('\nAn empty')[0].split('   * ')[2:]
        ]
        told = {}
        for programs, *names in rows:
            for program in programs.replace('`', '').split(', '):
                told[program] = tuple(n or None for n in names[:4])
        self.assertEqual(
            {
                program: tuple(
                    distribution.KNOWN[each].package(program)
                    for each in _COLUMNS
                )
                for program in distribution.PACKAGES
            },
            told,
        )
