#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""When a search has to be compared with what is done by hand."""

import pathlib

from amiclient.ext import byhand
from amiclient.ext import minimum
from amiclient.ext import shrink
from amiclient.ext import superblock
from amiclient.ext import tools
from amiclient.tests import base
from amiclient.tests.unit.ext import shrinking

_COMPARING = 'Comparing with resize2fs -M'


class TestByHand(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder = self.tmp()
        self.tasks: list[str] = []

    def shrink(self, image: pathlib.Path) -> shrink.Shrunk:
        class Watch(shrinking.Watch):
            begun = staticmethod(self.tasks.append)

        return shrinking.shrunk(
            image, output=self.folder / 'output', progress=Watch()
        )

    def check_no_chance(self, image: pathlib.Path) -> None:
        """Check that nothing is compared, and would not have led further."""
        done = self.shrink(image)
        self.assertGreater(done.size, done.lower_bound)
        self.assertNotIn(_COMPARING, self.tasks)
        goal = minimum.Goal(0, True, 1, keeps_journal=True)
        toolbox = tools.Toolbox.of(superblock.read(image))
        steps = byhand.shrink(image, goal, toolbox)
        self.assertGreater(steps[-1].blocks, done.block_count)

    def test_no_chance(self) -> None:
        for name in ('small-groups', 'fragmented', 'meta-bg-1k'):
            self.check_no_chance(shrinking.shape(name, self.folder))

    def test_chance(self) -> None:
        done = self.shrink(shrinking.shape('ext4-4k', self.folder))
        self.assertGreater(done.size, done.lower_bound)
        self.assertIn(_COMPARING, self.tasks)
