# SPDX-License-Identifier: Apache-2.0

"""The tutorial and every how-to page do what they say.

With AMICLIENT_UPDATE_RUNBOOKS set, the pages are made to show what their
commands print: read the difference before you commit it.
"""

from collections.abc import Callable
import json
import os
import pathlib
import shutil
import time

import amiclient
from amiclient.osc import tables
from amiclient.osc import watchers
from amiclient import process
from amiclient.tests.cloud import cloud
from amiclient.tests.cloud import forkserver as openstack_server
from amiclient.tests.disks import guest
from amiclient.tests.faults import stuck
from amiclient.tests.functional import base
from amiclient.tests.functional import test_import
from amiclient.tests.runbook import inputs as runbook_inputs
from amiclient.tests.runbook import page as runbook
from amiclient.tests.runbook import run as runbook_run

_PAGES = pathlib.Path(amiclient.__file__).parent.parent / 'doc/source/user'

#: Seconds after which what should have happened has not.
_LATE = 120

#: What commands get from the tester's environment, beside PATH.
_KEPT = ('AMICLIENT_SLOW_TESTS', 'VIRTUAL_ENV')


class RunbookCase(base.TestCase):
    def run_page(self, name: str) -> None:
        """Execute a page, in an empty directory."""
        slow = 'AMICLIENT_SLOW_TESTS' in os.environ
        page = runbook.read(_PAGES / f'{name}.rst', slow=slow)
        home = self.tmp()
        path = runbook_run.search_path(home / 'bin')
        if not slow:
            openstack_server.shared().install(home / 'bin')
        missing = runbook_run.missing(page, path)
        # Loop devices are what containers may lack, whoever runs them.
        if missing and ('loop' in missing or not os.environ.get('CI')):
            self.skipTest(f'{name} needs {", ".join(missing)}')
        self.assertEqual([], missing)
        self.directory = home / 'work'
        self.directory.mkdir()
        (home / 'tmp').mkdir()
        environment = {
            **{k: os.environ[k] for k in _KEPT if k in os.environ},
            **self.cloud.environment(self.user),
            'OS_CLIENT_CONFIG_FILE': str(self.clouds(page, home)),
            # As on a terminal, but for phases, which take any time.
            tables.VARIABLE: '1',
            watchers.VARIABLE: 'none',
            'HOME': str(home),
            'LC_ALL': 'C.UTF-8',
            'PATH': path,
            'PYTHONWARNINGS': 'ignore',
            'TMPDIR': str(home / 'tmp'),
            'TZ': 'UTC',
        }
        try:
            runbook_run.run(
                page,
                self.directory,
                environment,
                calls=self.calls(),
                limit=1800 if slow else runbook_run.LATE,
                update='AMICLIENT_UPDATE_RUNBOOKS' in os.environ,
            )
        except guest.NotInstalledError as error:
            if os.environ.get('CI'):
                raise
            self.skipTest(str(error))
        # Whatever was on the page, copies were not left behind.
        self.assertEqual([], os.listdir(home / 'tmp'))

    def calls(self) -> dict[str, Callable[[], object]]:
        """Tell what pages call by which name."""
        return {
            'another one': lambda: self.kill_an_upload('other'),
            'cirros': lambda: runbook_inputs.cirros(self.directory),
            'debian': lambda: runbook_inputs.debian(self.directory),
            'demo': lambda: runbook_inputs.demo(self.directory),
            'foreign kernel': lambda: runbook_inputs.foreign_kernel(
                self.directory
            ),
            'killed upload': lambda: self.kill_an_upload('debian'),
            'large parts': lambda: runbook_inputs.parts(
                self.directory, 96 * 2**20
            ),
            'next kernel': lambda: runbook_inputs.next_kernel(self.directory),
            'package databases': lambda: runbook_inputs.package_databases(
                self.directory
            ),
            'parts': lambda: runbook_inputs.parts(self.directory),
            'server': lambda: runbook_inputs.server(self.directory),
            'volume': self.make_volume,
            'without driver': lambda: runbook_inputs.without_driver(
                self.directory
            ),
        }

    def make_volume(self) -> None:
        """Make a logical volume, as far as its path and content go."""
        directory = pathlib.Path('/dev/vg0')
        loop = process.run(
            [
                'losetup',
                '--find',
                '--show',
                runbook_inputs.volume(self.directory),
            ],
            access=None,
        ).text.strip()
        self.addCleanup(
            process.run, ['losetup', '--detach', loop], access=None
        )
        directory.mkdir()
        self.addCleanup(shutil.rmtree, directory)
        (directory / 'web-ami').symlink_to(loop)

    def kill_an_upload(self, name: str) -> None:
        """Leave behind what an upload leaves that is killed while it sends."""
        kernel = self.directory / 'vmlinuz-6.1.0-30'
        ramdisk = self.directory / 'initrd.img-6.1.0-30'
        with stuck.Way(self.cloud, self.tmp()) as way:
            pause = way.hold(0.5, but=(kernel, ramdisk))
            upload = self.start_openstack(
                'ami',
                'upload',
                self.directory / 'debian.img',
                '--name',
                name,
                '--kernel',
                kernel,
                '--ramdisk',
                ramdisk,
                # What it leaves on the disk is not for others to find.
                '--work-directory',
                self.tmp(),
            )
            pause.wait()
            self.wait_for(name, 'saving')
            upload.kill()
            upload.communicate()
            pause.cut()
            way.proxy.settle()
        # Glance needs a moment to see that nobody sends any more.
        self.wait_for(name, 'queued')

    def wait_for(self, name: str, status: str) -> None:
        """Wait until an image has a status."""
        glance = self.embedded.connection().image
        end = time.monotonic() + _LATE
        while True:
            found = glance.get(f'/images?name={name}').json()['images']
            if [image['status'] for image in found] == [status]:
                return
            self.assertLess(time.monotonic(), end, found)
            time.sleep(0.01)

    def clouds(self, page: runbook.Page, home: pathlib.Path) -> pathlib.Path:
        """Write a clouds.yaml that has the clouds of a page, too."""
        known = json.loads(self.cloud.clouds_yaml.read_text())['clouds']
        for name, user in page.clouds.items():
            known[name] = known[user]
        path = home / 'clouds.yaml'
        path.touch(mode=0o600)
        path.write_text(json.dumps({'clouds': known}))
        return path


