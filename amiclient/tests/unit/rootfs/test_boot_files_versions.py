# SPDX-License-Identifier: Apache-2.0


from amiclient.rootfs import boot_files
from amiclient.tests import base


class TestVersions(base.TestCase):
    def test_order(self) -> None:
        """Every list is in ascending order, as the distributions have it."""
        for order in (
            # Debian and Ubuntu
            ('4.19.0-27-amd64', '5.10.0-9-amd64', '5.10.0-26-amd64',
             '6.1.0-13-amd64', '6.1.0-13-cloud-amd64',
             '6.12.9+bpo-amd64', '6.12.48+deb13-amd64'),
            ('5.15.0-9-generic', '5.15.0-88-generic', '5.15.0-101-generic'),
            # Fedora and RHEL
            ('4.18.0-513.5.1.el8_9.x86_64', '5.14.0-70.el9.x86_64',
             '5.14.0-362.8.1.el9_3.x86_64', '6.5.6-300.fc39.x86_64'),
            ('6.6.0-0.rc5.20231013git.39.fc40.x86_64',
             '6.6.0-61.fc40.x86_64'),
            # SUSE, Arch, Alpine, Gentoo
            ('5.14.21-150500.55.7-default', '6.4.0-150600.21-default'),
            ('6.5.9-arch2-1', '6.6-arch1-1', '6.6.1-arch1-1'),
            ('6.6.7-0-virt', '6.6.14-0-virt'),
            ('6.1.9-gentoo', '6.1.57-gentoo', '6.1.57-gentoo-r1'),
            # kernel.org
            ('6.6.0-rc1', '6.6.0-rc2', '6.6.0-rc10', '6.6.0', '6.6.1'),
            ('6.6-rc1', '6.6', '6.6.1', '6.10'),
            # Debian's rules
            ('1.0~beta', '1.0', '1.0+b1', '1.0.1'),
            ('linux', 'virt', '2.6.32'),
        ):  # fmt: skip
            keys = [boot_files.version_key(version) for version in order]
            for i in range(len(keys) - 1):
                self.assertLess(keys[i], keys[i + 1], order[i : i + 2])

    def test_same(self) -> None:
        for one, other in (
            ('6.1.0', '6.1.0'), ('6.01.0', '6.1.0'), ('', ''),
        ):  # fmt: skip
            self.assertEqual(0, boot_files.compare_versions(one, other))

    def test_huge_numbers(self) -> None:
        many = '9' * 40_000
        self.assertLess(boot_files.compare_versions('1', many), 0)
        self.assertGreater(boot_files.compare_versions(f'1{many}', many), 0)
