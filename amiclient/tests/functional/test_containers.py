# SPDX-License-Identifier: Apache-2.0

"""``openstack ami upload`` of container images, in a cloud."""

import tarfile

from amiclient.tests.disks import archives
from amiclient.tests.disks import containers
from amiclient.tests.functional import upload
from amiclient.tests.oracle import exttree

member = archives.member

LOWER = [
    member('etc/', tarfile.DIRTYPE),
    (member('etc/os-release'), b'ID=debian\nVERSION_ID="12"\n'),
    (member('etc/secret'), b'secret' * 10_000),
    member('usr/bin/', tarfile.DIRTYPE),
    (member('usr/bin/tool', mode=0o4755, uid=7), b'tool' * 10_000),
]
UPPER = [member('etc/.wh.secret'), (member('etc/new'), b'new')]


class TestContainers(upload.UploadCase):
    def setUp(self) -> None:
        super().setUp()
        self.layers = [containers.layer(LOWER), containers.layer(UPPER)]

    def check(self, path, *words: str) -> None:
        note = (
            f'{path}: container image'
            + (' debian:12' if 'saved' in path.name else '')
            + ' (linux/amd64), 2 layers\n'
        )
        told = self.openstack_json(
            'ami',
            'upload',
            path,
            *self.parts,
            *words,
            # They come to the same bytes, under other names.
            '--no-reuse',
            stderr=note,
        )
        self.assertEqual('debian', self.get(told['id'])['os_distro'])
        tree = exttree.read_tree(self.download(told['id']))
        files = {name for name in tree if tree[name].type == 'file'}
        self.assertEqual(
            {b'/etc/os-release', b'/etc/new', b'/usr/bin/tool'}, files
        )
        tool = tree[b'/usr/bin/tool']
        self.assertEqual((0o4755, 7), (tool.mode, tool.uid))
        self.assertNothingLeft()

    def test_each(self) -> None:
        layout = containers.Layout(self.directory / 'layout')
        images = [
            layout.image(self.layers),
            layout.image([self.layers[0]], architecture='arm64'),
        ]
        path = layout.index(*images)
        self.assertIn(
            'choose one with --architecture',
            self.refused('ami', 'upload', path, *self.parts),
        )
        self.check(path, '--architecture', 'x86_64')
        archive = layout.archive(self.directory / 'oci.tar')
        self.check(archive, '--architecture', 'x86_64')
        self.check(
            containers.saved(
                self.directory / 'saved.tar.gz', self.layers, mode='w:gz'
            )
        )
