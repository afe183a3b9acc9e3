# SPDX-License-Identifier: Apache-2.0

"""Pages of the documentation are executed, and their output compared."""

import pathlib
import textwrap

import amiclient
from amiclient.tests import base
from amiclient.tests.runbook import output as runbook_output
from amiclient.tests.runbook import page as runbook
from amiclient.tests.runbook import run as runbook_run

ONE = '0b1f7c52-1c4e-4a52-9f0e-0d4b6f3f8a11'
TWO = '9c1d52a4-77aa-4d5d-8f4b-6a8f9d1b2c22'
THREE = '4a0ab26f-5d0e-4c6a-9d1f-7e8a9b0c1d33'


class OutputTest(base.TestCase):
    def check(
        self,
        wanted: bool,
        shown: str,
        printed: str,
        ids: runbook_output.Ids | None = None,
    ) -> None:
        found = runbook_output.matches(
            shown.splitlines(),
            printed.splitlines(),
            ids or runbook_output.Ids(),
        )
        self.assertEqual(wanted, found, f'{shown!r} and {printed!r}')

    def test_same(self) -> None:
        self.check(True, '', '')
        self.check(True, 'a\nb', 'a\nb')
        for printed in ('', 'a', 'a\nb\nc', 'b\na', 'a\nB', 'a\n b'):
            self.check(False, 'a\nb', printed)
        # What is not shown is not to be printed.
        self.check(False, '', 'a')

    def test_dots(self) -> None:
        self.check(True, 'in ... s', 'in 12.3 s')
        self.check(False, 'in ... s', 'in 12.3 m')
        self.check(True, 'a\n...\nb', 'a\nb')
        self.check(True, 'a\n...\nb', 'a\nx\ny\nb')
        self.check(False, 'a\n...\nb', 'a\nx\ny')
        self.check(True, '  ...', 'x\ny')

    def test_ids(self) -> None:
        ids = runbook_output.Ids()
        self.check(True, f'id {ONE}', f'id {TWO}', ids)
        self.check(True, f'again {ONE}', f'again {TWO}', ids)
        self.check(False, f'again {ONE}', f'again {THREE}', ids)
        # Nor may another one of the page stand for the same.
        self.check(False, f'again {THREE}', f'again {TWO}', ids)
        self.check(False, f'id {ONE}', 'id None')
        self.check(False, f'{ONE} {ONE}', f'{ONE} {TWO}')
        self.assertEqual(f'show {TWO}', ids.real(f'show {ONE}'))
        self.assertRaises(KeyError, ids.real, THREE)
        self.check(True, 'a' * 32, 'b' * 32)
        self.check(False, 'a' * 32, 'b' * 128)

    def test_a_failed_match_learns_nothing(self) -> None:
        ids = runbook_output.Ids()
        self.check(False, f'{ONE}\nx', f'{TWO}\ny', ids)
        self.check(True, ONE, THREE, ids)
        self.check(True, f'...\n{TWO}\nx', f'{ONE}\ny\n{TWO}\nx')

    def test_numbers_and_times(self) -> None:
        self.check(True, 'size 100000', 'size 120000')
        self.check(False, 'size 100000', 'size 130000')
        self.check(False, 'size 100000', 'size 70000')
        self.check(False, 'count 4', 'count 5')
        self.check(True, '2026-01-02T03:04:05Z', '2027-11-12T13:14:15Z')
        self.check(False, '2026-01-02T03:04:05Z', 'None')

    def test_versions(self) -> None:
        shown = 'vmlinuz-6.1.0-56-cloud-amd64'
        ids = runbook_output.Ids()
        self.check(True, shown, 'vmlinuz-6.12.113+deb13-cloud-amd64', ids)
        self.check(False, shown, shown, ids)
        self.check(False, shown, 'vmlinuz-6.1.0-56-amd64')
        self.check(False, 'cirros-0.6.2-x86_64', 'cirros-0.6.3-x86_64')

    def test_tables(self) -> None:
        self.check(
            True,
            '+------+\n| size |\n| 9000 |\n+------+',
            '+--------+\n| size   |\n| 9000   |\n+--------+',
        )
        self.check(False, '+---+---+', '+------+')
        self.check(False, '| a b |', '| a | b |')
        self.check(False, 'a  b', 'a b')

    def test_ids_for_a_page(self) -> None:
        ids = runbook_output.Ids({ONE: TWO})
        line = ids.shown(f'{TWO} {THREE} {"c" * 32}', 'page')
        self.assertTrue(line.startswith(f'{ONE} '), line)
        self.assertNotIn(THREE, line)
        self.assertEqual(f'{TWO} {THREE} {"c" * 32}', ids.real(line))

    def test_columns_that_are_not_there(self) -> None:
        many = '+----+---------+\n| ID | Used By |\n+----+---------+\n'
        filled = f'a warning\n{many}| Xx | 1       |\n+----+---------+'
        one = '+---+---+\n| Field | Value |\n+---+---+\n| id | name |\n'
        one += '| size | 1 |\n+---+---+'
        for command, printed, lost in (
            ('openstack x list -c ID -c "Used By"', filled, []),
            ('openstack x list -c ID \\\n    -c Used', filled, ['Used']),
            ('openstack x list --column Xx --column=ID', filled, ['Xx']),
            # As cliff has it.
            ('openstack x list -c id -c used_by -f table', many, []),
            ('openstack x show -c id -c size', one, []),
            ('openstack x show -c Field -c name', one, ['Field', 'name']),
            ('x=y; openstack x show -c no', one, ['no']),
            ('for i in 1 2\ndo openstack x show -c no\ndone', one, ['no']),
            ('openstack a -c ID; openstack b -c id', f'{filled}\n{one}', []),
            (
                'openstack a -c Xx; openstack b -c 1',
                f'{one}\n{filled}',
                ['Xx', '1'],
            ),
            # What another command says of itself, or what is not printed.
            ('grep -c x y; openstack x show -c id', one, []),
            ('for i in $(openstack x list -c no)\ndo cat; done', one, []),
            ('openstack x list -c no | grep -c y; cat t', one, []),
            ('openstack x list -c no >y; cat t', one, []),
            ('openstack x list -c no -f value; cat t', one, []),
            ('openstack x list -c no', 'no table', []),
            ('openstack x list -c no', '', []),
        ):
            found = runbook_output.absent(command, printed.splitlines())
            self.assertEqual(lost, found, command)


