# SPDX-License-Identifier: Apache-2.0

"""A Glance in memory that can be made to fail, and who sees what in it.

What a user of another project could see at any moment can be asked, and
whether there was a moment at which an AMI was visible but its kernel was not.
"""

from collections.abc import Callable, Iterator, Mapping
import copy
from typing import Any

from amiclient.glance import client
from amiclient.glance import retry
from amiclient.tests.cloud import memory
from amiclient.tests.unit.glance import wire

_PROJECTS = (memory.OWNER, 'p2', 'p3', 'stranger')


class Glance(memory.Glance):
    """It notes what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        #: Which write fails, counted from 0, and how.
        self.failing: dict[int, memory.Answer | BaseException] = {}
        self.broken: list[str] = []

    def state(self) -> Any:
        """All that a user can see of it; statuses of members are not."""
        members = {
            id: sorted(self.members[id])
            for id, image in self.images.items()
            if image['visibility'] == 'shared'
        }
        return copy.deepcopy(self.images), members

    def write(
        self,
        method: str,
        words: list[str],
        body: bytes,
        headers: Mapping[str, str],
    ) -> memory.Answer:
        number = len(self.writes)
        line = f'{method} {self._short(words)} '
        line += body.decode(errors='replace')
        self.writes.append(line.rstrip())
        failure = self.failing.get(number)
        if isinstance(failure, BaseException):
            # The answer is lost, after all was done.
            super().write(method, words, body, headers)
            raise failure
        answer = failure or super().write(method, words, body, headers)
        self._look()
        return answer

    def _short(self, words: list[str]) -> str:
        return '/'.join(
            self.images[word]['name'] if word in self.images else word
            for word in words[1:]
        )

    def sees(self, project: str, id: str) -> bool:
        """Tell whether the users of a project see an image."""
        image = self.images.get(id)
        if image is None:
            return False
        return (
            image['visibility'] in ('public', 'community')
            or image['owner'] == project
            or (
                image['visibility'] == 'shared' and project in self.members[id]
            )
        )

    def _look(self) -> None:
        for id, image in self.images.items():
            for name in ('kernel_id', 'ramdisk_id'):
                link = image.get(name)
                for project in _PROJECTS:
                    if (
                        link
                        and self.sees(project, id)
                        and not self.sees(project, link)
                    ):
                        self.broken.append(
                            f'{project} sees {image["name"]}, but not its '
                            f'{name}, after {self.writes[-1]}'
                        )


class GlanceCase(wire.CatalogTest):
    """A test with an AMI, its kernel and its ramdisk, in memory."""

    def setUp(self) -> None:
        super().setUp()
        self.glance = Glance()
        self.glance.mock(self.wire)
        self.catalog = client.Catalog(
            self.catalog._proxy,
            patience=retry.Patience(attempts=1, backoff=0.01),
        )
        self.glance.put('vmlinuz', memory.KERNEL, 'aki')
        self.glance.put('initrd', memory.RAMDISK, 'ari')
        self.glance.put(
            'web',
            memory.AMI,
            'ami',
            kernel_id=memory.KERNEL,
            ramdisk_id=memory.RAMDISK,
        )

    def each_failure(
        self,
        run: Callable[[], Any],
        *failures: memory.Answer | BaseException,
    ) -> Iterator[int]:
        """Run something again and again, each time with another failure.

        Each write fails once. What is yielded is how many writes there were
        before it; the state before is back when it is asked for the next.
        """
        glance = self.glance
        before = copy.deepcopy((glance.images, glance.members))
        glance.writes = []
        run()
        count = len(glance.writes)
        self.assertGreater(count, 0)
        for number in range(count):
            for failure in failures:
                glance.images, glance.members = copy.deepcopy(before)
                glance.writes, glance.broken = [], []
                glance.failing = {number: failure}
                yield number
        glance.failing = {}
