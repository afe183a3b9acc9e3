# SPDX-License-Identifier: Apache-2.0

"""Each linter sees every file: an offence that is planted in it is found."""

import os
import pathlib
import shutil
import subprocess
import sys

import amiclient
from amiclient.tests import base

_ROOT = pathlib.Path(amiclient.__file__).parent.parent

#: What belongs to the repository: a part of it, or what is in a part.
_TREES = ('amiclient', 'benchmarks', 'doc/source', 'releasenotes/source')
_TREES += ('setup.py', 'tools')

_NAMED_BADLY = ('amiclient/build/x.py', 'amiclient/tests/dist/x.py')

#: Imports in no order (H306), and two in a line (E401); a typing mistake, that
#: is not one here; and a wrong type.
_OFFENCE = f"""\
import sys
import os
import re, io  # {'het'[::-1]}
number: int = ''
"""

#: How each is called in tools/lint and what it says.
_SAYS = {
    'ruff': 'E401',
    'hacking': 'H306',
    'mypy': 'Incompatible types in assignment',
    'codespell': '==> the',
}


def sources() -> list[pathlib.PurePath]:
    """List the Python files of the repository."""
    found: list[pathlib.Path] = []
    for name in _TREES:
        path = _ROOT / name
        found += path.rglob('*.py') if path.is_dir() else [path]
    return sorted(path.relative_to(_ROOT) for path in found)


class TestLinters(base.TestCase):
    maxDiff = None

    def lint(self, copy: pathlib.Path) -> dict[str, str]:
        """Run tools/lint; tell what each linter says."""
        bin_ = pathlib.Path(sys.executable).parent
        path = f'{bin_}{os.pathsep}{os.environ["PATH"]}'
        for program in ('ruff', 'flake8', 'mypy', 'codespell'):
            if not shutil.which(program, path=path):
                self.skipTest(f'{program} is not installed')
        done = subprocess.run(
            ['tools/lint', *_SAYS],
            cwd=copy,
            env={**os.environ, 'PATH': path, 'NO_COLOR': '1'},
            capture_output=True,
            text=True,
            timeout=300,
        )
        found = {}
        for part in f'\n{done.stdout}'.split('\n--- ')[1:]:
            name, _, said = part.partition('\n')
            found[name] = said
        self.assertEqual({*_SAYS}, {*found}, done.stderr)
        return found

    def test_each_sees_every_file(self) -> None:
        files = sources()
        if pathlib.PurePath('setup.py') not in files or not all(
            (_ROOT / name).exists() for name in _TREES
        ):
            self.skipTest('this is not the repository')
        copy = self.tmp()
        for name in ('setup.cfg', 'pyproject.toml', 'tools/lint'):
            (copy / name).parent.mkdir(exist_ok=True)
            shutil.copy(_ROOT / name, copy / name)
        # Of names that linters leave out by themselves, at the top alone.
        files += map(pathlib.PurePath, _NAMED_BADLY)
        for path in files:
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).write_text(_OFFENCE)
        for name, said in self.lint(copy).items():
            self.assertIn(_SAYS[name], said)
            expected = files
            if name == 'mypy':
                # Tests are not typed throughout, by choice.
                expected = [
                    path
                    for path in files
                    if path.parts[0] == 'amiclient'
                    and path.parts[1] != 'tests'
                ]
            unseen = [str(p) for p in expected if f'{p}:' not in said]
            self.assertEqual([], unseen, name)
