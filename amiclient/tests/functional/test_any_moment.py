# SPDX-License-Identifier: Apache-2.0

"""Ctrl-C, SIGTERM, SIGHUP and SIGKILL at any moment of a command.

16 moments of a shrink, and of an upload, and a few of what else there is.
With AMICLIENT_SLOW_TESTS set, a hundred of each.
"""

import os
import re
import shutil
import signal

from testtools import content

from amiclient.tests.disks import triple
from amiclient.tests.functional import base
from amiclient.tests.functional import moments
from amiclient.tests.functional import upload
from amiclient.tests.oracle import exttree
from amiclient.tests.unit.ext import shrinking

_MIB = 2**20

#: Bytes of the filesystem, and of the data in it.
_SIZE, _DATA = 6 * _MIB, _MIB // 4

#: Moments over the whole run of a shrink, and of an upload.
_COUNT = 100 if base.SLOW else 16

#: Moments of what else there is: kill -9, and the start.
_SOME = 100 if base.SLOW else 12
_FEW = 30 if base.SLOW else 4

#: What a temporary file or directory is called.
_TEMPORARY = re.compile(r'\.(.+\.)?amiclient-[0-9a-f]{8}')


class _Case(base.TestCase):
    def told(self, counts: dict[str, int]) -> None:
        """Write down how it went: ``-v`` of stestr and testtools shows it."""
        self.addDetail('counts', content.text_content(f'{counts}'))
        path = os.environ.get('AMICLIENT_TEST_COUNTS')
        if path:
            with open(path, 'a', encoding='utf-8') as file:
                file.write(f'{self.id()}: {counts}\n')


