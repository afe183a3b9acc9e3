# SPDX-License-Identifier: Apache-2.0


import hashlib
from unittest import mock

from amiclient import errors
from amiclient.ext import shrink
from amiclient.glance import model
from amiclient.glance.upload import plan
from amiclient.glance.upload import request
from amiclient import locks
from amiclient import progress
from amiclient.source import probe
from amiclient.source import resolve
from amiclient.tests.unit.glance import planning
from amiclient.tests.unit.glance import records

ID = '55555555-5555-4555-8555-555555555555'


class TestPlan(planning.PlanCase):
    def test_three_images_with_their_formats(self):
        made = self.plan()
        self.assertEqual(
            [
                ('kernel', 'vmlinuz', 'aki', 'aki'),
                ('ramdisk', 'initrd', 'ari', 'ari'),
                ('image', 'root', 'ami', 'ami'),
            ],
            [
                (
                    step.kind.noun,
                    step.image.name,
                    step.image.disk_format,
                    step.image.container_format,
                )
                for step in made.steps
            ],
        )
        self.assertEqual(self.kernel.stat().st_size, made.kernel.size)
        self.assertEqual((), made.warnings)

    def test_source_is_not_looked_at_again(self):
        with resolve.opened(self.root) as source:
            found = source.probe
        with mock.patch.object(probe, 'look', wraps=probe.look) as look:
            self.plan(probe=found)
            look.assert_not_called()
            self.plan()
            look.assert_called_once()

    def test_properties_come_from_the_content(self):
        made = self.plan()
        self.assertEqual(
            {
                'architecture': 'x86_64',
                'os_type': 'linux',
                'os_distro': 'debian',
                'os_version': '12',
            },
            made.ami.new.properties,
        )
        self.assertEqual(
            {'architecture': 'x86_64'}, made.kernel.new.properties
        )
        self.assertEqual({}, made.ramdisk.new.properties)

    def test_the_users_properties_win(self):
        made = self.plan(
            traits=request.Traits(
                properties={'os_version': '13', 'hw_disk_bus': 'scsi'},
                architecture='amd64',
                tags=('a',),
                name='mine',
            )
        )
        found = made.ami.new.properties
        self.assertEqual('13', found['os_version'])
        self.assertEqual('scsi', found['hw_disk_bus'])
        # As it was written, though Nova has another name for it.
        self.assertEqual('amd64', found['architecture'])
        self.assertEqual('mine', made.ami.new.name)
        self.assertEqual(('a',), made.ami.new.tags)

    def test_a_dry_run_knows_the_size_to_the_byte(self):
        made = self.plan(exact=True)
        done = shrink.execute(made.shrink)
        self.assertEqual(done.size, made.ami.size)
        self.assertLess(done.size, self.root.stat().st_size)
        self.assertEqual(made.ami.payload.path, done.output)

    def test_a_plan_writes_nothing(self):
        before = sorted(self.directory.iterdir())
        self.plan(exact=True)
        self.assertEqual(before, sorted(self.directory.iterdir()))

    def test_without_shrinking_the_source_is_sent(self):
        with self.root.open('ab') as file:
            file.write(b'what a larger device holds after it')
        made = self.plan(shrink=False)
        self.assertEqual(
            model.Payload(self.root, 16 * 2**20, state=locks.state(self.root)),
            made.ami.payload,
        )
        self.assertIsNone(made.shrink)

    def test_what_was_looked_at_before_has_to_be_the_same(self):
        seen = {self.root: locks.state(self.root)}
        self.plan(seen=seen)
        self.root.touch()
        error = self.assertRaises(errors.BusyError, self.plan, seen=seen)
        self.assertIn(f'{self.root} was changed since', str(error))

    def test_raw_is_raw_in_bare(self):
        new = self.plan(image_format='raw').ami.new
        self.assertEqual('raw', new.disk_format)
        self.assertEqual('bare', new.container_format)

    def test_min_disk_is_rounded_up(self):
        self.assertEqual(1, self.plan().ami.new.min_disk)
        self.assertEqual(7, self.plan(min_disk=7).ami.new.min_disk)

    def test_an_old_boot_sector_is_blanked_and_told(self):
        with self.root.open('r+b') as file:
            file.seek(510)
            file.write(b'\x55\xaa')
        made = self.plan()
        self.assertEqual(1024, made.ami.payload.blank)
        self.assertIn('boot sector', made.warnings[0])

    def test_what_applies_to_all_applies_to_all(self):
        made = self.plan(
            settings=request.Settings(
                visibility='public', owner='p', hidden=True, protected=True
            )
        )
        for step in made.steps:
            self.assertEqual(
                ('public', 'p', True, None),
                (
                    step.new.visibility,
                    step.new.owner,
                    step.new.hidden,
                    # That comes last, or the images could not be removed.
                    step.new.protected,
                ),
            )

    def test_no_kernel_and_no_ramdisk(self):
        made = self.plan(kernel=None, ramdisk=None)
        self.assertEqual([made.ami], list(made.steps))
        self.assertNotIn('architecture', made.ami.new.properties)


