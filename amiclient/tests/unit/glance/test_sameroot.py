# SPDX-License-Identifier: Apache-2.0

"""When a root filesystem is compared with what the cloud holds, and how."""

import contextlib
import hashlib

from amiclient.ext import shrink
from amiclient.glance.upload import request
from amiclient.glance.upload import reuse
from amiclient import progress
from amiclient.tests.unit.glance import planning
from amiclient.tests.unit.glance import records


class TestLook(planning.PlanCase):
    def setUp(self) -> None:
        super().setUp()
        # What the first upload would have sent.
        first = self.plan(exact=True)
        self.data = shrink.execute(first.shrink).output.read_bytes()
        self.expected = first.ami.new
        for make, path in (
            (records.kernel, self.kernel),
            (records.ramdisk, self.ramdisk),
        ):
            self.there.append(self.holding(make, path.read_bytes()))
        self.catalog.images.reset_mock()

    def holding(self, make, data: bytes, **attributes):
        return make(
            size=len(data),
            os_hash_value=hashlib.sha512(data).hexdigest(),
            **attributes,
        )

    def root_image(self, **attributes):
        data = attributes.pop('data', self.data)
        return self.holding(
            records.record,
            data,
            **{
                'name': 'root',
                'min_disk': 1,
                'kernel_id': records.kernel().id,
                'ramdisk_id': records.ramdisk().id,
                **self.expected.properties,
                **attributes,
            },
        )

    def asked(self):
        """How images for the AMI were asked for."""
        return [
            call.kwargs
            for call in self.catalog.images.call_args_list
            if call.kwargs.get('disk_format') == 'ami'
        ]

    def settle(self, planned):
        with contextlib.ExitStack() as stack:
            return reuse.settle(planned, stack, progress=progress.QUIET)

    def test_asked_for_by_its_links(self) -> None:
        self.plan()
        (query,) = self.asked()
        self.assertEqual(records.kernel().id, query['kernel_id'])
        self.assertEqual(records.ramdisk().id, query['ramdisk_id'])
        self.assertEqual('project', query['owner'])

    def test_nothing_links_to_a_new_kernel(self) -> None:
        self.there.pop(0)
        self.plan()
        self.assertEqual([], self.asked())

    def test_not_asked_for_in_vain(self) -> None:
        self.plan(settings=request.Settings(reuse=False))
        chosen = '55555555-5555-4555-8555-555555555555'
        self.plan(traits=request.Traits(id=chosen))
        self.assertEqual([], self.asked())

    def test_found_when_it_was_shrunk(self) -> None:
        image = self.root_image()
        self.there.append(image)
        planned = self.plan()
        self.assertEqual((image,), planned.alike)
        self.assertEqual('create', planned.ami.action)
        settled = self.settle(planned)
        self.assertEqual(image, settled.ami.record)
        self.assertIsNone(settled.shrink)

    def test_a_dry_run_knows(self) -> None:
        image = self.root_image()
        self.there.append(image)
        before = sorted(self.directory.iterdir())
        self.assertEqual(image, self.plan(exact=True).ami.record)
        self.assertEqual(before, sorted(self.directory.iterdir()))

    def test_other_bytes_of_the_same_size(self) -> None:
        self.there.append(self.root_image(data=bytes(len(self.data))))
        settled = self.settle(self.plan())
        self.assertEqual('create', settled.ami.action)
        # It was shrunk for this, and is not shrunk again.
        self.assertIsNone(settled.shrink)
        self.assertEqual(len(self.data), settled.ami.size)
        self.assertEqual('create', self.plan(exact=True).ami.action)

    def test_not_shrunk_for_what_will_not_do(self) -> None:
        self.there.append(self.root_image(name='web'))
        planned = self.plan()
        self.assertEqual((), planned.alike)
        self.assertEqual(
            ["its name is not 'root'"], [o.why for o in planned.others]
        )
        self.assertIs(planned, self.settle(planned))

    def test_a_taken_name_is_no_news_if_it_is_the_same(self) -> None:
        image = self.root_image()
        self.there.append(image)
        self.catalog.named.return_value = [image]
        planned = self.plan()
        self.assertEqual((), planned.warnings)
        self.assertIn('another image has the name', planned.created[0])
