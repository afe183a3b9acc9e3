# SPDX-License-Identifier: Apache-2.0

"""The cloud's rules, before a byte is sent."""

import hashlib
from unittest import mock

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance.upload import plan
from amiclient.glance.upload import preflight
from amiclient.glance.upload import request
from amiclient import progress
from amiclient.tests import base
from amiclient.tests.disks import triple
from amiclient.tests.unit.glance import planning
from amiclient.tests.unit.glance import records
from amiclient.tests.unit.rootfs import samples

MIB = 1 << 20


class TestQuota(base.TestCase):
    def check(self, sizes, *, removed=0, copies=1, **usage) -> str | None:
        cloud = mock.create_autospec(client.Catalog, instance=True)
        cloud.usage.return_value = {
            name: {'usage': used, 'limit': limit}
            for name, (used, limit) in usage.items()
        }
        try:
            preflight.check_quota(
                cloud,
                sizes,
                copies=copies,
                staged=copies > 1,
                removed=removed,
            )
        except errors.CloudError as error:
            cloud.create.assert_not_called()
            return str(error)
        return None

    def test_room(self) -> None:
        self.assertIsNone(self.check([3 * MIB], image_size_total=(7, 10)))
        text = self.check([3 * MIB], image_size_total=(8, 10))
        self.assertIn(
            'image_size_total is 10 MiB: 8 are used, and this upload needs 3',
            text,
        )
        self.assertIn('ask for more quota', text)

    def test_several_stores(self) -> None:
        sizes = [2 * MIB, 3 * MIB]
        self.assertIsNone(
            self.check(sizes, copies=3, image_size_total=(1, 10))
        )
        text = self.check(sizes, copies=3, image_size_total=(2, 10))
        self.assertIn('2 are used, and this upload needs 9', text)
        text = self.check(sizes, copies=2, image_stage_total=(1, 3))
        self.assertIn('image_stage_total is 3 MiB', text)
        self.assertIsNone(self.check(sizes, image_stage_total=(1, 3)))

    def test_never_refused_for_rounding(self) -> None:
        # Glance counts whole MiB of each image.
        sizes = [MIB // 2, MIB // 2 - 1, 3 * MIB + MIB // 2]
        self.assertIsNone(self.check(sizes, image_size_total=(7, 10)))
        sizes[1] += 1
        self.assertIsNotNone(self.check(sizes, image_size_total=(7, 10)))

    def test_count(self) -> None:
        self.assertIsNone(self.check([1, 1, 1], image_count_total=(7, 10)))
        text = self.check([1, 1, 1], image_count_total=(8, 10))
        self.assertIn('8 are used, and this upload needs 3', text)
        self.assertIsNone(
            self.check([1, 1, 1], image_count_total=(8, 10), removed=1)
        )

    def test_uploads_at_a_time(self) -> None:
        self.assertIsNone(self.check([1, 1], image_count_uploading=(0, 1)))
        text = self.check([1, 1], image_count_uploading=(1, 1))
        self.assertIn('wait', text)

    def test_no_limit(self) -> None:
        self.assertIsNone(self.check([MIB], image_size_total=(7, -1)))
        self.assertIsNone(self.check([MIB]))
        self.assertIsNone(self.check([], image_size_total=(8, 7)))

    def test_other_answers(self) -> None:
        cloud = mock.create_autospec(client.Catalog, instance=True)
        cloud.usage.return_value = {
            'image_size_total': None,
            'image_count_total': {'limit': None, 'usage': 1},
        }
        preflight.check_quota(cloud, [MIB])


class TestReach(base.TestCase):
    def reach(self, record, **settings) -> bool:
        cloud = mock.create_autospec(client.Catalog, instance=True)
        cloud.member_ids.return_value = frozenset({'friend'})
        return preflight.is_out_of_reach(
            cloud, record, model.Kind.AKI, request.Settings(**settings)
        )

    def refused(self, record, **settings) -> str:
        error = self.assertRaises(
            errors.CloudError, self.reach, record, **settings
        )
        return str(error)

    def test_seen_by_all(self) -> None:
        for visibility in ('public', 'community'):
            kernel = records.kernel(visibility=visibility)
            self.assertFalse(self.reach(kernel, visibility='public'))
            self.assertFalse(self.reach(kernel, owner='other'))

    def test_less_visible(self) -> None:
        for there, wanted in (
            ('private', 'public'),
            ('shared', 'community'),
            ('private', 'shared'),
        ):
            kernel = records.kernel(visibility=there)
            text = self.refused(kernel, visibility=wanted)
            self.assertIn(f'image set --{wanted} {kernel.id}', text)
            self.assertIn('--linked', text)
            self.assertTrue(self.reach(kernel, visibility=wanted, linked=True))

    def test_nobody_asked_for_more(self) -> None:
        kernel = records.kernel(visibility='private')
        self.assertFalse(self.reach(kernel))
        self.assertFalse(self.reach(kernel, visibility='private'))

    def test_another_project(self) -> None:
        kernel = records.kernel(visibility='shared')
        text = self.refused(kernel, owner='other')
        self.assertIn(f'image add project {kernel.id} other', text)
        self.assertFalse(self.reach(kernel, owner='friend'))
        self.assertFalse(self.reach(kernel, owner=kernel.owner))


class TestPlan(planning.PlanCase):
    def refer(self, **attributes):
        self.catalog.find.side_effect = None
        self.catalog.find.return_value = records.kernel(**attributes)
        return {'kernel': 'my-kernel', 'ramdisk': None}

    def test_a_kernel_that_others_cannot_see(self) -> None:
        settings = request.Settings(visibility='public')
        changes = self.refer(visibility='private')
        text = self.refused(errors.CloudError, **changes, settings=settings)
        self.assertIn('other projects could not boot', text)
        linked = request.Settings(visibility='public', linked=True)
        made = self.plan(**changes, settings=linked)
        self.assertEqual((made.kernel,), made.widened)

    def test_a_command_line_without_a_root(self) -> None:
        for line in ('', 'console=ttyS0', 'xroot=/dev/vda'):
            traits = request.Traits(properties={'os_command_line': line})
            text = self.refused(errors.UsageError, traits=traits)
            self.assertIn('root=/dev/vda', text)
            self.assertEqual([], self.catalog.mock_calls)
            # Nova makes no use of it, then.
            self.plan(kernel=None, ramdisk=None, traits=traits)
            self.catalog.reset_mock()
        line = 'console=ttyS0 root=LABEL=x'
        self.plan(traits=request.Traits(properties={'os_command_line': line}))

    def test_a_command_line_is_completed(self) -> None:
        for line, bus, whole in (
            ('', None, "'root=/dev/vda console=tty0 console=ttyS0'"),
            ('quiet', None,
             "'root=/dev/vda console=tty0 console=ttyS0 quiet'"),
            ('console=ttyS0', None, "'root=/dev/vda console=ttyS0'"),
            ('quiet console=hvc0', 'scsi',
             "'root=/dev/sda quiet console=hvc0'"),
            ('netconsole=x', 'virtio',
             "'root=/dev/vda console=tty0 console=ttyS0 netconsole=x'"),
        ):  # fmt: skip
            properties = {'os_command_line': line}
            if bus is not None:
                properties['hw_disk_bus'] = bus
            text = self.refused(
                errors.UsageError,
                traits=request.Traits(properties=properties),
            )
            self.assertTrue(
                text.endswith(f'--property os_command_line={whole}'), text
            )

    def test_auto(self) -> None:
        made = self.plan(image_format='auto')
        self.assertEqual('ami', made.ami.new.disk_format)
        self.schema['properties']['disk_format']['enum'].remove('ami')
        made = self.plan(image_format='auto')
        self.assertEqual(
            ('raw', 'bare'),
            (made.ami.new.disk_format, made.ami.new.container_format),
        )
        self.assertIn('no ami images', made.warnings[0])

    def test_auto_with_ironic(self) -> None:
        self.catalog.endpoint.return_value = 'http://metal'
        made = self.plan(image_format='auto')
        self.assertEqual('raw', made.ami.new.disk_format)
        self.assertIn('has Ironic', made.warnings[0])
        self.catalog.endpoint.assert_called_once_with('baremetal')

    def test_a_property_that_the_schema_refuses(self) -> None:
        self.schema['properties']['os_distro'] = {
            'type': 'string',
            'enum': ['ubuntu'],
        }
        made = self.plan()
        self.assertNotIn('os_distro', made.ami.new.properties)
        self.assertIn('os_distro=debian is left out', made.warnings[0])
        traits = request.Traits(properties={'os_distro': 'debian'})
        text = self.refused(errors.CloudError, traits=traits)
        self.assertIn('one of ubuntu', text)

    def test_a_name_that_is_taken(self) -> None:
        self.catalog.named.return_value = [records.record(name='root')]
        made = self.plan()
        self.assertIn(
            "another image has the name 'root' already", made.warnings[0]
        )
        hidden = self.plan(settings=request.Settings(hidden=True))
        self.assertEqual((), hidden.warnings)

    def test_a_quota(self) -> None:
        self.catalog.usage.return_value = {
            'image_count_total': {'usage': 2, 'limit': 4}
        }
        text = self.refused(errors.CloudError)
        self.assertIn('image_count_total', text)
        # The kernel alone fits.
        self.plan(kernel=None, ramdisk=None)

    def test_the_rest_of_a_partition_table(self) -> None:
        with self.root.open('r+b') as file:
            file.seek(512)
            file.write(b'EFI PART')
        for shrink in (True, False):
            made = self.plan(shrink=shrink)
            self.assertEqual(1024, made.ami.payload.blank)
            self.assertIn('boot sector', made.warnings[0])

    def test_no_mark_where_there_are_no_further_properties(self) -> None:
        self.assertTrue(self.plan().marked)
        self.schema['additionalProperties'] = False
        for key in ('architecture', 'os_type', 'os_distro', 'os_version'):
            self.schema['properties'][key] = {'type': 'string'}
        self.assertFalse(self.plan().marked)


class TestArchitecture(planning.PlanCase):
    """A kernel in the cloud that does not tell what it is for."""

    TOLD = 'gets no architecture'

    def setUp(self) -> None:
        super().setUp()
        self.catalog.find.side_effect = None
        self.catalog.find.return_value = records.kernel()

    def planned(self, **changes) -> tuple[str | None, list[str]]:
        """Tell the architecture, and what is said of it."""
        made = self.plan(**{'kernel': 'my-kernel', 'ramdisk': None, **changes})
        return (
            made.ami.new.properties.get('architecture'),
            [each for each in made.warnings if self.TOLD in each],
        )

    def programs(self, machine: int, *, wide: bool = True) -> None:
        """Make the root filesystem one for a machine."""
        path = self.directory / 'tree' / 'sbin' / 'init'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(samples.elf(machine=machine, wide=wide))
        triple.root(self.directory)

    def test_nothing_tells(self) -> None:
        found, (note,) = self.planned()
        self.assertIsNone(found)
        self.assertIn("the kernel 'vmlinuz' (22222222", note)
        self.assertIn('--architecture x86_64', note)

    def test_the_user_tells(self) -> None:
        for traits in (
            request.Traits(architecture='aarch64'),
            request.Traits(properties={'architecture': 'aarch64'}),
        ):
            self.assertEqual(('aarch64', []), self.planned(traits=traits))

    def test_the_kernel_tells(self) -> None:
        self.programs(62)
        self.catalog.find.return_value = records.kernel(architecture='i686')
        self.assertEqual(('i686', []), self.planned())

    def test_the_kernel_tells_another(self) -> None:
        other = {'architecture': 'aarch64'}
        for traits in (
            request.Traits(architecture='aarch64'),
            request.Traits(properties=other),
        ):
            for changes in (
                {'kernel': 'my-kernel'},
                {'kernel': str(self.kernel)},
            ):
                self.catalog.find.return_value = records.kernel(
                    architecture='x86_64'
                )
                error = self.assertRaises(
                    errors.UsageError,
                    self.planned,
                    traits=traits,
                    **changes,
                )
                self.assertEqual(
                    'the kernel is for x86_64, and aarch64 was asked for; '
                    'give --architecture x86_64, or another kernel',
                    str(error),
                )
            part = request.PartRequest(
                kind=model.Kind.AKI, path=self.kernel, traits=traits
            )
            error = self.assertRaises(
                errors.UsageError,
                plan.plan_part,
                part,
                self.catalog,
                progress=progress.QUIET,
            )
            self.assertIn('the kernel is for x86_64', str(error))

    def test_the_programs_tell(self) -> None:
        for machine, name in ((62, 'x86_64'), (183, 'aarch64')):
            self.programs(machine)
            self.assertEqual((name, []), self.planned())
            self.assertEqual((name, []), self.planned(kernel=None))

    def test_programs_that_other_kernels_run_too(self) -> None:
        # Of i686, by a kernel for x86_64; of armv7l, by one for aarch64.
        for machine in (3, 40):
            self.programs(machine, wide=False)
            found, notes = self.planned()
            self.assertIsNone(found)
            self.assertEqual(1, len(notes))

    def test_a_cloud_that_takes_no_such_property(self) -> None:
        self.schema['additionalProperties'] = False
        self.assertEqual((None, []), self.planned())


class TestPermission(planning.PlanCase):
    def warned(self, *roles: str, **changes) -> list[str]:
        self.catalog.roles.return_value = roles
        found = self.plan(**changes).warnings
        return [each for each in found if 'the cloud may refuse' in each]

    def test_a_reader(self) -> None:
        (told,) = self.warned('Reader')
        self.assertIn('role member', told)
        for roles in (('reader', 'member'), ('admin',), ('creator',), ()):
            self.assertEqual([], self.warned(*roles))

    def test_another_project(self) -> None:
        settings = request.Settings(owner='other')
        (told,) = self.warned('member', settings=settings)
        self.assertIn('another project, here other', told)
        self.assertEqual([], self.warned('Admin', settings=settings))
        self.assertEqual([], self.warned(settings=settings))
        own = request.Settings(owner='project')
        self.assertEqual([], self.warned('member', settings=own))

    def test_one_line_for_both(self) -> None:
        settings = request.Settings(owner='other')
        self.assertEqual(1, len(self.warned('reader', settings=settings)))

    def test_a_part(self) -> None:
        self.catalog.roles.return_value = ('reader',)
        wanted = request.PartRequest(kind=model.Kind.AKI, path=self.kernel)
        made = plan.plan_part(wanted, self.catalog, progress=progress.QUIET)
        self.assertIn('the cloud may refuse', made.warnings[0])
        # Nothing has to be created: nothing can be refused.
        data = self.kernel.read_bytes()
        self.there.append(
            records.kernel(
                size=len(data), os_hash_value=hashlib.sha512(data).hexdigest()
            )
        )
        made = plan.plan_part(wanted, self.catalog, progress=progress.QUIET)
        self.assertEqual((), made.warnings)
