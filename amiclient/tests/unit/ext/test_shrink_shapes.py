# SPDX-License-Identifier: Apache-2.0

"""Every shape that there are plans to shrink: what becomes of it.

Each shape is made and shrunk once in a process; the tests look at what was
noted of that. Set AMICLIENT_SLOW_TESTS to have the large shapes too.
"""

import dataclasses
import functools
import os
import pathlib
import tempfile

from amiclient import errors
from amiclient.ext import shrink
from amiclient.ext import superblock
from amiclient import process
from amiclient.tests import base
from amiclient.tests.oracle import exttree
from amiclient.tests.shapes import shapes
from amiclient.tests.unit.ext import shrinking

#: Whatever makes it, and the usual recipe, waits 11 seconds each time.
_WAITING = ('mmp',)

_WANTED = [
    name
    for name, shape in shapes.SHAPES.items()
    if base.SLOW or ('slow' not in shape.tags and name not in _WAITING)
]
_SHRINKING = [n for n in _WANTED if shapes.SHAPES[n].expected == 'shrinks']
_REFUSED = [n for n in _WANTED if shapes.SHAPES[n].expected == 'refused']

#: In these, nothing can be planted: that would put them at rest, or there is
#: no room.
_UNSETTLED = ('needs-recovery', 'scratched', 'error-flag')
_FULL = ('full', 'tiny')

#: How far above the lower bound a result may be, and why it is further.
_NEAR = 1.01
_FURTHER = {
    # One group, whose inode table alone is a quarter of it: 16 blocks more
    # are what resize2fs needs for its own reckoning of 98.
    'tiny': 1.17,
}

