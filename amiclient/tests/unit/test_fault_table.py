# SPDX-License-Identifier: Apache-2.0

"""Every fault that the documentation lists has the test that it names."""

import importlib
import pathlib
import re

import amiclient
from amiclient.tests import base

_PAGE = pathlib.Path(amiclient.__file__).parent.parent / 'doc/source/user'
_ROW = '   * - '
_CELL = '     - '
_TEST = re.compile(r'``((?:unit|functional)\.[\w.]+)``')


def _rows(text: str) -> list[list[str]]:
    """Read the rows of the list-tables, without their headers."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith(_ROW):
            rows.append([line.removeprefix(_ROW)])
        elif rows and line.startswith(_CELL):
            rows[-1].append(line.removeprefix(_CELL))
        elif rows and line.startswith(' ' * len(_CELL)):
            rows[-1][-1] += f' {line.strip()}'
    return [row for row in rows if row[0] != 'Fault']


def _exists(name: str) -> bool:
    module, _, method = name.rpartition('.')
    module, _, case = module.rpartition('.')
    try:
        found = importlib.import_module(f'amiclient.tests.{module}')
    except ModuleNotFoundError:
        return False
    return hasattr(getattr(found, case, None), method)


class FaultTableTest(base.TestCase):
    def test_each_row_names_tests_that_exist(self) -> None:
        page = (_PAGE / 'faults.rst').read_text()
        parts = re.findall(r'^\.\. include:: (\S+)$', page, re.MULTILINE)
        self.assertNotEqual([], parts)
        for part in parts:
            rows = _rows((_PAGE / part).read_text())
            self.assertNotEqual([], rows, part)
            for row in rows:
                self.assertEqual(3, len(row), row)
                tests = _TEST.findall(row[2])
                self.assertNotEqual([], tests, row)
                for name in tests:
                    self.assertTrue(_exists(name), f'{part}: no {name}')

    def test_what_does_not_exist(self) -> None:
        here = 'unit.test_fault_table.FaultTableTest'
        self.assertTrue(_exists(f'{here}.test_what_does_not_exist'))
        self.assertFalse(_exists(f'{here}.test_nothing'))
        self.assertFalse(_exists('unit.test_nothing.Class.test_nothing'))
