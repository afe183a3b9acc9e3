# SPDX-License-Identifier: Apache-2.0

"""Features that change what a filesystem's own files and metadata are."""

import pathlib
from typing import Any

import fixtures

from amiclient import errors
from amiclient.ext import busy
from amiclient.ext import shrink
from amiclient.ext import superblock
from amiclient import process
from amiclient.tests import base
from amiclient.tests.unit.ext import shrinking
from amiclient import units

_MIB = 1 << 20


class TestFeatures(base.TestCase):
    def check(
        self, image: pathlib.Path, journal: str | int, *, mib: int = 0
    ) -> None:
        """Shrink a filesystem both ways, and compare what it holds."""
        before = shrinking.header(image)
        output = image.with_name('output')
        copy = image.with_name('copy')
        copy.write_bytes(image.read_bytes())
        for path, rest in (
            (output, {'output': output}),
            (copy, {'in_place': True}),
        ):
            source = image if path == output else copy
            done = shrinking.shrunk(source, journal=journal, **rest)
            self.assertEqual(done.size, path.stat().st_size)
            self.assertTrue(shrinking.is_sound(path))
            self.assertEqual([], shrinking.differences(image, path))
            after = shrinking.header(path)
            features = set(before['Filesystem features'].split())
            if journal == 'none':
                features -= {'has_journal', 'orphan_file'}
            self.assertEqual(
                features, set(after['Filesystem features'].split())
            )
            if mib:
                self.assertEqual(f'{mib * 1024}k', after['Total journal size'])


class TestOrphanFile(TestFeatures):
    """The file of orphans, which newer mke2fs make, needs a journal."""

    def all_ways(self, features: str, *options: str) -> None:
        image = shrinking.small(
            self.tmp(), features=f'has_journal,orphan_file,{features}',
            options=options, data=_MIB,
        )  # fmt: skip
        size = self.size(image)
        for journal in ('keep', 'none', 2 * _MIB):
            whole = isinstance(journal, int)
            self.check(image, journal, mib=2 if whole else 0)
            kept = self.size(image.with_name('output'))
            self.assertEqual(0 if journal == 'none' else size, kept)

    def size(self, image: pathlib.Path) -> int:
        found = superblock.read(image)
        return shrinking.inode_size(image, found.orphan_inode)

    def test_by_default(self) -> None:
        self.all_ways('extent')

    def test_no_flex_bg(self) -> None:
        self.all_ways('^flex_bg,^metadata_csum')

    def test_clusters(self) -> None:
        self.all_ways('inline_data,bigalloc', '-C', '4096', '-I', '512')

    def test_of_another_size(self) -> None:
        self.all_ways('extent', '-E', 'orphan_file_size=48k')

    def test_moves_along(self) -> None:
        # tune2fs could not make this journal, of no whole MiB, anew.
        image = shrinking.small(
            self.tmp(), features='has_journal,orphan_file,fast_commit',
            data=_MIB,
        )  # fmt: skip
        self.check(image, 'keep')

    def test_plan(self) -> None:
        image = shrinking.small(
            self.tmp(), features='has_journal,orphan_file', data=_MIB
        )
        wanted = shrinking.request(
            image, journal='none', output=image.with_name('output')
        )
        planned = shrink.plan(wanted, exact=True)
        self.assertEqual(planned.size, shrink.execute(planned).size)
        self.assertLessEqual(
            shrink.plan(wanted).lower_bound, planned.lower_bound
        )


class TestBackups(TestFeatures):
    def test_of_groups_that_come_back(self) -> None:
        # The journal takes a second group, and so a backup, again.
        image = shrinking.small(
            self.tmp(), size=48 * _MIB, features='has_journal,sparse_super2'
        )
        for journal in ('keep', 'none'):
            self.check(image, journal)


class TestClusters(TestFeatures):
    def test_descriptors_in_their_groups_and_blocks_of_1k(self) -> None:
        # Then block 0 belongs to the first group, and holds no superblock.
        image = shrinking.small(
            self.tmp(), size=64 * _MIB, data=_MIB,
            features='has_journal,bigalloc,meta_bg,^resize_inode',
            options=('-C', '2048'),
        )  # fmt: skip
        for journal in ('keep', 'none'):
            self.check(image, journal)


