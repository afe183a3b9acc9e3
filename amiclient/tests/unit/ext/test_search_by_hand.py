# SPDX-License-Identifier: Apache-2.0

"""When a search has to be compared with what is done by hand."""

import pathlib

from amiclient.ext import e2fsprogs
from amiclient.ext import search
from amiclient.ext import shrink
from amiclient.ext import superblock
from amiclient.tests import base
from amiclient.tests.unit.ext import shrinking

_COMPARING = 'Comparing with resize2fs -M'


class TestByHand(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.tasks: list[str] = []

    def shrink(self, image: pathlib.Path) -> shrink.Shrunk:
        class Watch(shrinking.Watch):
            begun = staticmethod(self.tasks.append)

        return shrinking.shrunk(
            image, output=self.directory / 'output', progress=Watch()
        )

    def check_no_chance(self, image: pathlib.Path) -> None:
        """Check that nothing is compared, and would not have led further."""
        done = self.shrink(image)
        self.assertGreater(done.size, done.lower_bound)
        self.assertNotIn(_COMPARING, self.tasks)
        goal = search.Goal(0, False, 0)
        toolbox = e2fsprogs.Toolbox.of(superblock.read(image))
        steps = search.by_hand(image, goal, toolbox)
        self.assertGreater(steps[-1].blocks, done.block_count)

    def test_no_chance(self) -> None:
        for name in ('small-groups', 'fragmented', 'meta-bg-1k'):
            self.check_no_chance(shrinking.shape(name, self.directory))

    def test_chance(self) -> None:
        done = self.shrink(shrinking.shape('small-1k', self.directory))
        self.assertGreater(done.size, done.lower_bound)
        self.assertIn(_COMPARING, self.tasks)

    def test_within_a_block(self) -> None:
        done = self.shrink(shrinking.shape('ext4-4k', self.directory))
        bound = done.lower_bound // done.block_size
        self.assertEqual(bound + 1, done.block_count)
        self.assertNotIn(_COMPARING, self.tasks)
