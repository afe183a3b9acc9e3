# SPDX-License-Identifier: Apache-2.0

"""What is stated about other packages is true, and stated once."""

import ast
import configparser
from importlib import metadata
import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import yaml

import amiclient
from amiclient import distribution
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

#: What bindep knows of each distribution.
_PLATFORMS = {
    'debian': {'platform:debian', 'platform:dpkg'},
    'fedora': {'platform:fedora', 'platform:redhat', 'platform:rpm'},
    'rhel': {'platform:redhat', 'platform:rhel', 'platform:rpm'},
    'suse': {'platform:rpm', 'platform:sles', 'platform:suse'},
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

    def test_old_environments_find_the_tests(self) -> None:
        """Whatever imports a service of the cloud does so in a function."""
        text = (_ROOT / 'test-requirements.txt').read_text()
        _, _, services = text.partition('# The embedded cloud')
        names = {line.partition('>')[0] for line in services.split('\n')[1:]}
        found = {
            (path.name, name)
            for part in ('unit', 'functional')
            for path in (_PACKAGE / 'tests' / part).rglob('*.py')
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in (
                [node.module or '']
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            if name.partition('.')[0] in names or name.startswith('oslo')
        }
        self.assertEqual(set(), found)

    def test_floors_are_installed(self) -> None:
        if 'AMICLIENT_LOWER' not in os.environ:
            self.skipTest('tox -e lower sets AMICLIENT_LOWER')
        for name, (_, version) in stated('tools/lower.txt').items():
            self.assertEqual(version, metadata.version(name), name)


class TestPackages(base.TestCase):
    """The packages of the operating system, in bindep.txt."""

    def setUp(self) -> None:
        super().setUp()
        path = _ROOT / 'bindep.txt'
        if not path.exists():
            self.skipTest('this is not the repository')
        try:
            from bindep import depends
        except ImportError:
            self.skipTest('bindep is not installed')
        self.depends = depends.Depends(path.read_text())

    def active(self, distribution: str, *profiles: str) -> set[str]:
        rules = self.depends.active_rules(
            {*_PLATFORMS[distribution], *profiles}
        )
        return {name for name, *_ in rules}

    def test_profiles(self) -> None:
        self.assertEqual(
            ['benchmark', 'demo', 'lower', 'test'], self.depends.profiles()
        )

    def test_what_the_commands_call(self) -> None:
        needed = set(distribution.PACKAGES)
        # Comes with guestfish; and one emulator is enough.
        needed -= {'qemu-system-aarch64', 'supermin'}
        for name in _PLATFORMS:
            packages = {distribution.KNOWN[name].package(p) for p in needed}
            self.assertEqual(
                set(), packages - {None} - self.active(name, 'test'), name
            )
            small = {
                distribution.KNOWN[name].package(p)
                for p in ('lz4', 'mcopy', 'qemu-nbd', 'resize2fs', 'zstd')
            }
            self.assertEqual(set(), small - self.active(name), name)

    def test_tools_install_the_same(self) -> None:
        for profile in self.depends.profiles():
            done = subprocess.run(
                ['bash', '-c', '. tools/common.sh; packages "$1"', 'bash',
                 profile],
                cwd=_ROOT,
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )  # fmt: skip
            self.assertEqual(
                self.active('debian', profile), {*done.stdout.split()}
            )


class TestVersion(base.TestCase):
    def test_one_everywhere(self) -> None:
        if not (_ROOT / 'setup.cfg').exists():
            self.skipTest('this is not the repository')
        setup = configparser.ConfigParser()
        setup.read(_ROOT / 'setup.cfg')
        version = setup['metadata']['version']
        notes = yaml.safe_load(
            (_ROOT / 'releasenotes/config.yaml').read_text()
        )
        self.assertEqual(version, notes['unreleased_version_title'])
        titles = re.findall(
            r'^(\d\S*)\n=+$',
            (_ROOT / 'CHANGELOG.rst').read_text(),
            re.MULTILINE,
        )
        self.assertEqual(version, titles[0])


class TestContinuousIntegration(base.TestCase):
    """Every machine calls the same script."""

    def load(self, name: str) -> Any:
        path = _ROOT / name
        if not path.exists():
            self.skipTest('this is not the repository')
        return yaml.safe_load(path.read_text())

    def test_zuul(self) -> None:
        jobs = self.load('.zuul.yaml')
        job = jobs[0]['job']
        for pipeline in ('check', 'gate'):
            self.assertEqual(
                [job['name']], jobs[1]['project'][pipeline]['jobs']
            )
        (play,) = self.load(job['run'])
        (task,) = play['tasks']
        self.assertEqual(
            'bash .ci/run', task['ansible.builtin.command']['cmd']
        )

    def test_github(self) -> None:
        workflow = self.load('.github/workflows/ci.yaml')
        commands = [s.get('run') for s in workflow['jobs']['ci']['steps']]
        self.assertEqual('bash .ci/run', commands[-1])
