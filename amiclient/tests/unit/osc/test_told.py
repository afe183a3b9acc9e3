# SPDX-License-Identifier: Apache-2.0

"""What is not done as it was said is told, and so is what is left out."""

import gzip
import os
import pathlib
import threading

import fixtures

from amiclient import errors
from amiclient.ext import superblock
from amiclient.osc import local
from amiclient import process
from amiclient import progress
from amiclient.tests import base

KIB = 1024


class TestCase(base.TestCase):
    def told(self, kind: type, *words: object) -> str:
        log = self.useFixture(fixtures.FakeLogger())
        command = kind(None, None)
        command.watch = lambda parsed_args: progress.QUIET
        parser = command.get_parser('openstack')
        command.take_action(parser.parse_args([str(w) for w in words]))
        return log.output


class TestBehind(TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.image = self.tmp() / 'root.img'
        process.run(
            ['mke2fs', '-q', '-t', 'ext4', self.image, '4M'], access=None
        )

    def test_data_behind_the_filesystem(self) -> None:
        with self.image.open('ab') as file:
            file.write(b'more')
        target = self.tmp() / 'target'
        for kind, words in (
            (local.CheckSource, ()),
            (local.InspectSource, ()),
            (local.ExtractSource, ('--directory', target)),
        ):
            self.assertIn(
                'the 4 bytes after its filesystem',
                self.told(kind, self.image, *words),
            )

    def test_none(self) -> None:
        self.assertNotIn(
            'bytes after', self.told(local.CheckSource, self.image)
        )


class TestRefused(TestCase):
    def refusal(self, path: pathlib.Path) -> str:
        error = self.assertRaises(
            errors.SourceError, self.told, local.InspectSource, path
        )
        return str(error)

    def test_a_fifo(self) -> None:
        """What comes through it is looked at, as a file is."""
        path = self.tmp() / 'fifo'
        os.mkfifo(path)
        self.useFixture(fixtures.Timeout(60, gentle=True))
        writer = threading.Thread(target=path.write_bytes, args=(b'GIF89a',))
        writer.start()
        self.addCleanup(writer.join)
        self.assertIn(f'{path}: ', self.refusal(path))

    def test_a_compressed_layer(self) -> None:
        """It is called by the name that the user gave."""
        directory = self.tmp()
        layer = directory / 'layer.qcow2'
        process.run(
            ['qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw',
             '-b', '/etc/passwd', layer], access=None
        )  # fmt: skip
        path = directory / 'layer.qcow2.gz'
        path.write_bytes(gzip.compress(layer.read_bytes()))
        self.assertIn(
            f'{path}: it has the backing file /etc/passwd', self.refusal(path)
        )


class TestBuild(TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.source, self.directory = self.tmp(), self.tmp()
        (self.source / 'file').write_text('content')
        self.output = self.directory / 'root.img'

    def build(self, *words: str) -> str:
        return self.told(
            local.BuildImage, self.source, '--output', self.output, *words
        )

    def refused(self, *words: str) -> str:
        error = self.assertRaises(errors.UsageError, self.build, *words)
        self.assertEqual([], list(self.directory.iterdir()))
        return str(error)

    def test_no_whole_number_of_blocks(self) -> None:
        self.assertEqual(
            '--size of 10000001 bytes is not a whole number of blocks of '
            '4096 bytes; give 9998336 or 10002432',
            self.refused('--size', '10000001'),
        )
        self.assertEqual(
            '--journal of 5000001 bytes is not a whole number of blocks of '
            '4096 bytes; give 4997120 or 5001216',
            self.refused('--journal', '5000001'),
        )
        self.assertEqual(
            '--size of 1 bytes is not a whole number of blocks of 4096 '
            'bytes; give 4096',
            self.refused('--size', '1'),
        )

    def test_a_last_group_that_is_too_small(self) -> None:
        self.assertEqual(
            '--size of 134221824 bytes leaves too few blocks for a last '
            'block group; give 134217728, or some MiB more',
            self.refused('--size', f'{128 * KIB + 4}K'),
        )
        self.build('--size', '134217728')
        self.assertEqual(128 * KIB * KIB, self.output.stat().st_size)

    def test_as_it_was_said(self) -> None:
        for words in (('--size', '64M'), ('--journal', '4M'), ()):
            self.assertEqual('', self.build(*words))

    def test_no_less_headroom_than_was_said(self) -> None:
        self.build('--headroom', '1000001')
        found = superblock.read(self.output)
        self.assertLess(1000001, found.free_blocks * found.block_size)
