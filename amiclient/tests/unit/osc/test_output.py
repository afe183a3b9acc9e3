# SPDX-License-Identifier: Apache-2.0

"""What reaches the terminal is safe, and what is in a pipe is as it was."""

import io
import json
import logging
import types

from cliff import columns as cliff_columns
import fixtures
from osc_lib.cli import format_columns
from osc_lib import exceptions as osc_exceptions

from amiclient import errors
from amiclient.osc import command
from amiclient.osc import output
from amiclient.tests import base

_EVIL = 'web\x1b]0;owned\x07\n\u202etxt'
_SAFE = 'web\\x1b]0;owned\\x07\\n\\u202etxt'


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class Show(command.ShowOne):
    auth_required = False

    def take_action(self, parsed_args):
        return (
            ('name', 'tags', 'properties', 'size'),
            (
                _EVIL,
                format_columns.ListColumn([_EVIL]),
                format_columns.DictColumn({_EVIL: _EVIL}),
                5,
            ),
        )


class List(command.Lister):
    auth_required = False

    def take_action(self, parsed_args):
        return ('Name', 'Size'), iter([(_EVIL, None), ('fine', 3)])


class Failing(command.ShowOne):
    auth_required = False

    def take_action(self, parsed_args):
        raise osc_exceptions.CommandError(f'no project {_EVIL}')


class Talking(command.ShowOne):
    auth_required = False

    def take_action(self, parsed_args):
        logging.getLogger('amiclient.x').warning('%s is odd', _EVIL)
        logging.getLogger('amiclient.x').debug('%s\nmore', _EVIL)
        return ('id',), (1,)


def run(kind, formatter, stream):
    app = types.SimpleNamespace(
        LOG=logging.getLogger('openstack'),
        stdout=stream,
        stderr=io.StringIO(),
        options=types.SimpleNamespace(debug=False, verbose_level=1),
    )
    made = kind(app, None)
    made.run(made.get_parser('x').parse_args(['-f', formatter]))
    return stream.getvalue()


class TestOutput(base.TestCase):
    def assertSafe(self, printed):
        left = [c for c in printed if not c.isprintable() and c != '\n']
        self.assertEqual([], left, printed)

    def test_tables_are_safe_wherever_they_go(self):
        for kind in (Show, List):
            for stream in (io.StringIO(), Screen()):
                printed = run(kind, 'table', stream)
                self.assertSafe(printed)
                self.assertIn(_SAFE, printed)

    def test_every_format_is_safe_on_a_terminal(self):
        for kind in (Show, List):
            for formatter in ('value', 'csv', 'yaml', 'json', 'shell'):
                if (kind, formatter) in ((Show, 'csv'), (List, 'shell')):
                    continue
                printed = run(kind, formatter, Screen())
                self.assertSafe(printed)
                self.assertNotIn('\nowned', printed)

    def test_values_in_a_pipe_are_as_they_are(self):
        self.assertIn(_EVIL, run(List, 'value', io.StringIO()))
        self.assertIn(_EVIL, run(Show, 'value', io.StringIO()))
        self.assertIn(_EVIL, run(List, 'csv', io.StringIO()))

    def test_json_is_exact_on_a_terminal_too(self):
        for stream in (io.StringIO(), Screen()):
            found = json.loads(run(Show, 'json', stream))
            self.assertEqual(_EVIL, found['name'])
            self.assertEqual([_EVIL], found['tags'])
            self.assertEqual({_EVIL: _EVIL}, found['properties'])

    def test_numbers_and_nothing_stay(self):
        row = output.safe((5, None, True, ('a\n', 1), {'k\n': ['v\t']}))
        self.assertEqual((5, None, True, ('a\\n', 1), {'k\\n': ['v\\t']}), row)

    def test_columns_keep_their_kind_and_lines(self):
        class Lines(cliff_columns.FormattableColumn):
            def human_readable(self):
                return '\n'.join(self._value)

        (made,) = output.safe((Lines(['a\x1b', 'b']),))
        self.assertIsInstance(made, Lines)
        self.assertEqual('a\\x1b\nb', made.human_readable())


class TestErrorsAndLogs(base.TestCase):
    def test_errors_that_are_not_ours(self):
        error = self.assertRaises(
            errors.AmiError, run, Failing, 'table', io.StringIO()
        )
        self.assertEqual(f'no project {_SAFE}', str(error))

    def test_logs(self):
        log = self.useFixture(fixtures.FakeLogger(level=logging.DEBUG))
        run(Talking, 'value', io.StringIO())
        lines = log.output.splitlines()
        self.assertIn(f'{_SAFE} is odd', lines)
        self.assertIn('\\u202etxt', lines)
        self.assertIn('more', lines)

    def test_filters_go_with_the_command(self):
        handler = logging.getLogger().handlers
        self.useFixture(fixtures.FakeLogger())
        before = [list(one.filters) for one in handler]
        run(Talking, 'value', io.StringIO())
        self.assertEqual(before, [list(one.filters) for one in handler])
