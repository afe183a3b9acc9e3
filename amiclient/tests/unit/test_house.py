# SPDX-License-Identifier: Apache-2.0

"""The directions of imports, and the sizes of rooms, are what they shall be.

See "Structure of the code" in the contributors' documentation.
"""

import ast
import collections
import functools
import importlib
import pathlib
import re

import amiclient
from amiclient.tests import base
from amiclient.tests.functional import base as functional_base

_PACKAGE = pathlib.Path(amiclient.__file__).parent

#: Lines that a file may have, of the product and of its tests.
_LINES = 600
_TEST_LINES = 600

#: Who may not import what: a part of the package, and modules.
_FORBIDDEN = {
    # The domain does not know that there is a command line.
    '': ('amiclient.osc', 'amiclient.tests', 'cliff', 'osc_lib'),
    # What is on disk does not know that there is a cloud.
    'boot': (
        'amiclient.glance',
        'amiclient.web',
        'keystoneauth1',
        'openstack',
    ),
    'ext': (
        'amiclient.boot',
        'amiclient.glance',
        'amiclient.rootfs',
        'amiclient.source',
        'amiclient.xfs',
        'amiclient.web',
        'keystoneauth1',
        'openstack',
    ),
    'xfs': (
        'amiclient.boot',
        'amiclient.glance',
        'amiclient.rootfs',
        'amiclient.source',
        'amiclient.web',
        'keystoneauth1',
        'openstack',
    ),
    'rootfs': (
        'amiclient.boot',
        'amiclient.glance',
        'amiclient.web',
        'keystoneauth1',
        'openstack',
    ),
    # And what a root filesystem comes from is asked before what is in it.
    'source': (
        'amiclient.boot',
        'amiclient.glance',
        'amiclient.rootfs',
        'amiclient.web',
        'keystoneauth1',
        'openstack',
    ),
    # Files come from servers before anybody knows what is in them.
    'glance': ('amiclient.web',),
    'web': (
        'amiclient.boot',
        'amiclient.ext',
        'amiclient.rootfs',
        'amiclient.source',
        'amiclient.xfs',
        'keystoneauth1',
        'openstack',
    ),
    # The command line asks the domain, which asks programs.
    'osc': ('amiclient.process', 'amiclient.tests'),
}

#: The parts of the cloud's side that are directories.
_CLOUD = ('transfer', 'upload', 'verify', 'change')

#: The one door to other programs, and what others would go round it by.
_DOOR = 'process.py'
_PROGRAMS = ('subprocess', 'pty', 'multiprocessing')
#: What starts a program, by whatever reads what strangers have made.
_STARTS = (
    ('process', 'background'),
    ('process', 'reading'),
    ('process', 'run'),
)
#: Files that people read, by their suffixes.
_TEXTS = ('.py', '.rst', '.inc', '.yaml', '.sh')

_CALLS = ('system', 'popen', 'fork', 'execv', 'execve', 'posix_spawn')


@functools.cache
def parsed() -> dict[pathlib.Path, ast.AST]:
    """Parse all files, once for all tests."""
    return {
        path.relative_to(_PACKAGE): ast.parse(path.read_text())
        for path in _PACKAGE.rglob('*.py')
    }


def imports(tree: ast.AST) -> set[str]:
    """Name every module that is imported, anywhere in a file.

    ``from a import b`` names both ``a`` and ``a.b``, which may be a module.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # Relative imports are not in use: hacking (H304) refuses them.
            found.add(node.module or '')
            found.update(f'{node.module}.{a.name}' for a in node.names)
    return found


def offending(names: set[str], forbidden: tuple[str, ...]) -> list[str]:
    """Choose the names that are forbidden modules, or within one."""
    return sorted(
        name
        for name in names
        if any(name == f or name.startswith(f'{f}.') for f in forbidden)
    )


def calls(tree: ast.AST) -> list[str]:
    """Name the functions of ``os`` that start programs and are used."""
    return [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == 'os'
        and node.attr in _CALLS
    ]


def unconfined(tree: ast.AST) -> list[int]:
    """Name the lines that start a program and do not say what it may open."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and (node.func.value.id, node.func.attr) in _STARTS
        and not any(
            key.arg == 'access' and not isinstance(key.value, ast.Constant)
            for key in node.keywords
        )
    ]


def aliases(tree: ast.AST) -> list[str]:
    """Name the imports that only an underscore tells from something else."""
    return [
        alias.asname
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if alias.asname and alias.asname.endswith('_')
    ]


def mapped(page: str) -> set[str]:
    """Name the files and directories that the contributors' map has."""
    found = set()
    table = page.partition('\nMap\n===\n')[2].partition('\n====')[0]
    for row in re.findall(r'\* - (.*?)\n     - ', table, re.DOTALL):
        part = ''
        for name in re.findall(r'``(.*?)``', row):
            if '/' in name:
                part = name.rpartition('/')[0] + '/'
                found.add(name.removesuffix('/'))
            else:
                found.add(part + name)
    return found