class TestShrink(_Case):
    def setUp(self) -> None:
        super().setUp()
        self.runner = self.useFixture(moments.Runner(self.tmp()))
        self.pristine = triple.root(self.tmp(), size=_SIZE, data=_DATA)
        self.directory = self.tmp()
        self.image = self.directory / 'root.img'
        self.old = shrinking.digest(self.pristine)

    def fresh(self) -> None:
        shutil.copy2(self.pristine, self.image)

    def measure(self, *words: object) -> None:
        """Run it to its end; note how long that takes, and the result."""
        for _ in range(3):
            self.fresh()
            ended = self.runner.warm('ami', 'shrink', *words)
            self.assertEqual((0, ''), (ended.status, ended.stderr))
        self.new = shrinking.digest(self.image)

    def seconds(self) -> float:
        return self.runner.shortest

    def checked(self, ended: moments.Ended) -> str:
        """Check that the old or the new image is there, and nothing else."""
        self.assertTrue(ended.is_fair())
        self.assertFalse(ended.traced)
        if 'Traceback' not in ended.stderr:
            self.assertLessEqual(ended.stderr.count('\n'), 2)
        self.assertEqual(['root.img'], os.listdir(self.directory))
        found = shrinking.digest(self.image)
        self.assertIn(found, (self.old, self.new))
        if ended.status == 0:
            self.assertEqual(self.new, found)
        return 'old' if found == self.old else 'new'

    def is_left(self) -> bool:
        """Tell whether there is more than the image."""
        return len(os.listdir(self.directory)) > 1

    def test_replacing(self) -> None:
        words = ('ami', 'shrink', self.image)
        self.measure(self.image)

        def run(number: int, after: float) -> moments.Ended:
            self.fresh()
            return self.runner.warm(*words, number=number, after=after)

        counts = moments.surviving(
            run,
            moments.points(self.seconds, _COUNT, self.random),
            self.checked,
        )
        self.assertGreater(counts.get('old', 0), _COUNT // 6)
        self.told(counts)

    def test_while_it_starts(self) -> None:
        self.measure(self.image)

        def run(number: int, after: float) -> moments.Ended:
            self.fresh()
            return self.runner.cold(
                'ami', 'shrink', self.image, number=number, after=after
            )

        counts = moments.surviving(
            run, moments.points(lambda: 1.5, _FEW, self.random), self.checked
        )
        self.told(counts)

    def test_in_place(self) -> None:
        words = ('ami', 'shrink', self.image, '--in-place')
        self.measure(self.image, '--in-place')
        tree = exttree.read_tree(self.pristine)

        def run(number: int, after: float) -> moments.Ended:
            self.fresh()
            return self.runner.warm(*words, number=number, after=after)

        def check(ended: moments.Ended) -> str:
            self.assertTrue(ended.is_fair())
            self.assertFalse(ended.traced)
            self.assertEqual(['root.img'], os.listdir(self.directory))
            self.assertTrue(shrinking.is_sound(self.image))
            self.assertEqual(tree, exttree.read_tree(self.image))
            size = self.image.stat().st_size
            return 'old' if size == _SIZE else 'new'

        counts = moments.surviving(
            run, moments.points(self.seconds, _FEW, self.random), check
        )
        self.told(counts)

    def test_kill(self) -> None:
        words = ('ami', 'shrink', self.image)
        self.measure(self.image)

        def run(number: int, after: float) -> moments.Ended:
            self.fresh()
            return self.runner.warm(*words, number=number, after=after)

        def check(ended: moments.Ended) -> str:
            found = shrinking.digest(self.image)
            self.assertIn(found, (self.old, self.new))
            left = set(os.listdir(self.directory)) - {'root.img'}
            for name in left:
                self.assertTrue(_TEMPORARY.fullmatch(name), name)
            # Not more than this run's own: the one before was cleaned up.
            self.assertLessEqual(len(left), 2)
            return 'left' if left else 'nothing left'

        counts = moments.surviving(
            run,
            moments.points(self.seconds, _SOME, self.random, signal.SIGKILL),
            check,
        )
        # Something to clean up in any case: killed half way.
        for _ in range(_COUNT):
            if self.is_left():
                break
            self.fresh()
            self.runner.warm(*words, number=signal.SIGKILL, when=self.is_left)
        self.assertTrue(self.is_left())
        self.fresh()
        ended = self.runner.warm(*words)
        self.assertEqual(['root.img'], os.listdir(self.directory))
        self.assertEqual(self.new, shrinking.digest(self.image))
        self.assertIn('of a run that was killed', ended.stderr)
        self.assertEqual(1, ended.stderr.count('\n'), ended.stderr)
        self.told(counts)


class TestUpload(_Case, upload.UploadCase):
    def setUp(self) -> None:
        super().setUp()
        self.root = triple.root(
            self.directory, size=_SIZE, data=_DATA, name='big.img'
        )
        self.runner = self.useFixture(moments.Runner(self.directory))
        self.before = shrinking.digest(self.root)
        self.words = ('ami', 'upload', self.root, *self.parts, *self.less)
        for _ in range(3):
            ended = self.runner.warm(*self.words)
            self.assertEqual((0, ''), (ended.status, ended.stderr))
            self.embedded.remove_images()

    def seconds(self) -> float:
        return self.runner.shortest

    def run_command(self, number: int, after: float) -> moments.Ended:
        return self.runner.warm(*self.words, number=number, after=after)

    def triples(self) -> list[str]:
        """Check that the images are one complete triple, or none."""
        found = {image: self.get(image) for image in self.images()}
        if not found:
            return []
        self.assertEqual(
            {'active'}, {image['status'] for image in found.values()}
        )
        self.assertEqual(3, len(found))
        (ami,) = [i for i in found.values() if i['disk_format'] == 'ami']
        self.assertIn(ami['kernel_id'], found)
        self.assertIn(ami['ramdisk_id'], found)
        return list(found)

    def test_any_moment(self) -> None:
        def check(ended: moments.Ended) -> str:
            self.assertTrue(ended.is_fair())
            self.assertFalse(ended.traced)
            if 'Traceback' not in ended.stderr:
                self.assertLessEqual(ended.stderr.count('\n'), 2)
            self.assertNothingLeft()
            self.assertEqual(self.before, shrinking.digest(self.root))
            found = self.triples()
            if ended.status == 0:
                self.assertEqual(3, len(found))
            if 'nothing was left behind' in ended.stderr:
                self.assertEqual([], found)
            self.embedded.remove_images()
            return 'complete' if found else 'none'

        counts = moments.surviving(
            self.run_command,
            moments.points(self.seconds, _COUNT, self.random),
            check,
        )
        self.assertGreater(counts.get('none', 0), _COUNT // 6)
        self.told(counts)

    def test_kill(self) -> None:
        def check(ended: moments.Ended) -> str:
            self.assertEqual(self.before, shrinking.digest(self.root))
            left = os.listdir(self.work)
            for name in left:
                self.assertTrue(_TEMPORARY.fullmatch(name), name)
            self.assertLessEqual(len(left), 2)
            return f'{len(self.images())} images left'

        counts = moments.surviving(
            self.run_command,
            moments.points(
                self.seconds, _SOME // 2, self.random, signal.SIGKILL
            ),
            check,
        )
        ended = self.runner.warm(*self.words)
        self.assertEqual(0, ended.status, ended)
        self.assertNothingLeft()
        self.assertEqual(3, len(self.triples()), ended)
        self.told(counts)
