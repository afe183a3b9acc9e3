# SPDX-License-Identifier: Apache-2.0

"""Tables are for people, and all else is for scripts."""

import dataclasses
import io
import json
import logging
import os
import types
from unittest import mock

import fixtures

from amiclient.glance.change import copy as change_copy
from amiclient.glance.change import share
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance.verify import rules
from amiclient.osc import ami
from amiclient.osc import ami_change
from amiclient.osc import columns
from amiclient.osc import copy
from amiclient.osc import local
from amiclient.osc import parts
from amiclient.osc import tables
from amiclient.tests import base
from amiclient.tests.unit.glance import records
from amiclient.tests.unit.osc import test_columns_amis
from amiclient.tests.unit.osc import test_progress

#: As they are in real clouds.
_NAME = 'debian-12-genericcloud-amd64'
_KERNEL = records.kernel(name='vmlinuz-6.1.0-18-amd64', size=8 << 20)
_RAMDISK = records.record(
    id='c' * 8 + '-1111-4222-8333-' + 'c' * 12,
    name='initrd.img-6.1.0-18-amd64',
    disk_format='ari',
    container_format='ari',
    size=30 << 20,
)
_IMAGE = records.record(
    id='a' * 8 + '-1111-4222-8333-' + 'a' * 12,
    owner='b' * 32,
    name=_NAME,
    size=557 << 20,
    kernel_id=_KERNEL.id,
    ramdisk_id=_RAMDISK.id,
    architecture='x86_64',
    os_distro='debian',
    os_version='12',
    tags=['web', 'production'],
    stores='fast,cheap',
)
AMI = links.Ami(_IMAGE, _KERNEL, _RAMDISK)
BAD = rules.Report(AMI, (test_columns_amis.BAD,))


def printed(kind, result, *words, stream=None):
    """Print a result as a command would."""
    stream = test_progress.Terminal() if stream is None else stream
    app = types.SimpleNamespace(
        LOG=logging.getLogger('openstack'),
        stdout=stream,
        stderr=io.StringIO(),
        options=types.SimpleNamespace(verbose_level=1),
    )
    made = kind(app, None)
    parsed_args = made.get_parser('x').parse_args(words)
    with (
        mock.patch.object(kind, 'take_action', lambda *_: result),
        mock.patch.object(kind, 'auth_required', new=False),
    ):
        made._logs_in = False
        made.run(parsed_args)
    return stream.getvalue()


def show(*words, report=BAD, **rest):
    result = columns.one(columns.AMI, report)
    return printed(ami.ShowAmi, result, *words, 'x', **rest)


def listed(*words, found=(BAD,), stream=None, **chosen):
    table = columns.amis(**{'long': False, 'check': False, **chosen})
    result = columns.many(table, found)
    return printed(ami.ListAmi, result, *words, stream=stream)


class TableTest(base.TestCase):
    def setUp(self):
        super().setUp()
        self.screen(80)

    def screen(self, width):
        size = os.terminal_size((width, 24))
        self.patch(tables.shutil, 'get_terminal_size', lambda: size)


class TestShow(TableTest):
    def test_a_screen_is_enough(self):
        text = show()
        lines = text.splitlines()
        # The command itself and the next prompt take one each.
        self.assertLessEqual(len(lines), 22)
        self.assertLessEqual(max(map(len, lines)), 80)
        for once in (_KERNEL.name, _RAMDISK.name, '557.0 MiB', 'debian '):
            self.assertEqual(1, text.count(once), once)

    def test_rows_can_be_asked_for(self):
        text = show('-c', 'hash_value', '-c', 'kernel_size')
        self.assertIn('| kernel_size | 8.0 MiB', text)
        self.assertIn('| hash_value ', text)

    def test_all_else_is_for_scripts(self):
        for stream in (io.StringIO(), test_progress.Terminal()):
            found = json.loads(show('-f', 'json', stream=stream))
            self.assertEqual(557 << 20, found['size'])
            self.assertEqual('debian', found['os_distro'])
            self.assertEqual('debian', found['properties']['os_distro'])
            self.assertEqual(8 << 20, found['kernel']['size'])
        self.assertIn(str(557 << 20), show('-f', 'value', '-c', 'size'))
        self.assertIn(str(557 << 20), show(stream=io.StringIO()))

    def test_whoever_knows_better_says_so(self):
        self.assertIn(
            '557.0 MiB', show('--human-readable', stream=io.StringIO())
        )
        for value, found in (('1', '557.0 MiB'), ('0', str(557 << 20))):
            self.useFixture(
                fixtures.EnvironmentVariable(tables.VARIABLE, value)
            )
            for stream in (io.StringIO(), test_progress.Terminal()):
                self.assertIn(found, show(stream=stream))
        text = show('--no-human-readable')
        self.assertIn(str(557 << 20), text)
        self.assertIn('8388608 bytes', text)
        self.assertNotIn('MiB', text)

    def test_no_python_is_printed(self):
        for formatter in ('value', 'shell'):
            text = show('-f', formatter)
            self.assertNotIn('{', text)
            self.assertIn('error: less-visible: It fails', text)


