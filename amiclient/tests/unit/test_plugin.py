# SPDX-License-Identifier: Apache-2.0

"""``openstack`` can load the plugin, and is not held up by it.

The contract is what python-openstackclient's ``common/clientmanager.py`` and
``shell.py`` do with the modules that ``openstack.cli.extension`` names.
"""

import argparse
from importlib import metadata
import json
import subprocess
import sys

from cliff import command

from amiclient.osc import plugin
from amiclient.tests import base

#: Modules that take long to import. Some are loaded by other commands, but
#: not by all of their versions.
_HEAVY = (
    # Our own, for the sake of their many dataclasses.
    'amiclient.ext',
    'amiclient.glance.http_errors',
    'amiclient.glance.model',
    'amiclient.osc.columns',
    'amiclient.rootfs',
    'amiclient.source',
    'amiclient.tests',
    'asyncio',
    'cryptography',
    'multiprocessing',
    'oslo_utils',
    'rich',
    'tarfile',
    'xml',
)

#: Loads the plugin; tells which modules came with it. Before that, with
#: "all", it loads what any command loads; else, what commands are made of.
_LOAD = """
import json, sys, warnings
warnings.simplefilter('ignore')
from importlib import metadata
import cliff.columns, openstack, openstackclient.shell
import osc_lib.command.command, osc_lib.utils
from osc_lib.cli import format_columns, identity, parseractions

def load(group, ours):
    for entry_point in metadata.entry_points(group=group):
        if entry_point.value.startswith('amiclient.') == ours:
            entry_point.load()

if sys.argv[1:] == ['all']:
    for group in sorted(metadata.entry_points().groups):
        if group.startswith('openstack.'):
            load(group, ours=False)
before = set(sys.modules)
for group in ('openstack.cli.extension', 'openstack.ami.v1'):
    load(group, ours=True)
json.dump(sorted(set(sys.modules) - before), sys.stdout)
"""


def commands() -> dict[str, type[command.Command]]:
    """Load every command, by the name of its entry point."""
    found = metadata.entry_points(group='openstack.ami.v1')
    return {entry_point.name: entry_point.load() for entry_point in found}


class TestPlugin(base.TestCase):
    def test_is_registered(self) -> None:
        (entry_point,) = metadata.entry_points(
            group='openstack.cli.extension', name='ami'
        )
        self.assertIs(plugin, entry_point.load())

    def test_contract(self) -> None:
        self.assertEqual('ami', plugin.API_NAME)
        self.assertEqual('os_ami_api_version', plugin.API_VERSION_OPTION)
        self.assertIn(plugin.DEFAULT_API_VERSION, plugin.API_VERSIONS)
        self.assertIsInstance(plugin.API_VERSIONS, tuple | dict)
        plugin.make_client(object())
        parser = argparse.ArgumentParser()
        self.assertIs(parser, plugin.build_option_parser(parser))

    def test_version_names_the_group(self) -> None:
        group = f'openstack.{plugin.API_NAME}.v{plugin.DEFAULT_API_VERSION}'
        self.assertNotEqual((), tuple(metadata.entry_points(group=group)))

    def test_commands_load(self) -> None:
        found = commands()
        self.assertLessEqual({'ami_shrink', 'ami_upload'}, {*found})
        for name, class_ in found.items():
            self.assertTrue(issubclass(class_, command.Command), name)
            self.assertTrue(name.startswith('ami_'), name)

    def test_parsers_need_no_application(self) -> None:
        """The command reference is made that way."""
        for name, class_ in commands().items():
            made = class_(None, None)
            self.assertTrue(made.get_description(), name)
            parser = made.get_parser(f'openstack {name.replace("_", " ")}')
            self.assertIn('--help', parser.format_help())

    def test_local_commands_need_no_cloud(self) -> None:
        found = commands()
        for name, needed in (('ami_shrink', False), ('ami_upload', True)):
            made = found[name](None, None)
            self.assertEqual(needed, made._logs_in)
            # What the shell goes by: the command itself logs in.
            self.assertFalse(made.auth_required)


class TestLoading(base.TestCase):
    def load(self, *arguments: str) -> list[str]:
        result = subprocess.run(
            [sys.executable, '-c', _LOAD, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
        )
        modules = json.loads(result.stdout)
        self.assertIn('amiclient.osc.ami', modules)
        return modules

    def test_nothing_heavy(self) -> None:
        modules = self.load()
        heavy = [m for m in modules if m.startswith(_HEAVY)]
        self.assertEqual([], heavy)

    def test_brings_itself_alone(self) -> None:
        """Whatever else it needs, `openstack` has loaded before."""
        modules = self.load('all')
        foreign = {m for m in modules if m.partition('.')[0] != 'amiclient'}
        # A small part of Python, that cliff does not always load.
        self.assertEqual(set(), foreign - {'resource'})
