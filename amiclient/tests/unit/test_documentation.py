# SPDX-License-Identifier: Apache-2.0

"""What pages say of the code, of the cloud and of measurements is true."""

import argparse
import ast
import configparser
import functools
import json
import pathlib
import re
import shutil
import subprocess

import amiclient
from amiclient.tests import base
from amiclient.tests.unit import test_contract

_PACKAGE = pathlib.Path(amiclient.__file__).parent
_ROOT = _PACKAGE.parent
_PAGES = _ROOT / 'doc/source'

#: The image whose figures benchmarks/README.rst has, in MiB in use.
_IN_USE = 668


def page(name: str) -> str:
    return (_PAGES / f'{name}.rst').read_text()


def rows(text: str) -> list[list[str]]:
    """Read the rows of list-tables, without markup that breaks lines."""
    found: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith('   * - '):
            found.append([line[7:]])
        elif found and line.startswith('     - '):
            found[-1].append(line[7:])
        elif found and line.startswith('       '):
            found[-1][-1] += f' {line.strip()}'
    return found


def product() -> list[pathlib.Path]:
    return [
        path
        for path in _PACKAGE.rglob('*.py')
        if 'tests' not in path.relative_to(_PACKAGE).parts
    ]


def texts(tree: ast.AST) -> list[str]:
    """Collect strings, with dots where something is put in."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append(
                ''.join(
                    part.value if isinstance(part, ast.Constant) else '...'
                    for part in node.values
                )
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


@functools.cache
def strings() -> list[str]:
    return [
        text
        for path in product()
        for text in texts(ast.parse(path.read_text()))
    ]


class TestPages(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        if not _PAGES.exists():
            self.skipTest('this is not the repository')

    def test_each_command_has_one(self) -> None:
        setup = configparser.ConfigParser()
        setup.read(_ROOT / 'setup.cfg')
        points = setup['entry_points']['openstack.ami.v1'].split('\n')
        names = sorted(
            point.split()[0].replace('_', ' ') for point in points if point
        )
        self.assertEqual(
            [name.replace(' ', '-') for name in names],
            sorted(path.stem for path in (_PAGES / 'cli').glob('ami-*.rst')),
        )
        listed = re.findall('^   (ami .*)$', page('cli/index'), re.MULTILINE)
        self.assertEqual(names, sorted(listed))

    def test_options_of_all_commands(self) -> None:
        text = page('cli/index')
        for class_ in test_contract._Bare.values():
            for action in class_(None, None).get_parser('')._actions:
                told = action.help != argparse.SUPPRESS
                for name in action.option_strings if told else ():
                    if name not in ('-h', '--help'):
                        self.assertRegex(text, f'``{name}\\b')

    def test_environment(self) -> None:
        text = page('user/environment')
        read = {name for name in strings() if re.fullmatch('OS_[A-Z_]+', name)}
        for path in product():
            read |= {
                node.args[0].value
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Call)
                and ast.unparse(node.func) in ('os.environ.get', 'os.getenv')
                and isinstance(node.args[0], ast.Constant)
            }
        self.assertIn('TMPDIR', read)
        for part in ('amiclient', 'benchmarks', 'tools'):
            for path in (_ROOT / part).rglob('*'):
                if path.is_file() and path.suffix in ('', '.py', '.sh'):
                    read |= {
                        *re.findall(r'\bAMICLIENT_[A-Z_]+', path.read_text())
                    }
        self.assertIn('AMICLIENT_DEMO', read)
        self.assertEqual([], sorted(n for n in read if f'``{n}``' not in text))

    def test_messages(self) -> None:
        whole = '\n'.join(strings())
        shown = re.findall(
            r'^``(.+)``$', page('user/troubleshooting'), re.MULTILINE
        )
        self.assertLess(15, len(shown))
        # Two things that are put in beside each other are one on the page.
        known = re.sub(r'\.{4,}', '...', whole)
        self.assertEqual([], [m for m in shown if m not in known])

    def test_figures_of_sources(self) -> None:
        measured = (_ROOT / 'benchmarks/README.rst').read_text()
        table = rows(page('user/sizing'))[1:]
        self.assertLess(5, len(table))
        for name, *told in table:
            speed, cpu = (
                float(
                    re.search(
                        rf'^ *{re.escape(name)}, {what} +([\d.]+) ',
                        measured,
                        re.MULTILINE,
                    )[1]
                )
                for what in ('speed, MiB/s', 'CPU time, s')
            )
            for figure, text in zip(
                (1024 / speed, cpu * 1024 / _IN_USE), told, strict=True
            ):
                # Two digits, and no fewer than one before the point.
                digits = '{:.1f}' if figure < 10 else '{:.0f}'
                self.assertEqual(digits.format(figure), text, name)

    def test_figures_of_the_manual_steps(self) -> None:
        measured = (_ROOT / 'benchmarks/README.rst').read_text()
        measured = measured.partition('``openstack ami upload``\n')[2]
        lines = {
            line.strip().split('  ')[0]: line
            for line in measured.partition('More is written')[0].splitlines()
        }
        table = {row[0]: row[1:] for row in rows(page('user/by-hand'))}
        for name, key in (
            ('Sent', 'sent, MiB'),
            ('Time', 'wall time, s'),
            ('CPU time', 'CPU time, s'),
            ('Memory of ``openstack``', 'memory, openstack, MiB'),
        ):
            hand, ours = (cell.split()[0] for cell in table[name])
            self.assertRegex(lines[key], rf' {ours} .*by hand: {hand}\b')

    def test_policies(self) -> None:
        try:
            from glance import policies
        except ImportError:
            self.skipTest('there is no Glance')
        rules = {rule.name: rule.check_str for rule in policies.list_rules()}
        table = rows(page('user/policies'))[1:]
        self.assertLess(10, len(table))
        for _, role, names in table:
            # Those of other services have a colon.
            for name in re.findall(r'``(\w+)``', names):
                needed = re.search('role:(reader|member)', rules[name])
                wanted = needed[1] if needed else 'admin'
                higher = ('reader', 'member', 'admin').index
                self.assertLessEqual(higher(wanted), higher(role), name)
                if role == 'admin':
                    self.assertEqual('admin', wanted, name)


#: Looks at each page as a phone shows it, and tells which are wider.
_LOOK = """\
<body><script>
const pages = {pages}, wide = [];
function next() {{
  if (!pages.length) {{
    document.body.innerHTML = '<p>wide: ' + JSON.stringify(wide) + '</p>';
    return;
  }}
  const page = pages.pop(), frame = document.createElement('iframe');
  frame.style = 'width: 390px; height: 800px; border: 0';
  frame.src = page;
  frame.onload = () => {{
    const root = frame.contentDocument.documentElement;
    if (root.scrollWidth > root.clientWidth) wide.push(page);
    frame.remove();
    next();
  }};
  document.body.appendChild(frame);
}}
next();
</script>
"""


class TestPhone(base.TestCase):
    """No page has to be scrolled sideways on a phone."""

    def setUp(self) -> None:
        super().setUp()
        self.pages = sorted((_ROOT / 'doc/build/html').rglob('*.html'))
        if not self.pages:
            self.skipTest('tools/lint docs has not built the pages')

    def test_what_may_be_wide_has_a_frame(self) -> None:
        """The theme breaks words; code and tables scroll in their frames."""
        for path in self.pages:
            # The index is a table of short words.
            if path.stem == 'genindex':
                continue
            text = path.read_text()
            for tag, frame in (
                ('table', '<div class="table-wrapper [^>]*>\n'),
                ('pre', '<div class="highlight"[^>]*>'),
            ):
                wide = len(re.findall(f'<{tag}[ >]', text))
                framed = len(re.findall(f'{frame}<{tag}[ >]', text))
                self.assertEqual(wide, framed, f'{path}: {tag}')
            pictures = re.findall('<svg [^>]*aria-label=[^>]*>', text)
            for picture in pictures:
                self.assertIn('max-width: 100%', picture)

    def test_in_a_browser(self) -> None:
        names = ('chromium-headless-shell', 'chromium', 'google-chrome')
        browser = next(filter(None, map(shutil.which, names)), None)
        if browser is None:
            self.skipTest('there is no Chromium')
        look = self.tmp() / 'look.html'
        uris = [path.as_uri() for path in self.pages]
        look.write_text(_LOOK.format(pages=json.dumps(uris)))
        done = subprocess.run(
            [
                browser,
                '--headless',
                '--no-sandbox',
                '--disable-gpu',
                '--allow-file-access-from-files',
                # Of the clock that pages see, which waits for nothing.
                '--virtual-time-budget=600000',
                '--dump-dom',
                look.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=300,
        )
        self.assertIn('<p>wide: []</p>', done.stdout, done.stderr)
