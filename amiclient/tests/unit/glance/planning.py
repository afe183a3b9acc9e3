# SPDX-License-Identifier: Apache-2.0

"""What the tests of plans have in common."""

import dataclasses
from unittest import mock


from amiclient import errors
from amiclient.glance import client
from amiclient.glance.upload import plan
from amiclient.glance.upload import request
from amiclient import progress
from amiclient.tests import base
from amiclient.tests.disks import triple


class PlanCase(base.TestCase):
    """A test that plans with real files and a stand-in of Glance."""

    def setUp(self):
        super().setUp()
        self.directory = self.tmp()
        self.root = triple.root(self.directory)
        self.kernel = triple.kernel(self.directory)
        self.ramdisk = triple.ramdisk(self.directory)
        self.catalog = mock.create_autospec(client.Catalog, instance=True)
        self.schema = {
            'properties': {
                'disk_format': {'enum': [None, 'ami', 'aki', 'ari', 'raw']},
                'container_format': {
                    'enum': [None, 'ami', 'aki', 'ari', 'bare']
                },
            },
            'additionalProperties': {'type': 'string'},
        }
        self.catalog.schema.return_value = self.schema
        self.there = []
        self.catalog.images.side_effect = self.images
        self.catalog.named.return_value = []
        self.catalog.usage.return_value = {}
        self.catalog.project.return_value = 'project'
        self.catalog.find.side_effect = errors.NotFoundError('none')
        self.catalog.get.side_effect = errors.NotFoundError('none')
        self.catalog.stores.return_value = None
        self.catalog.endpoint.return_value = None

    def images(self, **query):
        """List what is there, as Glance does for some of its filters."""
        for image in self.there:
            if (
                image.hidden == query['os_hidden']
                and query.get('size_min', 0) <= (image.size or 0)
                and (image.size or 0) <= query.get('size_max', 2**60)
                and query.get('disk_format') in (None, image.disk_format)
                and query.get('kernel_id') in (None, image.kernel_id)
                and ('status' not in query or image.status in query['status'])
            ):
                yield image

    def plan(self, *, exact=False, **changes):
        wanted = request.UploadRequest(
            source=self.root,
            kernel=str(self.kernel),
            ramdisk=str(self.ramdisk),
            work_directory=self.directory,
        )
        return plan.plan(
            dataclasses.replace(wanted, **base.with_options(changes)),
            self.catalog,
            exact=exact,
            progress=progress.QUIET,
        )

    def refused(self, kind, **changes):
        """Make a plan that is refused without any write; tell the text."""
        error = self.assertRaises(kind, self.plan, **changes)
        for method in ('create', 'update', 'delete'):
            getattr(self.catalog, method).assert_not_called()
        self.assertNotIn('\n', str(error))
        return str(error)
