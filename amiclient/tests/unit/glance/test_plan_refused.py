# SPDX-License-Identifier: Apache-2.0


import testscenarios

from amiclient import errors
from amiclient.glance.upload import request
from amiclient.tests.unit.glance import planning
from amiclient.tests.unit.glance import records

load_tests = testscenarios.load_tests_apply_scenarios

ID = '55555555-5555-4555-8555-555555555555'


class TestRefused(planning.PlanCase):
    scenarios = (
        (
            'a ramdisk without a kernel',
            {
                'changes': {'kernel': None},
                'error': errors.UsageError,
                'words': 'without a kernel',
            },
        ),
        (
            'an ami for bare metal',
            {
                'changes': {'target': 'ironic'},
                'error': errors.UsageError,
                'words': '--for ironic and --image-format ami',
            },
        ),
        (
            'a placeholder that is compressed',
            {
                'changes': {
                    'target': 'ironic-ramdisk',
                    'image_format': 'qcow2',
                },
                'error': errors.UsageError,
                'words': '--image-format qcow2',
            },
        ),
        (
            'bare metal without a ramdisk',
            {
                'changes': {
                    'target': 'ironic',
                    'image_format': 'raw',
                    'ramdisk': None,
                },
                'error': errors.UsageError,
                'words': 'there is no ramdisk',
            },
        ),
        (
            'a ramdisk deploy that is none',
            {
                'changes': {
                    'target': 'ironic-ramdisk',
                    'image_format': 'raw',
                    'traits': request.Traits(
                        properties={'ironic_ramdisk_deploy': 'no'}
                    ),
                },
                'error': errors.UsageError,
                'words': 'ironic_ramdisk_deploy=no',
            },
        ),
        (
            'a name for no kernel',
            {
                'changes': {
                    'kernel': None,
                    'ramdisk': None,
                    'kernel_name': 'x',
                },
                'error': errors.UsageError,
                'words': '--kernel-name',
            },
        ),
        (
            'a file that is not there',
            {
                'changes': {'kernel': './nosuch'},
                'error': errors.SourceError,
                'words': 'nosuch',
            },
        ),
        (
            'neither a file nor an image',
            {
                'changes': {'kernel': 'nosuch'},
                'error': errors.NotFoundError,
                'words': 'neither a file here nor an image',
            },
        ),
        (
            'a link as a property',
            {
                'changes': {
                    'traits': request.Traits(properties={'kernel_id': ID})
                },
                'error': errors.UsageError,
                'words': '--kernel',
            },
        ),
        (
            'an attribute as a property',
            {
                'changes': {
                    'traits': request.Traits(properties={'os_hidden': '1'})
                },
                'error': errors.UsageError,
                'words': 'os_hidden',
            },
        ),
        (
            'a property that is kept for Glance',
            {
                'changes': {
                    'traits': request.Traits(properties={'os_glance_x': '1'})
                },
                'error': errors.UsageError,
                'words': 'os_glance_ are reserved for Glance',
            },
        ),
        *(
            (
                f'no UTF-8: {name}',
                {
                    'changes': {
                        'kernel': None,
                        'ramdisk': None,
                        'traits': request.Traits(**{name: value}),
                    },
                    'error': errors.UsageError,
                    'words': "'a\\xff' has bytes that are not UTF-8",
                },
            )
            for name, value in (
                ('name', 'a\udcff'),
                ('tags', ('a\udcff',)),
                ('architecture', 'a\udcff'),
                ('properties', {'key': 'a\udcff'}),
                ('properties', {'a\udcff': 'value'}),
            )
        ),
        (
            'a name that is too long',
            {
                'changes': {'traits': request.Traits(name='x' * 256)},
                'error': errors.UsageError,
                'words': '255',
            },
        ),
        (
            'a disk that is too small',
            {
                'changes': {'min_disk': 0},
                'error': errors.UsageError,
                'words': '1 GiB',
            },
        ),
        (
            'a store where there is no choice',
            {
                'changes': {'settings': request.Settings(stores=('fast',))},
                'error': errors.CloudError,
                'words': '--store',
            },
        ),
        (
            'a journal of a filesystem that is not touched',
            {
                'changes': {'shrink': False, 'journal': 'none'},
                'error': errors.UsageError,
                'words': '--no-shrink',
            },
        ),
    )

    def test_in_one_line(self):
        self.assertIn(self.words, self.refused(self.error, **self.changes))


class TestRefusedByContent(planning.PlanCase):
    def test_kernel_and_ramdisk_swapped(self):
        text = self.refused(
            errors.SourceError,
            kernel=str(self.ramdisk),
            ramdisk=str(self.kernel),
        )
        self.assertIn('initramfs', text)
        # Before the cloud was even asked for anything.
        self.assertEqual([], self.catalog.mock_calls)

    def test_a_source_that_is_no_filesystem(self):
        self.root.write_bytes(self.random.randbytes(2**20))
        self.refused(errors.SourceError)
        self.assertEqual([], self.catalog.mock_calls)

    def test_a_work_directory_that_is_none(self):
        self.refused(
            errors.UsageError, work_directory=self.directory / 'nosuch'
        )


class TestRefusedByCloud(planning.PlanCase):
    def test_an_id_that_is_taken(self):
        self.catalog.get.side_effect = None
        self.catalog.get.return_value = records.record(id=ID, name='theirs')
        text = self.refused(errors.CloudError, traits=request.Traits(id=ID))
        self.assertIn('theirs', text)

    def test_formats_that_the_operator_removed(self):
        self.schema['properties'] = {
            'disk_format': {'enum': ['raw', 'aki']},
            'container_format': {'enum': ['bare', 'aki']},
        }
        text = self.refused(errors.CloudError, ramdisk=None)
        self.assertIn('--image-format raw', text)

    def test_a_kernel_that_is_none(self):
        self.catalog.find.side_effect = None
        self.catalog.find.return_value = records.record(name='root')
        text = self.refused(errors.CloudError, kernel='root', ramdisk=None)
        self.assertIn('aki/aki', text)

    def test_a_kernel_without_data(self):
        self.catalog.find.side_effect = None
        self.catalog.find.return_value = records.kernel(status='queued')
        text = self.refused(
            errors.CloudError, kernel='vmlinuz-6', ramdisk=None
        )
        self.assertIn('queued', text)

    def test_what_is_active_but_empty(self):
        self.catalog.find.side_effect = None
        for size, why in ((0, 'has no data'), (None, 'has no size')):
            self.catalog.find.return_value = records.ramdisk(size=size)
            text = self.refused(errors.CloudError, ramdisk='initrd')
            self.assertIn(
                "the ramdisk 'initrd' (33333333-3333-4333-8333-333333333333) "
                f'is active, but {why}',
                text,
            )
            self.assertIn('openstack ami ramdisk upload', text)

    def test_an_image_that_is_to_be_renamed(self):
        self.catalog.find.side_effect = None
        self.catalog.find.return_value = records.kernel()
        self.refused(
            errors.UsageError,
            kernel='vmlinuz-6',
            kernel_name='other',
            ramdisk=None,
        )
