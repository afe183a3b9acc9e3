# SPDX-License-Identifier: Apache-2.0

"""What ``ami verify --deep`` says of disk images that Glance would refuse.

Glance has looked into what it stores only since 2025; older ones take it.
"""

import dataclasses
import pathlib
import shutil
from unittest import mock

import fixtures

from amiclient import findings
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance.verify import context
from amiclient.glance.verify import deep
from amiclient import process
from amiclient import progress
from amiclient.rootfs import check
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.unit.glance import records
from amiclient.tests.unit.rootfs import images


@dataclasses.dataclass(frozen=True)
class _Fetcher(deep.Fetcher):
    """Has the data already."""

    data: pathlib.Path

    def fetch(
        self, kind: model.Kind, image: model.ImageRecord
    ) -> pathlib.Path:
        target = self.directory / kind.noun
        shutil.copyfile(self.data, target)
        return target


class TestFormats(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.root = images.image(self.directory, {'etc/os-release': b'ID=x\n'})

    def look(
        self,
        path: pathlib.Path,
        format: str,
        *,
        target: str | None = None,
        **properties: str,
    ) -> list[findings.Finding]:
        image = records.record(
            disk_format=format,
            container_format='bare',
            size=path.stat().st_size,
            **properties,
        )
        fetcher = _Fetcher(
            None, self.tmp(), retry.Patience(), progress.QUIET, data=path
        )
        known = context.Context(links.Ami(image), target=target)
        _, found = deep.look(known, fetcher)
        # What is in the root filesystem is not what this is about.
        return [each for each in found if each.rule not in check.RULES]

    def convert(self, kind: str, *options: str) -> pathlib.Path:
        path = self.directory / f'disk.{kind}'
        argv = ['qemu-img', 'convert', '-O', kind, *options, self.root, path]
        process.run(argv, access=None)
        return path

    def test_unclean_without_a_journal(self) -> None:
        for state, rules in (
            ('1', []),
            ('0', ['unclean']),
            ('3', ['unclean']),
        ):
            self.root = images.image(
                self.directory,
                {'etc/os-release': b'ID=x\n'},
                options=('-t', 'ext4', '-O', '^has_journal'),
                edit=(f'set_super_value state {state}',),
            )
            found = self.look(self.root, 'ami')
            self.assertEqual(rules, [each.rule for each in found], state)

    def test_each_format(self) -> None:
        for kind, format in (
            ('qcow2', 'qcow2'),
            ('vdi', 'vdi'),
            ('vhdx', 'vhdx'),
            ('vmdk', 'vmdk'),
            ('vpc', 'vhd'),
        ):
            self.assertEqual([], self.look(self.convert(kind), format), kind)

    def test_another_than_was_said(self) -> None:
        for path, format in (
            (self.root, 'qcow2'),
            (self.convert('vdi'), 'qcow2'),
            (self.convert('qcow2'), 'vmdk'),
        ):
            (found,) = self.look(path, format)
            self.assertEqual('not-a-filesystem', found.rule)
            self.assertIn(f'(no {format} disk image)', found.message)

    def test_a_backing_file(self) -> None:
        path = self.directory / 'other.qcow2'
        options = ('-o', f'backing_file={self.root},backing_fmt=raw')
        argv = ['qemu-img', 'create', '-q', '-f', 'qcow2', *options, path]
        process.run(argv, access=None)
        (found,) = self.look(path, 'qcow2')
        self.assertEqual('not-a-filesystem', found.rule)
        self.assertIn('backing file', found.message)

    def test_damage(self) -> None:
        process.run(
            ['debugfs', '-w', '-R', 'clri <2>', self.root], access=None
        )
        (found,) = self.look(self.convert('qcow2', '-c'), 'qcow2')
        self.assertEqual('damaged', found.rule)

    def test_not_unmounted(self) -> None:
        """Without a journal, nothing else tells; nor do recorded errors."""
        for words, said in (
            (['tune2fs', '-O', '^has_journal', self.root], 'has no journal'),
            (['tune2fs', '-j', self.root], ': e2fsck'),
        ):
            process.run(words, access=None)
            self.assertEqual([], self.look(self.root, 'raw'))
            # 1 is clean, 2 has errors on record.
            state = '0' if said == 'has no journal' else '3'
            argv = ['debugfs', '-w', '-R', f'ssv state {state}', self.root]
            process.run(argv, access=None)
            (found,) = self.look(self.root, 'raw')
            self.assertEqual('unclean', found.rule)
            self.assertIn(said, found.message)
            process.run(['e2fsck', '-fy', self.root], access=None, ok=(0, 1))

    def test_a_partition_where_there_are_none(self) -> None:
        line = 'root=/dev/vda1 quiet'
        (found,) = self.look(self.root, 'raw', os_command_line=line)
        self.assertEqual('command-line', found.rule)
        self.assertIn('root=/dev/vda quiet', found.remedy or '')

    def test_no_filesystem(self) -> None:
        self.root.write_bytes(bytes(1 << 20))
        (found,) = self.look(self.convert('qcow2'), 'qcow2')
        self.assertEqual('not-a-filesystem', found.rule)

    def test_partitions(self) -> None:
        """Which one is booted is up to the kernel command line."""
        whole = disks.make(
            self.directory / 'whole', [disks.Part(16, self.root)], label='dos'
        )
        self.root = whole
        (found,) = self.look(self.convert('qcow2'), 'qcow2')
        self.assertEqual('not-examined', found.rule)
        self.assertIn('partitions', found.message)

    def test_partitions_for_ironic(self) -> None:
        self.root = disks.make(
            self.directory / 'whole', [disks.Part(16, self.root)], label='dos'
        )
        links_to = {'kernel_id': records.kernel().id}
        for path, format in (
            (self.root, 'raw'),
            (self.convert('qcow2'), 'qcow2'),
        ):
            for properties, rule in (
                ({}, 'not-examined'),
                (links_to, 'whole-disk'),
            ):
                (found,) = self.look(
                    path, format, target='ironic', **properties
                )
                self.assertEqual(rule, found.rule)

    def test_no_qemu(self) -> None:
        path = self.convert('qcow2')
        self.useFixture(fixtures.EnvironmentVariable('PATH', '/nowhere'))
        with mock.patch.object(process, '_SBIN', ()):
            (found,) = self.look(path, 'qcow2')
        self.assertEqual('not-examined', found.rule)
        self.assertIn('qemu-nbd was not found', found.message)

    def test_limits(self) -> None:
        """What it is given may be made to keep e2fsck busy for ever."""
        with mock.patch.object(process, 'run', wraps=process.run) as run:
            self.look(self.root, 'raw')
        checks = [c for c in run.call_args_list if c.args[0][0] == 'e2fsck']
        self.assertNotEqual([], checks)
        for call in checks:
            for name in ('limit', 'memory', 'cpu'):
                self.assertIsNotNone(call.kwargs[name])

    def test_a_format_that_is_not_looked_at(self) -> None:
        (found,) = self.look(self.root, 'iso')
        self.assertEqual('note', found.severity)
        self.assertEqual('not-examined', found.rule)