#: What dumpe2fs says that depends on the size, or on who wrote last.
_MAY_CHANGE = {
    'Backup block groups',
    'Block count',
    'Checksum',
    'Free blocks',
    'Free inodes',
    'Inode count',
    'Lifetime writes',
    'MMP block number',
    'Orphan file inode',
    'Overhead clusters',
}
#: And what replaying a journal, and a check, change.
_SETTLING = {
    'Filesystem state',
    'Journal checksum',
    'Journal checksum type',
    'Journal features',
    'Journal sequence',
    'Journal start',
    'Last checked',
    'needs_recovery',
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was noted of one shape before and after.

    :param planned: the plan of a dry run.
    :param lost: how the trees differ.
    :param planted: whether there was a secret in the source.
    :param leaked: whether it is in the result, too.
    :param recipe: blocks that ``resize2fs -M`` gets to, again and again.
    :param source: what the source was before and after.
    :param headers: what dumpe2fs says before and after.
    :param inodes: inodes in use, before and after.
    :param dirty: free blocks that are not zeros.
    """

    planned: shrink.ShrinkPlan
    done: shrink.Shrunk
    lost: list[str]
    planted: bool
    leaked: bool
    is_sound: bool
    recipe: int
    source: tuple[object, object]
    headers: tuple[dict[str, str], dict[str, str]]
    inodes: tuple[int, int]
    size: int
    allocated: int
    dirty: int
    mode: int
    left: list[str]


@functools.cache
def _outcome(name: str) -> Outcome | Exception:
    """Shrink a shape, once."""
    with tempfile.TemporaryDirectory(
        prefix='amiclient-shape-', dir=shrinking.memory()
    ) as directory:
        try:
            return _shrink(name, pathlib.Path(directory))
        except Exception as error:  # noqa: BLE001 - it is raised by each test
            return error


def _shrink(name: str, directory: pathlib.Path) -> Outcome:
    image = shapes.make(name, directory)
    planted = name not in (*_UNSETTLED, *_FULL)
    if planted:
        shapes.plant_secret(image, shrinking.SECRET)
        planted = shrinking.holds(image)
    before = _state(image)
    output = directory / 'output'
    planned = shrink.plan(shrinking.request(image, output=output), exact=True)
    done = shrink.execute(planned)
    after = _state(image)
    left = sorted(os.listdir(directory))
    copy = directory / 'copy'
    process.run(['cp', '--sparse=always', image, copy], access=None)
    process.run(['e2fsck', '-f', '-y', copy], ok=range(3), access=None)
    want = exttree.read_tree(copy)
    inodes = _used_inodes(copy)
    status = output.stat()
    return Outcome(
        planned=planned,
        done=done,
        lost=exttree.diff_trees(want, exttree.read_tree(output)),
        planted=planted,
        leaked=shrinking.holds(output),
        is_sound=shrinking.is_sound(output),
        recipe=_recipe(copy),
        source=(before, after),
        headers=(shrinking.header(image), shrinking.header(output)),
        inodes=(inodes, _used_inodes(output)),
        size=status.st_size,
        allocated=status.st_blocks * 512,
        dirty=_dirty(output),
        mode=status.st_mode & 0o7777,
        left=left,
    )


def _state(image: pathlib.Path) -> object:
    status = image.stat()
    return (
        shrinking.digest(image), status.st_mtime_ns, status.st_ctime_ns,
        status.st_ino, status.st_size, status.st_mode,
    )  # fmt: skip


def _used_inodes(image: pathlib.Path) -> int:
    found = shrinking.header(image)
    return int(found['Inode count']) - int(found['Free inodes'])


def _recipe(image: pathlib.Path) -> int:
    """Do with a file what is done by hand, until it gets no smaller."""
    while True:
        before = int(shrinking.header(image)['Block count'])
        # It refuses bigalloc: 'New size smaller than minimum'.
        process.run(['resize2fs', '-M', image], ok=(0, 1), access=None)
        process.run(['e2fsck', '-f', '-y', image], ok=range(3), access=None)
        after = int(shrinking.header(image)['Block count'])
        if after >= before:
            return after


def _dirty(image: pathlib.Path) -> int:
    """Count the free blocks, as dumpe2fs tells them, that hold anything."""
    size = superblock.read(image).block_size
    zeros = bytes(size)
    count = 0
    with image.open('rb') as file:
        for first, end in shrinking.free_runs(image):
            for number in range(first, min(end, first + 4096)):
                data = os.pread(file.fileno(), size, number * size)
                count += data != zeros[: len(data)]
    return count


class _ShapesTest(base.TestCase):
    def outcome(self, name: str) -> Outcome:
        found = _outcome(name)
        if isinstance(found, Exception):
            raise found
        return found

    def check_nothing_lost(self, name: str) -> None:
        found = self.outcome(name)
        self.assertEqual([], found.lost)
        self.assertEqual(found.inodes[0], found.inodes[1])
        self.assertTrue(found.is_sound)

    def check_nothing_leaked(self, name: str) -> None:
        found = self.outcome(name)
        self.assertEqual(0, found.dirty)
        if name not in (*_UNSETTLED, *_FULL):
            self.assertTrue(found.planted)
            self.assertFalse(found.leaked)

    def check_source_untouched(self, name: str) -> None:
        found = self.outcome(name)
        self.assertEqual(found.source[0], found.source[1])
        self.assertEqual({f'{name}.img', 'output'}, set(found.left))

    def check_minimum(self, name: str) -> None:
        found = self.outcome(name)
        done = found.done
        self.assertLessEqual(done.lower_bound, done.size)
        self.assertLessEqual(
            done.size, done.lower_bound * _FURTHER.get(name, _NEAR)
        )
        self.assertLessEqual(done.block_count, found.recipe)
        self.assertLessEqual(done.size, done.size_before)

    def check_report(self, name: str) -> None:
        found = self.outcome(name)
        done, new = found.done, found.headers[1]
        self.assertEqual(shapes.SHAPES[name].filesystem, done.filesystem)
        self.assertEqual(int(new['Block count']), done.block_count)
        self.assertEqual(int(new['Block size']), done.block_size)
        self.assertEqual(done.block_count * done.block_size, done.size)
        self.assertEqual(done.size, found.size)
        self.assertLessEqual(found.allocated, found.size + (1 << 20))
        self.assertEqual(shapes.SHAPES[name].size, done.size_before)
        self.assertEqual(done.size_before - done.size, done.saved)
        free = int(new['Free blocks'])
        self.assertEqual(
            (done.block_count - free) * done.block_size, done.in_use
        )

    def check_dry_run(self, name: str) -> None:
        found = self.outcome(name)
        for key in (
            'block_count', 'size', 'lower_bound', 'size_before', 'filesystem',
            'block_size', 'output', 'in_use',
        ):  # fmt: skip
            self.assertEqual(
                getattr(found.done, key), getattr(found.planned, key), key
            )

    def check_identity(self, name: str) -> None:
        old, new = (self._identity(h) for h in self.outcome(name).headers)
        ignored = set(_MAY_CHANGE)
        if name in _UNSETTLED:
            ignored |= _SETTLING
        for key in old.keys() | new.keys():
            if key not in ignored:
                self.assertEqual(old.get(key), new.get(key), key)

    def _identity(self, header: dict[str, str]) -> dict[str, str]:
        features = header.pop('Filesystem features', '').split()
        return {**header, **dict.fromkeys(features, 'feature')}


@shrinking.for_each(*_SHRINKING[0::4])
class TestShapes1(_ShapesTest):
    """A quarter of the shapes: a test runner spreads classes, not tests."""


@shrinking.for_each(*_SHRINKING[1::4])
class TestShapes2(_ShapesTest):
    """A quarter of the shapes."""


@shrinking.for_each(*_SHRINKING[2::4])
class TestShapes3(_ShapesTest):
    """A quarter of the shapes."""


@shrinking.for_each(*_SHRINKING[3::4])
class TestShapes4(_ShapesTest):
    """A quarter of the shapes."""


@shrinking.for_each(*_REFUSED)
class TestRefusedShapes(base.TestCase):
    def check_refused(self, name: str) -> None:
        directory = self.tmp()
        image = shapes.make(name, directory)
        output = directory / 'output'
        before = _state(image)
        for options in ({'output': output}, {}):
            for act in (shrinking.shrunk, self._dry_run):
                error = self.assertRaises(
                    errors.SourceError, act, image, **options
                )
                self.assertNotIn('\n', str(error))
                self.assertIn(str(image), str(error))
                self.assertEqual(before, _state(image))
                self.assertEqual([image.name], os.listdir(directory))

    def _dry_run(self, image: pathlib.Path, **rest: object) -> None:
        shrink.plan(shrinking.request(image, **rest), exact=True)