class TestHouse(base.TestCase):
    def product(self) -> dict[pathlib.Path, ast.AST]:
        """Every file of the product, by its path within the package."""
        found = {
            path: tree
            for path, tree in parsed().items()
            if path.parts[0] != 'tests'
        }
        self.assertIn(pathlib.Path(_DOOR), found)
        return found

    def test_directions(self) -> None:
        wrong = []
        for path, tree in self.product().items():
            part = path.parts[0] if len(path.parts) > 1 else ''
            general = () if part == 'osc' else _FORBIDDEN['']
            forbidden = general + _FORBIDDEN.get(part, ())
            names = offending(imports(tree), forbidden)
            wrong.extend(f'{path} imports {name}' for name in names)
        self.assertEqual([], wrong)

    def test_floors_of_the_cloud_side(self) -> None:
        below: list[str] = []
        for floor in (('',), ('transfer',), ('upload', 'verify'), ('change',)):
            above = [name for name in _CLOUD if name not in (*below, *floor)]
            for name in floor:
                # Those on one floor do not know each other either.
                others = {*above, *floor} - {name}
                forbidden = tuple(f'amiclient.glance.{o}' for o in others if o)
                wrong = [
                    f'{path} imports {found}'
                    for path, tree in self.product().items()
                    if path.parts[:-1] == ('glance', *filter(None, [name]))
                    for found in offending(imports(tree), forbidden)
                ]
                self.assertEqual([], wrong)
            below.extend(floor)

    def test_one_door_to_programs(self) -> None:
        wrong = []
        for path, tree in self.product().items():
            if path != pathlib.Path(_DOOR):
                names = offending(imports(tree), _PROGRAMS) + calls(tree)
                wrong.extend(f'{path} uses {name}' for name in names)
                wrong.extend(
                    f'{path}:{line} confines nothing'
                    for line in unconfined(tree)
                )
        self.assertEqual([], wrong)

    def test_sizes(self) -> None:
        wrong = []
        for path in _PACKAGE.rglob('*.py'):
            part = path.relative_to(_PACKAGE).parts[0]
            limit = _TEST_LINES if part == 'tests' else _LINES
            lines = len(path.read_text().splitlines())
            if lines > limit:
                wrong.append(f'{path} has {lines} lines, more than {limit}')
        self.assertEqual([], wrong)

    def test_no_alias_with_an_underscore(self) -> None:
        wrong = [
            f'{path} imports a module as {name}'
            for path, tree in parsed().items()
            for name in aliases(tree)
        ]
        self.assertEqual([], wrong)

    def test_file_names(self) -> None:
        names = collections.Counter(
            (path.parts[:-1][:1], path.name)
            for path in self.product()
            if path.name != '__init__.py'
        )
        self.assertEqual([], [n for n, count in names.items() if count > 1])

    def test_class_names(self) -> None:
        places = collections.defaultdict(list)
        for path, tree in self.product().items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(str(path))
        self.assertEqual(
            {}, {name: found for name, found in places.items() if found[1:]}
        )

    def test_one_word_for_a_directory(self) -> None:
        root = _PACKAGE.parent
        # What strangers wrote may say something else: name it here.
        word = 'fold' + 'er'
        wrong = [
            f'{path.relative_to(root)}:{number}'
            for part in (
                'amiclient',
                'benchmarks',
                'doc/source',
                'releasenotes',
            )
            for path in (root / part).rglob('*')
            if path.suffix in _TEXTS
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if word in line.lower()
        ]
        self.assertEqual([], wrong)

    def test_map(self) -> None:
        page = _PACKAGE.parent / 'doc/source/contributor/index.rst'
        found = mapped(page.read_text())
        whole = {name for name in found if (_PACKAGE / name).is_dir()}
        there = {
            str(path.with_suffix(''))
            for path in self.product()
            if path.name != '__init__.py'
        }
        alone = {
            name
            for name in there
            if not any(name.startswith(f'{part}/') for part in whole)
        }
        self.assertEqual(
            sorted(alone),
            sorted(found - whole),
        )

    def test_clouds_of_another_kind(self) -> None:
        """One worker starts each: all tests that need it stay together."""
        text = (_PACKAGE.parent / '.stestr.conf').read_text()
        (pattern,) = re.findall('^group_regex=(.*)$', text, re.MULTILINE)
        usual = functional_base.TestCase.options
        groups: dict[object, set[str]] = {}
        for path in (_PACKAGE / 'tests' / 'functional').glob('test_*.py'):
            name = f'amiclient.tests.functional.{path.stem}'
            try:
                module = importlib.import_module(name)
            except ImportError as error:
                self.skipTest(f'functional tests cannot run here: {error}')
            for each in vars(module).values():
                options = getattr(each, 'options', usual)
                if (
                    isinstance(each, type)
                    and options != usual
                    and each.__module__ == name
                    and any(test.startswith('test_') for test in dir(each))
                ):
                    found = re.match(pattern, f'{name}.{each.__name__}.test_')
                    assert found, each
                    groups.setdefault(options, set()).add(found[0])
        self.assertLess(3, len(groups))
        for options, names in groups.items():
            self.assertEqual(1, len(names), (options, names))

    def test_the_test(self) -> None:
        tree = ast.parse(
            'import openstack.image\n'
            'def f():\n'
            '    from amiclient import glance\n'
            '    from amiclient.osc import command\n'
            '    os.system("ls")\n'
            '    process.run(["ls"], access=given)\n'
            '    process.run(["ls"], access=None)\n'
            '    process.background(["ls"])\n'
            '    import uuid as uuid_, json as text\n'
        )
        names = imports(tree)
        self.assertEqual(
            ['amiclient.glance', 'openstack.image'],
            offending(names, _FORBIDDEN['ext']),
        )
        self.assertEqual(
            ['amiclient.osc', 'amiclient.osc.command'],
            offending(names, _FORBIDDEN['']),
        )
        self.assertEqual([], offending(names, ('amiclient.gl', 'open')))
        self.assertEqual(['system'], calls(tree))
        self.assertEqual([7, 8], unconfined(tree))
        self.assertEqual(['uuid_'], aliases(tree))