class TestRegions(RunbookCase):
    options = cloud.Options(regions=3)

    def test_three_regions(self) -> None:
        self.run_page('howto/three-regions')


class TestImportOnly(RunbookCase):
    options = test_import.OPTIONS

    def test_import(self) -> None:
        self.run_page('howto/import')


class TestRunbooks(RunbookCase):
    def test_each_page_has_a_test(self) -> None:
        # It has a cloud of this kind, too.
        from amiclient.tests.functional import test_sign

        tests = {*dir(self), *dir(TestRegions), *dir(TestImportOnly)}
        tests |= {*dir(test_sign.TestRunbook)}
        for path in (_PAGES / 'howto').glob('*.rst'):
            if path.stem != 'index':
                name = path.stem.replace('-', '_')
                self.assertIn(f'test_{name}', tests)

    def test_bare_metal(self) -> None:
        self.run_page('howto/bare-metal')

    def test_debootstrap(self) -> None:
        self.run_page('howto/debootstrap')

    def test_declared(self) -> None:
        self.run_page('howto/declared')

    def test_failed_upload(self) -> None:
        self.run_page('howto/failed-upload')

    def test_kernel(self) -> None:
        self.run_page('howto/kernel')

    def test_logical_volume(self) -> None:
        self.run_page('howto/logical-volume')

    def test_modules(self) -> None:
        self.run_page('howto/modules')

    def test_no_boot(self) -> None:
        self.run_page('howto/no-boot')

    def test_nightly(self) -> None:
        self.run_page('howto/nightly')

    def test_other_cloud(self) -> None:
        self.run_page('howto/other-cloud')

    def test_share(self) -> None:
        self.run_page('howto/share')

    def test_uec(self) -> None:
        self.run_page('howto/uec')

    def test_virtual_machine(self) -> None:
        self.run_page('howto/virtual-machine')

    def test_vulnerability(self) -> None:
        self.run_page('howto/vulnerability')

    def test_tutorial(self) -> None:
        self.run_page('tutorial')

    def test_life(self) -> None:
        self.run_page('life')
