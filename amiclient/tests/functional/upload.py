# SPDX-License-Identifier: Apache-2.0

"""What the tests of uploads have in common."""

import pathlib
import tempfile

import fixtures

from amiclient.osc import options
from amiclient.tests.disks import triple
from amiclient.tests.functional import base
from amiclient import units

_HEADROOM = '2M'


class UploadCase(base.TestCase):
    """A test that has a root filesystem, a kernel and a ramdisk."""

    #: Bytes of the filesystem, and of the data in it.
    size, data = 6 * 2**20, 2 * 2**20

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        # Those of the kernel below; another that is linked would miss them.
        modules = self.directory / 'tree/lib/modules/6.1.0-13-amd64'
        modules.mkdir(parents=True)
        self.root = triple.root(self.directory, size=self.size, data=self.data)
        self.kernel = triple.kernel(self.directory)
        self.ramdisk = triple.ramdisk(self.directory)
        # Where copies are made, to see that none is left behind.
        self.work = self.tmp()
        self.useFixture(fixtures.EnvironmentVariable('TMPDIR', str(self.work)))
        self.useFixture(
            fixtures.MockPatchObject(tempfile, 'tempdir', str(self.work))
        )
        self.parts = ('--kernel', self.kernel, '--ramdisk', self.ramdisk)
        # What users get takes long to send.
        self.set_headroom(_HEADROOM)
        #: What processes need to be told that.
        self.less = ('--headroom', _HEADROOM)
        self.image = self.embedded.connection().image

    def set_headroom(self, text: str) -> None:
        """Set what commands take for ``--headroom`` if they are not told."""
        self.useFixture(
            fixtures.MockPatchObject(
                options, 'DEFAULT_HEADROOM', units.parse_headroom(text)
            )
        )

    def upload(self, *words, **options):
        """Upload the triple; tell what the command printed."""
        return self.openstack_json(
            'ami', 'upload', self.root, *self.parts, *words, **options
        )

    def refused(self, *words, status=1):
        """Run a command that is refused in one line, and has no effect."""
        before = self.images()
        finished = self.run_openstack(*words)
        self.assertEqual(status, finished.status, finished)
        self.assertEqual('', finished.stdout)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        self.assertEqual(before, self.images())
        self.assertNothingLeft()
        return finished.stderr

    def images(self):
        found = self.image.get('/images?visibility=all&limit=100').json()
        return sorted(image['id'] for image in found['images'])

    def get(self, image_id):
        return self.image.get(f'/images/{image_id}').json()

    def register(self, path: pathlib.Path, format: str, **attributes) -> str:
        """Upload a file without the command under test; tell its id."""
        body = {'disk_format': format, 'container_format': format}
        body |= {'name': path.name, **attributes}
        image_id = self.image.post('/images', json=body).json()['id']
        self.image.put(
            f'/images/{image_id}/file',
            data=path.read_bytes(),
            headers={'Content-Type': 'application/octet-stream'},
        )
        return image_id

    def download(self, image_id) -> pathlib.Path:
        path = self.directory / image_id
        path.write_bytes(self.image.get(f'/images/{image_id}/file').content)
        return path

    def assertNothingLeft(self):
        self.assertEqual([], sorted(self.work.iterdir()))