class TestReuse(planning.PlanCase):
    def test_the_same_bytes_are_not_sent_again(self):
        data = self.kernel.read_bytes()
        same = records.kernel(
            architecture='x86_64',
            visibility='public',
            size=len(data),
            os_hash_value=hashlib.sha512(data).hexdigest(),
        )
        self.there.append(same)
        made = self.plan(settings=request.Settings(visibility='public'))
        self.assertEqual(same, made.kernel.record)
        self.assertIsInstance(made.ramdisk, request.Creation)
        self.assertEqual('x86_64', made.ami.new.properties['architecture'])

    def test_the_file_tells_what_its_image_does_not(self):
        data = self.kernel.read_bytes()
        self.there.append(
            records.kernel(
                size=len(data), os_hash_value=hashlib.sha512(data).hexdigest()
            )
        )
        made = self.plan()
        self.assertEqual('reuse', made.kernel.action)
        self.assertEqual('x86_64', made.ami.new.properties['architecture'])

    def test_no_reuse_does_not_even_look(self):
        self.plan(settings=request.Settings(reuse=False))
        for call in self.catalog.images.call_args_list:
            self.assertIn('status', call.kwargs)

    def test_an_image_can_be_named(self):
        self.catalog.find.side_effect = None
        self.catalog.find.return_value = records.kernel(
            visibility='public', architecture='x86_64'
        )
        made = self.plan(kernel='my-kernel', ramdisk=None)
        (call,) = self.catalog.find.call_args_list
        self.assertEqual(('my-kernel',), call.args)
        self.assertEqual('reuse', made.kernel.action)
        self.assertEqual((), made.warnings)

    def test_a_file_here_goes_before_an_image(self):
        self.catalog.find.side_effect = None
        self.catalog.find.return_value = records.kernel()
        made = self.plan(kernel=str(self.kernel))
        self.catalog.find.assert_not_called()
        self.assertEqual('create', made.kernel.action)


class TestRoom(planning.PlanCase):
    def test_the_next_directory_is_tried(self):
        real = shrink.plan
        tried = []

        def crowded(wanted, **options):
            tried.append(wanted.output.parent)
            if len(tried) == 1:
                raise errors.NoSpaceError('no room', hint='--output')
            return real(wanted, **options)

        with mock.patch.object(shrink, 'plan', crowded):
            made = self.plan(work_directory=None)
        self.assertEqual(2, len({*tried}))
        self.assertEqual(tried[-1], made.shrink.output.parent)

    def test_no_directory_has_room(self):
        error = errors.NoSpaceError('no room', hint='--output')
        with mock.patch.object(
            shrink, 'plan', autospec=True, side_effect=error
        ):
            text = self.refused(errors.NoSpaceError, work_directory=None)
        self.assertIn('--work-directory', text)


class TestPart(planning.PlanCase):
    def plan_part(self, kind, path, **traits):
        wanted = request.PartRequest(
            kind=kind, path=path, traits=request.Traits(**traits)
        )
        return plan.plan_part(
            wanted, self.catalog, progress=progress.QUIET
        ).step

    def test_a_kernel(self):
        step = self.plan_part(model.Kind.AKI, self.kernel, tags=('t',))
        self.assertEqual('vmlinuz', step.new.name)
        self.assertEqual(('t',), step.new.tags)
        self.assertEqual({'architecture': 'x86_64'}, step.new.properties)

    def test_a_chosen_id_makes_a_new_image(self):
        data = self.ramdisk.read_bytes()
        self.there.append(
            records.ramdisk(
                size=len(data), os_hash_value=hashlib.sha512(data).hexdigest()
            )
        )
        step = self.plan_part(model.Kind.ARI, self.ramdisk, id=ID)
        self.assertEqual(ID, step.new.id)

    def test_the_wrong_kind(self):
        self.assertRaises(
            errors.SourceError,
            self.plan_part,
            model.Kind.ARI,
            self.kernel,
        )
