# SPDX-License-Identifier: Apache-2.0

"""What a real Ironic says of images that are for it."""

from typing import Any

from amiclient.tests.functional import base
from amiclient.tests.functional import upload


class TestBareMetal(upload.UploadCase):
    """A member uploads, and an administrator has nodes."""

    options = base.WITH_ALL
    size, data = 2**20, 2**16

    def setUp(self) -> None:
        super().setUp()
        self.set_headroom('0')
        self.metal = self.embedded.connection('admin').baremetal

    def validated(self, image: str, deploy: str = 'direct') -> str | None:
        """Have a node validated.

        :returns: why Ironic would not boot or deploy it with the image.
        """
        node = self.metal.create_node(
            driver='fake-hardware',
            deploy_interface=deploy,
            driver_info={
                'deploy_kernel': 'http://192.0.2.1/kernel',
                'deploy_ramdisk': 'http://192.0.2.1/ramdisk',
            },
            properties={'cpu_arch': 'x86_64', 'local_gb': 10},
            instance_info={'image_source': image, 'root_gb': 4},
        )
        self.addCleanup(self.metal.delete_node, node)
        port = self.metal.create_port(
            node_id=node.id, address='52:54:00:00:00:01'
        )
        try:
            found = self.metal.validate_node(node, required=None)
        finally:
            self.metal.delete_port(port)
        whys = [found[name].reason for name in ('boot', 'deploy')]
        self.assertEqual(
            [why is None for why in whys],
            [found[name].result for name in ('boot', 'deploy')],
        )
        return whys[0] or whys[1]

    def permitted(self, image: dict[str, Any]) -> bool:
        """Have Ironic compare the format with that of the data it fetched."""
        from ironic.common import images

        return images.image_format_matches('raw', image['disk_format'])

    def verified(self, image: str, *words: str) -> dict[str, str]:
        finished = self.run_openstack(
            *('ami', 'verify', image, *words, '-f', 'value'),
            *('-c', 'rule', '-c', 'severity'),
            # No more than a test needs is in the filesystem.
            *('--ignore', 'no-init', '--ignore', 'fstab-no-root'),
        )
        self.assertEqual('', finished.stderr)
        rows = [line.split() for line in finished.stdout.splitlines()]
        self.assertEqual(
            int(any('error' in row for row in rows)), finished.status, rows
        )
        return {rule: severity for severity, rule in rows}

    def test_a_partition_image(self) -> None:
        told = self.upload('--for', 'ironic', stderr=None)
        root = self.get(told['id'])
        self.assertEqual(
            ('raw', 'bare'), (root['disk_format'], root['container_format'])
        )
        for key, format in (('kernel_id', 'aki'), ('ramdisk_id', 'ari')):
            part = self.get(root[key])
            self.assertEqual(
                (format, format, 'community'),
                (
                    part['disk_format'],
                    part['container_format'],
                    part['visibility'],
                ),
            )
        self.assertEqual('community', root['visibility'])
        self.assertTrue(self.permitted(root))
        self.assertIsNone(self.validated(told['id']))
        self.assertEqual({}, self.verified(told['id'], '--for', 'ironic'))
        # The same bytes for Nova, in a cloud that has Ironic.
        auto = self.upload('--image-format', 'auto', stderr=None)
        self.assertEqual('raw', self.get(auto['id'])['disk_format'])
        ami = self.get(self.upload('--name', 'ami', stderr=None)['id'])
        self.assertFalse(self.permitted(ami))
        self.assertEqual({}, self.verified(ami['id']))
        self.assertEqual(
            {
                'ironic-format': 'error',
                'ironic-visibility': 'warning',
            },
            self.verified(ami['id'], '--for', 'ironic'),
        )
        text = self.refused(
            *('ami', 'upload', self.root, *self.parts),
            *('--for', 'ironic', '--image-format', 'ami'),
        )
        self.assertIn('--for ironic and --image-format ami', text)

    def test_a_ramdisk_deploy(self) -> None:
        words = (
            *('ami', 'upload', '--for', 'ironic-ramdisk'),
            *(*self.parts, '--name', 'diskless'),
        )
        told = self.openstack_json(*words, stderr=None)
        root = self.get(told['id'])
        self.assertEqual(
            (0, 'raw', 'True', 'active'),
            (
                root['size'],
                root['disk_format'],
                root['ironic_ramdisk_deploy'],
                root['status'],
            ),
        )
        self.assertIsNone(self.validated(root['id'], 'ramdisk'))
        self.assertEqual({}, self.verified(root['id'], '--for', 'ironic'))
        self.assertEqual({}, self.verified(root['id']))
        shown = self.openstack_json('ami', 'show', root['id'])
        self.assertEqual([], shown['findings'])
        self.assertEqual(
            {'no-size': 'error'}, self.verified(root['id'], '--for', 'nova')
        )
        again = self.openstack_json(*words, stderr=None)
        self.assertEqual(root['id'], again['id'])
        # What only its own project and members see, Ironic does not find.
        shared = self.openstack_json(
            *words, '--shared', '--no-reuse', stderr=None
        )['id']
        self.assertIn('not be found', self.validated(shared, 'ramdisk') or '')
        self.assertEqual(
            {'ironic-visibility': 'error'},
            self.verified(shared, '--for', 'ironic'),
        )
        # Of this, Ironic sees nothing before it boots.
        self.openstack('image', 'delete', root['kernel_id'])
        self.assertIsNone(self.validated(root['id'], 'ramdisk'))
        self.assertEqual(
            {'dangling': 'error'}, self.verified(root['id'], '--for', 'ironic')
        )
