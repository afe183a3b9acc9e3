# SPDX-License-Identifier: Apache-2.0


import argparse
import io
import logging
import signal
import types

import fixtures
from keystoneauth1 import exceptions as auth_exceptions
from openstack import exceptions as sdk_exceptions
from openstack.image.v1 import _proxy as v1_proxy
from openstack.image.v2 import _proxy as v2_proxy

from amiclient import errors
from amiclient import interrupts
from amiclient.osc import command
from amiclient.osc import watchers
from amiclient import progress
from amiclient.tests import base


class Stream(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


class Show(command.ShowOne):
    """A command that does what a test wants."""

    def take_action(self, parsed_args):
        return (('id',), (self.work(),))


def make(work=lambda: 1, **options):
    """Make a command, and the arguments that it is run with."""
    app = types.SimpleNamespace(
        LOG=logging.getLogger('openstack'),
        stdout=io.StringIO(),
        stderr=Stream(),
        options=types.SimpleNamespace(debug=False, verbose_level=1, **options),
        cloud=types.SimpleNamespace(config={}),
        cloud_config=types.SimpleNamespace(),
        client_manager=types.SimpleNamespace(),
        prepare_to_run_command=lambda command: None,
    )
    made = Show(app, None)
    made.work = work
    parser = made.get_parser('show')
    return made, parser.parse_args(['-f', 'value'])


def raising(error):
    def work():
        raise error

    return work


class TestRun(base.TestCase):
    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger(level=logging.INFO))

    def test_success_is_0_and_the_result(self):
        made, args = make()
        self.assertEqual(0, made.run(args))
        self.assertEqual('1\n', made.app.stdout.getvalue())
        self.assertEqual('', self.log.output)

    def test_each_signal_ends_in_one_line(self):
        for number, status in (
            (signal.SIGINT, 130),
            (signal.SIGTERM, 143),
            (signal.SIGHUP, 129),
        ):
            log = self.useFixture(fixtures.FakeLogger(level=logging.INFO))
            made, args = make(lambda n=number: signal.raise_signal(n))
            self.assertEqual(status, made.run(args))
            self.assertEqual('interrupted\n', log.output)
            self.assertEqual('', made.app.stdout.getvalue())

    def test_notes_of_who_cleaned_up_are_told(self):
        error = interrupts.Interrupted(signal.SIGINT)
        error.add_note('nothing was left behind')
        made, args = make(raising(error))
        self.assertEqual(130, made.run(args))
        self.assertEqual(
            'interrupted; nothing was left behind\n', self.log.output
        )

    def test_a_second_signal_waits_for_the_cleaning(self):
        cleaned = []

        def work():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGINT)
                cleaned.append(1)

        made, args = make(work)
        self.assertEqual(130, made.run(args))
        self.assertEqual([1], cleaned)
        self.assertIn('please wait', made.app.stderr.getvalue())

    def test_our_errors_pass(self):
        error = errors.SourceError('x: not a kernel')
        made, args = make(raising(error))
        self.assertIs(
            error, self.assertRaises(errors.SourceError, made.run, args)
        )

    def test_errors_of_the_system_name_the_file(self):
        made, args = make(raising(PermissionError(13, 'Denied', '/x/y')))
        error = self.assertRaises(errors.AmiError, made.run, args)
        self.assertEqual('/x/y: Denied', str(error))

    def test_numbers_of_open_files_say_nothing(self):
        for name, words in (
            (9, 'Permission denied'),
            (b'caf\xe9', 'caf\\xe9: Permission denied'),
        ):
            error = PermissionError(13, 'Permission denied', name)
            made, parsed = make(raising(error))
            error = self.assertRaises(errors.AmiError, made.run, parsed)
            self.assertEqual(words, str(error))

    def test_a_closed_pipe_is_for_cliff(self):
        made, args = make(raising(BrokenPipeError(32, 'Broken pipe')))
        self.assertRaises(BrokenPipeError, made.run, args)

    def test_errors_of_the_cloud_take_one_line(self):
        for error in (
            auth_exceptions.EndpointNotFound('no\nsuch\n\nendpoint'),
            auth_exceptions.Unauthorized('no\ntoken'),
            sdk_exceptions.SDKException('no\nversion'),
        ):
            made, args = make(raising(error))
            told = self.assertRaises(errors.CloudError, made.run, args)
            self.assertNotIn('\n', str(told))
            self.assertIs(error, told.__cause__)


class TestProxy(base.TestCase):
    def proxy(self, kind, asked=None, where='http://cloud'):
        image = object.__new__(kind)
        made, _ = make()
        made.app.client_manager = types.SimpleNamespace(
            sdk_connection=types.SimpleNamespace(
                image=image,
                config=types.SimpleNamespace(get_api_version=lambda _: asked),
                endpoint_for=lambda _: where,
            )
        )
        return image, made.proxy

    def test_version_2_is_what_is_wanted(self):
        image, proxy = self.proxy(v2_proxy.Proxy)
        self.assertIs(image, proxy())
        for asked in (1, '1', '1.0'):
            _, proxy = self.proxy(v2_proxy.Proxy, asked)
            told = str(self.assertRaises(errors.UsageError, proxy))
            self.assertIn('remove image_api_version', told)

    def test_no_service(self):
        _, proxy = self.proxy(v1_proxy.Proxy, where=None)
        told = str(self.assertRaises(errors.CloudError, proxy))
        self.assertIn('give one with --os-project-name', told)

    def test_version_1_will_not_do(self):
        _, proxy = self.proxy(v1_proxy.Proxy)
        self.assertRaises(sdk_exceptions.SDKException, proxy)


class TestWatch(base.TestCase):
    def watch(self, *, no_progress=False, verbose_level=1, terminal=True):
        self.useFixture(fixtures.EnvironmentVariable('TERM', 'xterm'))
        made, _ = make()
        made.app.options.verbose_level = verbose_level
        if not terminal:
            made.app.stderr = io.StringIO()
        return made.watch(
            argparse.Namespace(no_progress=no_progress, progress='auto')
        )

    def test_bars_are_for_terminals(self):
        self.assertIsInstance(self.watch(), watchers.Bars)
        self.assertIsInstance(self.watch(terminal=False), watchers.Lines)

    def test_there_are_none_if_none_are_wanted(self):
        self.assertIsInstance(self.watch(no_progress=True), progress.Quiet)
        self.assertIsInstance(self.watch(verbose_level=0), progress.Quiet)
