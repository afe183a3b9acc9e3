# SPDX-License-Identifier: Apache-2.0

"""What is stated about other packages is true, and stated once."""

import ast
from importlib import metadata
import os
import pathlib
import re
import sys

import amiclient
from amiclient.tests import base

_PACKAGE = pathlib.Path(amiclient.__file__).parent
_ROOT = _PACKAGE.parent

_LINE = re.compile(r'([\w.-]+)(?:\[\w+\])?(==|>=)([\w.]+)')

#: What the extra "compression" brings, is found when needed.
_OPTIONAL = {'backports', 'compression', 'lz4'}

#: As they are called where they are imported.
_MODULES = {
    'PyYAML': 'yaml',
    'openstacksdk': 'openstack',
    'osc-lib': 'osc_lib',
}


def stated(name: str) -> dict[str, tuple[str, str]]:
    """Read a file of requirements: what each line wants of a package."""
    lines = (_ROOT / name).read_text().splitlines()
    found = [_LINE.match(line) for line in lines]
    return {each[1]: (each[2], each[3]) for each in found if each}


def imported() -> set[str]:
    """List the packages that the product imports, wherever it does."""
    found: set[str] = set()
    for path in _PACKAGE.rglob('*.py'):
        if 'tests' in path.relative_to(_PACKAGE).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    return {name.partition('.')[0] for name in found}


class TestRequirements(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        if not (_ROOT / 'tools/lower.txt').exists():
            self.skipTest('this is not the repository')

    def test_what_is_imported_is_required(self) -> None:
        others = imported() - sys.stdlib_module_names - {'amiclient'}
        self.assertEqual(
            {_MODULES.get(name, name) for name in stated('requirements.txt')},
            others - _OPTIONAL,
        )

    def test_floors_are_what_is_tested(self) -> None:
        pinned = stated('tools/lower.txt')
        self.assertEqual({'=='}, {how for how, _ in pinned.values()})
        floors = stated('requirements.txt')
        self.assertLessEqual({*floors}, {*pinned})
        for name, (how, version) in [
            *floors.items(),
            *stated('test-requirements.txt').items(),
        ]:
            self.assertEqual('>=', how, name)
            if name in pinned:
                self.assertEqual(version, pinned[name][1], name)

    def test_floors_are_installed(self) -> None:
        if 'AMICLIENT_LOWER' not in os.environ:
            self.skipTest('tox -e lower sets AMICLIENT_LOWER')
        for name, (_, version) in stated('tools/lower.txt').items():
            self.assertEqual(version, metadata.version(name), name)