class TestList(TableTest):
    def test_eighty_columns_are_enough(self):
        text = listed()
        self.assertLessEqual(max(map(len, text.splitlines())), 80)
        self.assertIn(' vmlinuz-6.1.0-18- ', text)
        self.assertNotIn(_IMAGE.id, text)

    def test_ids_are_there_if_they_fit(self):
        self.screen(160)
        self.assertIn(f'| {_IMAGE.id} |', listed())
        self.assertNotIn(_KERNEL.id, listed())

    def test_ids_are_there_if_they_are_wanted(self):
        self.assertIn(f'| {_IMAGE.id} |', listed('-c', 'ID', '-c', 'Kernel'))
        text = listed('--long', long=True)
        for image in (_IMAGE, _KERNEL, _RAMDISK):
            self.assertIn(f' {image.id} ', text)
        for formatter in ('value', 'json', 'csv'):
            self.assertIn(_KERNEL.id, listed('-f', formatter))

    def test_no_python_is_printed(self):
        for formatter in ('value', 'csv'):
            text = listed('-f', formatter, check=True)
            self.assertNotIn('{', text)
            self.assertIn('error: less-visible', text)

    def test_ids_tell_those_of_one_name_apart(self):
        other = dataclasses.replace(_IMAGE, id='f' * 36)
        text = listed(found=(BAD, rules.Report(links.Ami(other, _KERNEL))))
        self.assertIn(_IMAGE.id, text)


class TestCopy(TableTest):
    def test_eighty_columns_are_enough(self):
        done = change_copy.CopyResult(
            'region RegionTwo', 'copied', 'a' * 36, 'b' * 36, 'c' * 36,
            'glance-download', 557 << 20,
        )  # fmt: skip
        words = ('x', '--to-region', 'RegionTwo')

        def told(*more):
            result = columns.copied([done], dry_run=False)
            return printed(copy.CopyAmi, result, *words, *more)

        text = told()
        self.assertLessEqual(max(map(len, text.splitlines())), 80)
        for word in ('| Target ', '| ID ', 'a' * 36, '557.0 MiB'):
            self.assertIn(word, text)
        for word in ('b' * 36, 'Reused'):
            self.assertNotIn(word, text)
        text = told('-f', 'json')
        for word in ('"kernel_id"', '"reused"', 'glance-download'):
            self.assertIn(word, text)
        text = told('-c', 'kernel_id', '-c', 'Way')
        self.assertIn('| Kernel ID ', text)
        self.assertIn('glance-download', text)


class TestAddProject(TableTest):
    def test_eighty_columns_are_enough(self):
        image = dataclasses.replace(_IMAGE, name='debian-13-generic')
        made = [
            share.Shared(model.Kind.AMI, image, project * 32, 'pending')
            for project in 'ab'
        ]

        def told(*more):
            result = columns.many(columns.SHARED, made)
            return printed(ami_change.AddProject, result, 'x', 'a', *more)

        text = told()
        self.assertLessEqual(max(map(len, text.splitlines())), 80)
        for word in ('a' * 32, 'b' * 32, image.name, 'pending'):
            self.assertIn(word, text)
        self.assertIn(image.id, told('-c', 'Image'))


class TestKernelUpload(TableTest):
    def test_there_is_no_row_that_means_nothing(self):
        result = columns.uploaded(_KERNEL, 8 << 20, ())
        text = printed(parts.UploadKernel, result, 'x')
        for row in ('kernel_id', 'ramdisk_id', 'size_before'):
            self.assertNotIn(row, text)
        found = printed(parts.UploadKernel, result, 'x', '-f', 'json')
        self.assertIn('kernel_id', found)


class TestFitting(TableTest):
    def test_ids_stay_whole(self):
        (rows,) = tables._fit(['ID', 'Note'], [[_IMAGE.id, 'words ' * 20]])
        self.assertEqual(_IMAGE.id, rows[0])
        self.assertGreater(len(rows[1].splitlines()), 2)

    def test_what_cannot_fit_stays_as_it_is(self):
        row = [_IMAGE.id, _IMAGE.id, 'words ' * 20]
        self.assertEqual([row], tables._fit(['a', 'b', 'c'], [row]))


class TestFindings(TableTest):
    def run_check(self, found, *words):
        stream = io.StringIO()
        app = types.SimpleNamespace(
            LOG=logging.getLogger('openstack'),
            stdout=stream,
            stderr=io.StringIO(),
            options=types.SimpleNamespace(verbose_level=1),
        )
        made = local.CheckSource(app, None)
        parsed_args = made.get_parser('x').parse_args(['x.img', *words])

        def take_action(parsed_args):
            return made.result(parsed_args, 'x.img', found)

        with mock.patch.object(made, 'take_action', take_action):
            made.run(parsed_args)
        return stream.getvalue(), app.stderr.getvalue()

    def test_headings(self):
        text, said = self.run_check([test_columns_amis.BAD], '-c', 'rule')
        self.assertIn('| Rule ', text)
        self.assertEqual('', said)
        text, _ = self.run_check([test_columns_amis.BAD], '-f', 'json')
        self.assertEqual(
            {'severity', 'rule', 'message', 'remedy'}, {*json.loads(text)[0]}
        )

    def test_what_is_sound_is_said_to_be(self):
        self.assertEqual('x.img is sound\n', self.run_check([])[1])


class TestLayout(base.TestCase):
    def parse(self, *words):
        parser = ami.SaveAmi(None, None).get_parser('openstack ami save')
        return parser.parse_args(['web', *words]), parser.format_help()

    def test_format_is_that_of_the_output(self):
        for words, layout, formatter in (
            ((), 'directory', 'table'),
            (('--layout', 'uec', '--format', 'json'), 'uec', 'json'),
            (('--layout', 'uec', '-f', 'value'), 'uec', 'value'),
            # As it was once.
            (('--format', 'uec', '-f', 'json'), 'uec', 'json'),
            (('--format', 'directory'), 'directory', 'table'),
        ):
            found, _ = self.parse(*words)
            self.assertEqual(layout, found.layout, words)
            self.assertEqual(formatter, found.formatter, words)

    def test_nothing_is_said_of_how_it_was(self):
        text = ' '.join(self.parse()[1].split())
        self.assertIn('--layout {directory,uec}', text)
        self.assertIn('--format {json,shell,table,value,yaml}', text)
