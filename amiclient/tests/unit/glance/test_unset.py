# SPDX-License-Identifier: Apache-2.0

"""What is taken off an AMI."""

from typing import Any

from amiclient import errors
from amiclient.glance.change import unset
from amiclient.glance.change import update
from amiclient import progress
from amiclient.tests.unit.glance import memory


class TestUnset(memory.GlanceCase):
    def setUp(self) -> None:
        super().setUp()
        self.change(memory.AMI, tags=['a', 'b'], os_distro='debian')
        self.change(memory.KERNEL, tags=['a'])

    def unset(self, **request: Any) -> update.ChangePlan:
        planned = unset.plan(
            unset.UnsetRequest(ami='web', **request), self.catalog
        )
        update.execute(
            planned, self.catalog, self.catalog._proxy, progress=progress.QUIET
        )
        return planned

    def refused(self, **request: Any) -> str:
        error = self.assertRaises(errors.AmiError, self.unset, **request)
        self.assertEqual([], self.writes)
        return str(error)

    def test_tags_and_properties(self) -> None:
        self.unset(tags=('a',), properties=('os_distro',))
        image = self.images[memory.AMI]
        self.assertEqual(['b'], image['tags'])
        self.assertNotIn('os_distro', image)
        self.assertEqual(['a'], self.images[memory.KERNEL]['tags'])
        self.assertEqual(1, len(self.writes))

    def test_linked(self) -> None:
        self.unset(tags=('a',), linked=True)
        self.assertEqual([], self.images[memory.KERNEL]['tags'])
        self.assertEqual(2, len(self.writes))

    def test_another_projects_kernel_stays(self) -> None:
        self.change(memory.KERNEL, owner='p9')
        planned = self.unset(tags=('a',), linked=True)
        self.assertEqual(['a'], self.images[memory.KERNEL]['tags'])
        self.assertNotIn('a', self.images[memory.AMI]['tags'])
        error = self.assertRaises(errors.CloudError, planned.check)
        self.assertIn('of the project p9 keeps the tag a', str(error))
        self.change(memory.AMI, tags=['a'])
        self.change(memory.KERNEL, tags=[])
        self.unset(tags=('a',), linked=True).check()

    def test_a_kernel_that_others_need_stays(self) -> None:
        self.put('other', memory.OTHER, 'ami', kernel_id=memory.KERNEL)
        planned = self.unset(tags=('a',), linked=True)
        self.assertEqual(['a'], self.images[memory.KERNEL]['tags'])
        self.assertEqual(1, len(self.writes))
        self.assertIn("keeps the tag a: needed by 'other'", planned.notes[0])
        planned.check()

    def test_links(self) -> None:
        planned = self.unset(kernel=True, ramdisk=True)
        self.assertFalse(
            {'kernel_id', 'ramdisk_id'} & {*self.images[memory.AMI]}
        )
        self.assertIn(f'kernel delete {memory.KERNEL}', planned.notes[0])
        self.assertIn(f'ramdisk delete {memory.RAMDISK}', planned.notes[1])
        self.assertIn(memory.KERNEL, self.images)

    def test_all_or_nothing(self) -> None:
        for request, words in (
            ({'tags': ('a', 'nosuch')}, "no tag 'nosuch'"),
            ({'properties': ('os_distro', 'x')}, "no property 'x'"),
            ({'properties': ('kernel_id',)}, '--kernel'),
            ({'properties': ('name',)}, 'attribute'),
            ({'kernel': True}, '--ramdisk'),
            ({'linked': True}, '--linked: '),
            ({'ramdisk': True, 'linked': True}, '--linked: '),
        ):
            self.assertIn(words, self.refused(**request))
        del self.images[memory.AMI]['ramdisk_id']
        self.assertIn('links to no ramdisk', self.refused(ramdisk=True))
