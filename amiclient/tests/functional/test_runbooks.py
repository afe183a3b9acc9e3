#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""Every how-to page does what it says.

With AMICLIENT_UPDATE_RUNBOOKS set, the pages are made to show what their
commands print: read the difference before you commit it.
"""

import gzip
import json
import os
import pathlib
import shutil
import time

import amiclient
from amiclient.tests.functional import base
from amiclient.tests import openstack_server
from amiclient.tests import runbook
from amiclient.tests import runbook_run
from amiclient.tests import triple
from amiclient.tests.unit.rootfs import samples

_PAGES = pathlib.Path(amiclient.__file__).parent.parent / 'doc/source/user'

#: Seconds after which what should have happened has not.
_LATE = 60

#: What commands get from the tester's environment, beside PATH.
_KEPT = ('AMICLIENT_SLOW_TESTS', 'VIRTUAL_ENV')


class TestRunbooks(base.TestCase):
    def run_page(self, name: str) -> None:
        """Execute a page, in an empty folder."""
        page = runbook.read(
            _PAGES / f'{name}.rst',
            slow='AMICLIENT_SLOW_TESTS' in os.environ,
        )
        home = self.tmp()
        path = runbook_run.search_path(home / 'bin')
        if 'AMICLIENT_SLOW_TESTS' not in os.environ:
            server = openstack_server.Server(home / 'bin')
            self.addCleanup(server.close)
        missing = runbook_run.missing(page, path)
        if missing and not os.environ.get('CI'):
            self.skipTest(f'{name} needs {", ".join(missing)}')
        self.assertEqual([], missing)
        self.folder = home / 'work'
        self.folder.mkdir()
        (home / 'tmp').mkdir()
        environment = {
            **{k: os.environ[k] for k in _KEPT if k in os.environ},
            **self.cloud.environment(self.user),
            'OS_CLIENT_CONFIG_FILE': str(self.clouds(page, home)),
            'HOME': str(home),
            'LC_ALL': 'C.UTF-8',
            'PATH': path,
            'PYTHONWARNINGS': 'ignore',
            'TMPDIR': str(home / 'tmp'),
            'TZ': 'UTC',
        }
        runbook_run.run(
            page,
            self.folder,
            environment,
            calls={
                'parts': self.make_parts,
                'next kernel': self.make_next_kernel,
                'cirros': self.make_cirros,
                'large parts': lambda: self.make_parts(96 * 2**20),
                'killed upload': lambda: self.kill_an_upload('debian'),
                'another one': lambda: self.kill_an_upload('other'),
            },
            update='AMICLIENT_UPDATE_RUNBOOKS' in os.environ,
        )
        # Whatever was on the page, copies were not left behind.
        self.assertEqual([], os.listdir(home / 'tmp'))

    def make_parts(self, size: int = 2**22) -> None:
        """Make a root filesystem, its kernel and its ramdisk.

        :param size: bytes of what is in the filesystem.
        """
        triple.root(
            self.folder, size=256 * 2**20, data=size, name='debian.img'
        )
        shutil.rmtree(self.folder / 'tree')
        for name, data in (
            ('vmlinuz-6.1.0-30', samples.bzimage()),
            ('initrd.img-6.1.0-30', samples.initramfs()),
        ):
            (self.folder / name).write_bytes(data)

    def make_next_kernel(self) -> None:
        """Make the files that a newer package brings."""
        release = b'6.1.0-31-amd64 (x@y) #1\0'
        for name, data in (
            ('vmlinuz-6.1.0-31', samples.bzimage(release=release)),
            ('initrd.img-6.1.0-31', samples.initramfs(b'newer')),
        ):
            (self.folder / name).write_bytes(data)

    def make_cirros(self) -> None:
        """Make kernel and ramdisk of a CirrOS."""
        for part, data in (
            ('initrd', gzip.compress(samples.initramfs(), mtime=0)),
            ('vmlinuz', samples.bzimage()),
        ):
            path = self.folder / f'cirros-0.6.2-x86_64-{part}'
            path.write_bytes(data)

    def kill_an_upload(self, name: str) -> None:
        """Leave behind what an upload leaves that is killed while it sends."""
        process = self.start_openstack(
            'ami',
            'upload',
            self.folder / 'debian.img',
            '--name',
            name,
            '--kernel',
            self.folder / 'vmlinuz-6.1.0-30',
            '--ramdisk',
            self.folder / 'initrd.img-6.1.0-30',
        )
        self.wait_for(name, 'saving')
        process.kill()
        process.communicate()
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

    def test_each_page_has_a_test(self) -> None:
        for path in (_PAGES / 'howto').glob('*.rst'):
            if path.stem != 'index':
                name = path.stem.replace('-', '_')
                self.assertTrue(hasattr(self, f'test_{name}'), path)

    def test_failed_upload(self) -> None:
        self.run_page('howto/failed-upload')

    def test_kernel(self) -> None:
        self.run_page('howto/kernel')

    def test_other_cloud(self) -> None:
        self.run_page('howto/other-cloud')

    def test_share(self) -> None:
        self.run_page('howto/share')

    def test_uec(self) -> None:
        self.run_page('howto/uec')

    def test_life(self) -> None:
        self.run_page('life')
