# SPDX-License-Identifier: Apache-2.0


from amiclient.tests.unit.rootfs import checks
from amiclient.tests.unit.rootfs import images

_CONFIG = 'etc/cloud/cloud.cfg'
_MORE = 'etc/cloud/cloud.cfg.d'
_IDENTIFY = 'etc/cloud/ds-identify.cfg'

_GROWS = {'etc/fstab': b'LABEL=sound / ext4 x-systemd.growfs 0 1\n'}


class TestCloudInit(checks.CheckCase):
    def test_none(self) -> None:
        found = self.check(_GROWS, without=('usr/bin/cloud',))
        self.assertFound('no-cloud-init', 'warning', 'no SSH key', found)

    def test_nothing_grows_without_it(self) -> None:
        found = self.check(without=('usr/bin/cloud',))
        self.assertEqual({'no-cloud-init', 'no-growth'}, {*found})
        self.assertEqual('warning', found['no-growth'].severity)

    def test_others_in_its_stead(self) -> None:
        found = self.check(
            {**_GROWS, 'usr/bin/ignition': checks.PROGRAM},
            without=('usr/bin/cloud',),
        )
        self.assertEqual({}, found)

    def test_others_that_grow_it_too(self) -> None:
        for name in ('usr/sbin/tiny-cloud', 'usr/sbin/cirros-ds'):
            found = self.check(
                {name: checks.PROGRAM}, without=('usr/bin/cloud',)
            )
            self.assertEqual({}, found)

    def test_switched_off(self) -> None:
        found = self.check({**_GROWS, 'etc/cloud/cloud-init.disabled': b''})
        self.assertFound('no-cloud-init', 'warning', 'disabled', found)


class TestDatasource(checks.CheckCase):
    def found(self, files: images.Files, words: str) -> None:
        self.assertFound('no-datasource', 'warning', words, self.check(files))

    def test_of_other_clouds(self) -> None:
        self.found(
            {f'{_MORE}/99-x.cfg': b'datasource_list: [Azure, GCE]\n'}, 'Azure'
        )

    def test_what_is_read_later_counts(self) -> None:
        found = self.check(
            {
                f'{_MORE}/10-x.cfg': b'datasource_list: [Azure]\n',
                f'{_MORE}/95-y.cfg': b'datasource_list: [OpenStack]\n',
                f'{_MORE}/99-z.disabled': b'datasource_list: [GCE]\n',
            }
        )
        self.assertEqual({}, found)

    def test_ds_identify(self) -> None:
        self.found({_IDENTIFY: b'datasource: NoCloud\n'}, 'NoCloud')
        self.found({_IDENTIFY: b'# x\npolicy: disabled\n'}, 'disables')
        found = self.check(
            {_IDENTIFY: b'policy: search,found=first,maybe=none\n'}
        )
        self.assertEqual({}, found)

    def test_what_is_no_yaml(self) -> None:
        """Nor what is hostile: it says nothing then."""
        for content in (
            b'\xff\xfe[', b'- a\n- b\n', b'[' * 5000, b'a: !!python/none x\n',
            b'a: &a [x]\nb: [*a, *a, *a]\n', b'{' * 3000, b'? ' * 5000,
        ):  # fmt: skip
            found = self.check({f'{_MORE}/99-x.cfg': content})
            self.assertEqual({}, found, content[:20])


class TestResizing(checks.CheckCase):
    def found(self, files: images.Files) -> None:
        found = self.check(files)
        self.assertFound('resizefs-off', 'warning', 'not to grow', found)

    def test_module_left_out(self) -> None:
        self.found({_CONFIG: b'cloud_init_modules:\n - growpart\n'})

    def test_switched_off(self) -> None:
        self.found({f'{_MORE}/99-x.cfg': b'resize_rootfs: false\n'})

    def test_with_arguments_or_by_default(self) -> None:
        for content in (
            b'cloud_init_modules:\n - [resizefs, always]\n',
            b'users: [default]\n',
            b'resize_rootfs: noblock\n',
        ):
            self.assertEqual({}, self.check({_CONFIG: content}), content)

    def test_something_else_does_it(self) -> None:
        files = {**_GROWS, f'{_MORE}/99-x.cfg': b'resize_rootfs: false\n'}
        self.assertEqual({}, self.check(files))