class RunTest(base.TestCase):
    def page(self, text: str, *, slow: bool = False) -> runbook.Page:
        path = self.tmp() / 'page.rst'
        path.write_text(textwrap.dedent(text))
        return runbook.read(path, slow=slow)

    def run_page(
        self, text: str, *, slow: bool = False, update: bool = False
    ) -> tuple[list[str], str]:
        """Run a page; tell what it called, and how the page is then."""
        page = self.page(text, slow=slow)
        called: list[str] = []
        home = self.tmp()
        (home / 'work').mkdir()
        runbook_run.run(
            page,
            home / 'work',
            {'PATH': runbook_run.search_path(home / 'bin')},
            calls={'it': lambda: called.append('it')},
            update=update,
        )
        return called, page.path.read_text()

    def fails(self, text: str, why: str) -> None:
        error = self.assertRaises(
            runbook_run.RunbookFailed, self.run_page, text
        )
        self.assertIn(why, str(error))

    def test_one_shell_in_one_directory(self) -> None:
        called, _ = self.run_page("""
            .. runbook: setup

               echo hidden >file

            Look:

            .. code-block:: console

               $ x=$(cat file)
               $ echo one \\
                   $x; pwd | sed 's/.*[/]//'
               one hidden
               work

            .. runbook: call it

            Then:

            .. code-block:: console

               $ for i in 1 2
               > do echo "$i $x" >&2
               > done
               1 hidden
               2 hidden

               $ true
            """)
        self.assertEqual(['it'], called)

    def test_other_output(self) -> None:
        block = '.. code-block:: console\n\n   $ echo "a b"\n'
        self.run_page(f'{block}   a b\n')
        self.fails(f'{block}   a c\n', '--- it printed\na b')
        self.fails(block, '--- it printed\na b')
        self.fails(f'{block}   a b\n   c\n', '--- the page shows\na b\nc')

    def test_a_column_that_is_left_out(self) -> None:
        """As ``openstack`` does it, without a word."""
        table = '   +------+\n   | Name |\n   +------+\n'
        page = (
            f'.. runbook: setup\n\n   cat >table <<END\n{table}   END\n\n'
            '.. code-block:: console\n\n   $ openstack() { cat table; }\n'
            f'   $ openstack x list -c Name\n{table}'
        )
        self.run_page(page)
        self.fails(
            page.replace('-c Name', '-c Name -c AMIs'),
            ":12: no column ['AMIs']",
        )

    def test_status(self) -> None:
        block = '.. code-block:: console\n\n   $ true\n   $ (exit 3)\n'
        self.fails(block, ':4: exit status 3, not 0')
        self.run_page(f'.. runbook: status 3\n\n{block}')
        self.fails(f'.. runbook: status 1\n\n{block}', 'status 3, not 1')
        self.fails('.. runbook: setup\n\n   false\n   true\n', ':1: 1')
        self.fails('.. code-block:: console\n\n   $ exit 0\n', 'has ended')

    def test_no_end(self) -> None:
        directory = self.tmp() / 'work'
        directory.mkdir()
        environment = {'PATH': runbook_run.search_path(self.tmp() / 'bin')}
        shell = runbook_run.Shell(directory, environment, limit=0.2)
        self.addCleanup(shell.close)
        error = self.assertRaises(
            runbook_run.RunbookFailed, shell.run, 'sleep 100'
        )
        self.assertIn('no end after 0.2 s: sleep 100', str(error))

    def test_ids_that_a_user_types(self) -> None:
        block = f"""
            .. code-block:: console

               $ cat id
               {ONE}
               $ grep -c {ONE} id
               1
            """
        setup = f'.. runbook: setup\n\n   echo {TWO} >id\n\n'
        self.run_page(setup + textwrap.dedent(block))
        self.fails(
            f'.. code-block:: console\n\n   $ echo {ONE}\n   {ONE}\n',
            f"nothing printed '{ONE}'",
        )

    def test_instead(self) -> None:
        text = (
            '.. runbook: instead it\n\n'
            '.. code-block:: console\n\n   $ echo real >file\n\n'
            'x\n\n.. code-block:: console\n\n   $ {}\n'
        )
        called, _ = self.run_page(text.format('test ! -e file'))
        self.assertEqual(['it'], called)
        called, _ = self.run_page(text.format('test -e file'), slow=True)
        self.assertEqual([], called)

    def test_not_run(self) -> None:
        self.run_page(
            '.. runbook: not run: it would end the machine\n\n'
            '.. code-block:: console\n\n   $ false\n'
        )

    def test_pages_that_make_no_sense(self) -> None:
        block = '.. code-block:: console\n\n'
        for text, why in (
            ('::\n\n   $ rm x\n', ':3: a command that is not run'),
            (f'{block}   output\n', 'output of no command'),
            (block, 'a block without a command'),
            ('.. runbook: nosuch x\n', 'no such comment'),
            ('.. runbook: not run:\n', 'no such comment'),
            ('.. runbook: setup\n', 'commands below it'),
            ('.. runbook: call it\n\n   x\n', 'commands below it'),
            ('.. runbook: status 1\n', 'no block for'),
        ):
            error = self.assertRaises(runbook.PageError, self.page, text)
            self.assertIn(why, str(error))

    def test_needs(self) -> None:
        page = self.page('.. runbook: needs sh no-such-program\n')
        path = runbook_run.search_path(self.tmp() / 'bin')
        self.assertEqual(['no-such-program'], runbook_run.missing(page, path))

    def test_update(self) -> None:
        _, text = self.run_page(
            f'.. runbook: setup\n\n   echo {TWO} >id\n\n'
            '.. code-block:: console\n\n   $ echo a; cat id\n   b\n'
            f'   {ONE}\n   $ cat id\n   $ echo c\n   ...\n\nText.\n',
            update=True,
        )
        self.assertEqual(
            f'.. runbook: setup\n\n   echo {TWO} >id\n\n'
            '.. code-block:: console\n\n   $ echo a; cat id\n   a\n'
            f'   {ONE}\n   $ cat id\n   {ONE}\n   $ echo c\n   ...\n\nText.\n',
            text,
        )


class PagesTest(base.TestCase):
    def test_all_can_be_read(self) -> None:
        root = pathlib.Path(amiclient.__file__).parent.parent
        pages = [
            path
            for path in (root / 'doc/source/user/howto').glob('*.rst')
            if path.stem != 'index'
        ]
        self.assertNotEqual([], pages)
        for path in pages:
            self.assertNotEqual((), runbook.read(path).steps, path)
