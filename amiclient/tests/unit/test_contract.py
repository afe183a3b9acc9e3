# SPDX-License-Identifier: Apache-2.0

"""What scripts rely on does not change: options, columns and JSON keys.

``contract.json`` beside this file has them; the wording of the help is not
part of it. A change that is meant is written there by::

    AMICLIENT_UPDATE_CONTRACT=1 stestr run test_contract
"""

import json
import os
import pathlib
from typing import Any
from unittest import mock

from cliff import command
from cliff import lister
from cliff import show

from amiclient.osc import columns
from amiclient.tests import base
from amiclient.tests import schema
from amiclient.tests.unit import test_plugin

_GOLDEN = pathlib.Path(__file__).with_name('contract.json')

#: The classes of cliff's that commands are made of, made whole.
_Bare: dict[type, type[command.Command]] = {
    class_: type(class_.__name__, (class_,), {'take_action': None})
    for class_ in (show.ShowOne, lister.Lister, command.Command)
}


def options(class_: type[command.Command]) -> list[str]:
    """Describe each option of a command: a line without its help text.

    What every command of cliff's takes, such as ``-f``, is cliff's contract.
    """
    of_cliff = {
        name
        for base_ in (show.ShowOne, lister.Lister, command.Command)
        if issubclass(class_, base_)
        for action in _Bare[base_](None, None).get_parser('')._actions
        for name in action.option_strings
    }
    parser = class_(None, None).get_parser('')
    exclusive = {
        id(action): number
        for number, group in enumerate(parser._mutually_exclusive_groups)
        for action in group._group_actions
    }
    found = []
    for action in parser._actions:
        names = action.option_strings or [action.dest]
        if of_cliff.isdisjoint(names):
            facts = {
                'metavar': action.metavar,
                'choices': action.choices and sorted(action.choices),
                'nargs': action.nargs,
                'required': action.required or None,
                'default': action.default,
                'exclusive': exclusive.get(id(action)),
            }
            told = (f'{k}={v}' for k, v in facts.items() if v is not None)
            kind = type(action).__name__.strip('_')
            found.append(' '.join((*names, kind, *told)))
    return sorted(found)


def headers(table: Any, short: Any = None) -> list[str]:
    """Name the columns of a table; those of --long alone are marked."""
    more = {*table}.difference(table if short is None else short)
    return [f'{h} (--long)' if h in more else h for h in table]


def listed(choose: Any, **kwargs: bool) -> list[str]:
    """Name the columns of a list, those of --long included."""
    return headers(choose(long=True, **kwargs), choose(long=False, **kwargs))


def tables() -> dict[str, list[str]]:
    """Name the columns of each command, and the keys of nested records."""
    any_ = mock.MagicMock()
    report = mock.MagicMock(found=())
    return {
        'audit': headers(columns.AUDITED),
        'boot': headers(columns.BOOTED),
        'build': headers(columns.BUILT),
        'check, verify': headers(columns.FINDING),
        'check, verify: row': headers(
            columns.rows(columns.FINDING, [any_])[0]
        ),
        'extract': headers(columns.EXTRACTED),
        'inspect': headers(columns.INSPECTED),
        'inspect: kernels': headers(columns.KERNEL),
        'inspect: partitions': headers(columns.PARTITION),
        'list': listed(columns.amis, check=False),
        'list --check': listed(columns.amis, check=True),
        'list --family': listed(columns.amis, check=False, family=True),
        'packages': headers(columns.PACKAGE),
        'save': headers(columns.SAVED),
        'share': headers(columns.SHARED),
        'show': headers(columns.AMI),
        'show: kernel': headers(columns.linked(report, 'kernel')),
        'shrink': headers(columns.SHRUNK),
        'shrink --dry-run': headers(columns.SHRINK_PLAN),
        'upload': headers(columns.UPLOAD),
        'upload: plan': headers(columns.STEP),
        'kernel, ramdisk list': listed(columns.parts),
        'kernel, ramdisk show': headers(columns.PART),
    }


class TestContract(base.TestCase):
    maxDiff = None

    def test_golden(self) -> None:
        found = {
            'options': {
                name: options(class_)
                for name, class_ in sorted(test_plugin.commands().items())
            },
            'tables': tables(),
        }
        if os.environ.get('AMICLIENT_UPDATE_CONTRACT'):
            _GOLDEN.write_text(json.dumps(found, indent=1) + '\n')
        # Through JSON, as what is compared with came through it.
        self.assertEqual(
            json.loads(_GOLDEN.read_text()), json.loads(json.dumps(found))
        )

    def test_schema(self) -> None:
        """Each command that prints something tells what, on its page."""
        if not schema.PATH.exists():
            self.skipTest('this is not the repository')
        for name, class_ in test_plugin.commands().items():
            if issubclass(class_, show.ShowOne | lister.Lister):
                self.assertTrue(schema.columns(name.replace('_', ' ')))
        found = tables()
        for name, also in (
            ('list', ['list --check', 'list --family']),
            ('upload', []),
            ('show', []),
            ('shrink', ['shrink --dry-run']),
            ('inspect', []),
            ('boot', []),
            ('build', []),
            ('extract', []),
            ('save', []),
            ('packages', []),
            ('audit', []),
        ):
            printed = {
                header.removesuffix(' (--long)')
                for each in (name, *also)
                for header in found[each]
            }
            # Of what an option asks for.
            more = {'plan', 'copies'} if name == 'upload' else set()
            self.assertEqual(printed | more, schema.columns(f'ami {name}'))
        self.assertEqual({*columns.APPLIED}, schema.columns('ami apply'))
        for name, of in (
            ('finding', 'check, verify'),
            ('found kernel', 'inspect: kernels'),
            ('partition', 'inspect: partitions'),
            ('linked', 'show: kernel'),
            ('step', 'upload: plan'),
            ('ami add project', 'share'),
            ('ami kernel show', 'kernel, ramdisk show'),
        ):
            self.assertEqual({*found[of]}, schema.columns(name))
