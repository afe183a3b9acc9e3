# SPDX-License-Identifier: Apache-2.0


from amiclient.tests.unit.rootfs import checks
from amiclient.tests.unit.rootfs import images


class TestTraces(checks.CheckCase):
    def found(
        self, rule: str, files: images.Files, words: str,
        severity: str = 'warning',
    ) -> str:  # fmt: skip
        found = self.check(files)
        self.assertFound(rule, severity, words, found)
        return found[rule].remedy or ''

    def test_machine_id(self) -> None:
        for path in ('etc/machine-id', 'var/lib/dbus/machine-id'):
            self.found(
                'machine-id', {path: b'0123456789abcdef' * 2 + b'\n'}, path
            )

    def test_machine_id_that_is_none(self) -> None:
        found = self.check(
            {
                'etc/machine-id': b'uninitialized\n',
                'var/lib/dbus/machine-id': images.Link('/etc/machine-id'),
            }
        )
        self.assertEqual({}, found)

    def test_host_keys(self) -> None:
        self.found(
            'ssh-host-keys',
            {
                'etc/ssh/ssh_host_rsa_key': b'-----BEGIN',
                'etc/ssh/ssh_host_rsa_key.pub': b'ssh-rsa',
            },
            'ssh_host_rsa_key',
        )

    def test_histories(self) -> None:
        remedy = self.found(
            'history',
            {
                'root/.bash_history': b'mysql -psecret\n',
                "home/it's me/.zsh_history": b'x\n',
                'home/user/.bash_history': b'',
            },
            '/root/.bash_history',
        )
        self.assertEqual(
            "rm /root/.bash_history '/home/it'\"'\"'s me/.zsh_history'",
            remedy,
        )

    def test_cloud_init_data(self) -> None:
        for files in (
            {'var/lib/cloud/instances/i-1/user-data.txt': b'secret'},
            {'var/lib/cloud/instance': images.Link('instances/i-1')},
        ):
            self.found('cloud-init-data', files, 'user data')

    def test_leases(self) -> None:
        for path in (
            'var/lib/dhcp/dhclient.eth0.leases',
            'var/lib/dhclient/dhclient.leases',
            'var/lib/NetworkManager/internal-1-eth0.lease',
        ):
            self.found('dhcp-leases', {path: b'lease {}\n'}, path)

    def test_net_rules(self) -> None:
        path = 'etc/udev/rules.d/70-persistent-net.rules'
        self.found(
            'udev-net-rules',
            {path: b'# x\nATTR{address}=="52:54:00:00:00:01", NAME="eth0"\n'},
            'eth1',
        )

    def test_password(self) -> None:
        for path, line in (
            ('etc/shadow', b'root:$6$salt$hash:19000:0:99999:7:::\n'),
            ('etc/passwd', b'root:abcdefghijklm:0:0:root:/root:/bin/sh\n'),
        ):
            self.found('root-password', {path: line}, path)

    def test_no_password(self) -> None:
        self.found(
            'root-password', {'etc/shadow': b'root::19000:0:99999:7:::\n'},
            'without any', 'error',
        )  # fmt: skip

    def test_locked(self) -> None:
        for hashed in (b'!', b'!!', b'*', b'!$6$x$y', b'*LK*'):
            found = self.check({'etc/shadow': b'root:' + hashed + b':1::\n'})
            self.assertEqual({}, found, hashed)

    def test_links_do_not_lead_out(self) -> None:
        """What is outside of the image is not looked at."""
        outside = self.tmp() / 'history'
        outside.write_bytes(b'secret\n')
        found = self.check(
            {
                'root/.bash_history': images.Link(str(outside)),
                'etc/ssh/ssh_host_rsa_key': images.Link(str(outside)),
            }
        )
        self.assertEqual({}, found)

    def test_owners(self) -> None:
        found = self.check(
            edit=('sif /etc/passwd uid 1000', 'sif /usr/bin uid 1000')
        )
        self.assertFound('owners', 'error', '/usr/bin, /etc/passwd', found)
        self.assertIn('user 1000', found['owners'].message)
        # What belongs to a user is no business of it.
        self.assertEqual({}, self.check(edit=('sif /home/user uid 1000',)))

    def test_not_setuid(self) -> None:
        files = {'usr/bin/sudo': checks.PROGRAM}
        self.found('not-setuid', files, '/usr/bin/sudo is not')
        found = self.check(files, edit=('sif /usr/bin/sudo mode 0104755',))
        self.assertEqual({}, found)
        files = {
            'usr/bin/busybox': checks.PROGRAM,
            'usr/bin/su': images.Link('busybox'),
        }
        self.assertEqual({}, self.check(files))

    def test_left_by_containers(self) -> None:
        remedy = self.found(
            'container', {'.dockerenv': b''}, 'no login', 'error'
        )
        self.assertEqual('rm /.dockerenv', remedy)
        self.found('container', {'run/.containerenv': b''}, '/run/')