class TestProtected(TestFeatures):
    """Multiple mount protection: every program would wait for minutes."""

    def image(self, interval: int, *options: str) -> pathlib.Path:
        return shrinking.small(
            self.tmp(), features='has_journal,mmp', data=_MIB,
            options=('-E', f'mmp_update_interval={interval}', *options),
        )  # fmt: skip

    def set_number(self, image: pathlib.Path, number: int) -> None:
        """Have its block say that it is in use."""
        block = superblock.read(image).mmp_block
        shrinking.overwrite(
            image, block * 1024 + 4, number.to_bytes(4, 'little')
        )

    def refused(self, image: pathlib.Path, *words: str) -> None:
        before = shrinking.digest(image)
        error = self.assertRaises(
            errors.BusyError, shrink.plan, shrinking.request(image)
        )
        for word in words:
            self.assertIn(word, str(error))
        self.assertEqual(before, shrinking.digest(image))

    def test_is_not_waited_for(self) -> None:
        image = self.image(300)
        before = shrinking.header(image)
        for journal in ('keep', 'none'):
            self.check(image, journal)
            header = shrinking.header(image.with_name('output'))
            self.assertEqual('300', header['MMP update interval'])
            for name in ('mmp_node_name', 'mmp_update_time'):
                self.assertEqual(before[name], header[name], name)
            found = superblock.read(image.with_name('output'))
            busy.refuse_live(image.with_name('output'), found)

    def test_clusters(self) -> None:
        image = shrinking.small(
            self.tmp(), features='has_journal,mmp,bigalloc', data=_MIB,
            options=('-C', '4096', '-E', 'mmp_update_interval=300'),
        )  # fmt: skip
        self.check(image, 'keep')

    def test_mounted_on_another_host(self) -> None:
        image = self.image(5)
        self.set_number(image, 7)
        slept = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            self.set_number(image, 8)

        self.useFixture(fixtures.MonkeyPatch('time.sleep', sleep))
        error = self.assertRaises(
            errors.BusyError, busy.refuse_live, image,
            superblock.read(image),
        )  # fmt: skip
        self.assertIn(f'{image} is mounted on the host', str(error))
        self.assertEqual([11], slept)

    def test_not_unmounted(self) -> None:
        image = self.image(60)
        self.set_number(image, 7)
        slept = []
        self.useFixture(fixtures.MonkeyPatch('time.sleep', slept.append))
        busy.refuse_live(image, superblock.read(image))
        self.assertEqual([120], slept)

    def test_checked_meanwhile(self) -> None:
        image = self.image(300)
        self.set_number(image, 0xE24D4D50)
        self.refused(image, 'in use by e2fsck', 'tune2fs -f -E clear_mmp')


class TestRefused(base.TestCase):
    """What cannot be done is known before anything is tried."""

    def refused(self, image: pathlib.Path, **rest: Any) -> str:
        before = shrinking.digest(image)
        wanted = shrinking.request(image, **rest)
        error = self.assertRaises(errors.UsageError, shrink.plan, wanted)
        self.assertEqual(before, shrinking.digest(image))
        return str(error)

    def test_headroom_that_its_groups_cannot_have(self) -> None:
        image = shrinking.small(self.tmp())
        headroom = units.Headroom(size=1 << 40)
        words = self.refused(image, headroom=headroom)
        # 8192 blocks of a group, but for 2 bitmaps, a superblock and its
        # inodes, hold 16 descriptors each.
        found = superblock.read(image)
        most = (8192 - 3 - found.inode_blocks) * 16 * (8 << 20)
        self.assertIn(f'larger than {units.format_size(most)}', words)

    def test_immutable(self) -> None:
        image = shrinking.small(self.tmp())
        try:
            process.run(['chattr', '+i', image], access=None)
        except errors.ProgramError as error:
            self.skipTest(f'no such flags here: {error}')
        self.addCleanup(process.run, ['chattr', '-i', image], access=None)
        for rest in ({}, {'in_place': True}):
            words = self.refused(image, **rest)
            self.assertIn(f'{image} is immutable', words)
        shrinking.shrunk(image, output=image.with_name('output'))
