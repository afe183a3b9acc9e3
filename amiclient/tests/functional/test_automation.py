# SPDX-License-Identifier: Apache-2.0

"""Jobs and programs that the documentation shows do what it says of them."""

import contextlib
import io
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import textwrap
from typing import Any

import jinja2
import yaml

import amiclient
from amiclient.tests.cloud import forkserver as openstack_server
from amiclient.tests.functional import base
from amiclient.tests.runbook import inputs as runbook_inputs
from amiclient.tests.runbook import run as runbook_run

_PAGES = pathlib.Path(amiclient.__file__).parent.parent / 'doc/source/user'


class TestAutomation(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp() / 'work'
        self.directory.mkdir()
        runbook_inputs.parts(self.directory)
        for name, given in (
            ('vmlinuz', 'vmlinuz-6.1.0-30'),
            ('initrd.img', 'initrd.img-6.1.0-30'),
        ):
            (self.directory / given).rename(self.directory / name)
        programs = self.directory.parent / 'bin'
        self.path = runbook_run.search_path(programs)
        openstack_server.shared().install(programs)

    def job(self, name: str) -> Any:
        return yaml.safe_load((_PAGES / 'automation' / name).read_text())

    def script(self, commands: str) -> str:
        """Run what a job runs, as GitLab and GitHub do."""
        done = subprocess.run(
            ['bash', '-e', '-o', 'pipefail', '-c', commands],
            cwd=self.directory,
            env={**os.environ, 'PATH': self.path},
            capture_output=True,
            text=True,
            timeout=120,
        )
        said = re.sub('(?m)^.* is sound\n', '', done.stderr)
        self.assertEqual((0, ''), (done.returncode, said), done)
        return done.stdout

    def amis(self) -> list[str]:
        return [row['ID'] for row in self.openstack_json('ami', 'list')]

    def test_gitlab_and_github(self) -> None:
        self.script('\n'.join(self.job('gitlab.yaml')['publish']['script']))
        published = self.amis()
        self.assertEqual(1, len(published))
        # GitHub's does the same, so there is nothing left to do.
        steps = self.job('github.yaml')['jobs']['publish']['steps']
        self.script(steps[-1]['run'])
        self.assertEqual(published, self.amis())

    def test_ansible(self) -> None:
        shutil.copy(_PAGES / 'automation/publish.yaml', self.directory)
        program = shutil.which('ansible-playbook', path=self.path)
        run = self.run_playbook if program else self.stand_in_for_ansible
        self.assertEqual([1, 0], [run(), run()])
        self.assertEqual(1, len(self.amis()))

    def run_playbook(self) -> int:
        """Run the playbook; tell how many tasks changed something."""
        done = subprocess.run(
            ['ansible-playbook', 'publish.yaml'],
            cwd=self.directory,
            env={
                **os.environ,
                'PATH': self.path,
                'HOME': str(self.directory.parent),
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        self.assertEqual(0, done.returncode, done)
        return int(re.findall(r'changed=(\d+)', done.stdout)[-1])

    def stand_in_for_ansible(self) -> int:
        """Do the same without Ansible, which takes long to install."""
        [play] = self.job('publish.yaml')
        environment = jinja2.Environment()
        environment.filters['from_json'] = json.loads
        known = dict(play['vars'])

        def is_true(condition: object) -> bool:
            text = f'{{{{ true if {condition} else false }}}}'
            return environment.from_string(text).render(known) == 'True'

        changed = 0
        for task in play['tasks']:
            if not is_true(task.get('when', True)):
                continue
            words = [
                environment.from_string(word).render(known)
                for word in task['ansible.builtin.command']['argv']
            ]
            known[task.get('register', '_')] = {
                'stdout': self.script(shlex.join(words)).strip()
            }
            changed += is_true(task.get('changed_when', True))
        return changed

    def test_zuul(self) -> None:
        job, project = self.job('zuul.yaml')
        playbook = _PAGES / 'automation' / job['job']['run']
        given = job['job']['vars']
        self.assertLessEqual({*given}, {*self.job(playbook.name)[0]['vars']})
        jobs = project['project']['periodic']['jobs']
        self.assertEqual([job['job']['name']], jobs)

    def test_python(self) -> None:
        text = (_PAGES / 'python.rst').read_text()
        block = re.search(r'code-block:: python\n\n((?: .*\n|\n)+)', text)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(textwrap.dedent(block[1]), {})
        *steps, ids = printed.getvalue().splitlines()
        self.assertEqual(
            ['create kernel vmlinuz', 'create ramdisk initrd.img',
             'create image web'],
            steps,
        )  # fmt: skip
        [ami] = self.openstack_json('ami', 'list')
        self.assertEqual([ami['ID'], ami['Kernel'], ami['Ramdisk']],
                         ids.split())  # fmt: skip
