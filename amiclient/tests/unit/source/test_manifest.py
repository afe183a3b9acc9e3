# SPDX-License-Identifier: Apache-2.0

"""Manifests: what is written is what is read, and nothing else is."""

import dataclasses
import json
from typing import Any

from amiclient import errors
from amiclient.source import manifest
from amiclient.tests import base

PART = manifest.ManifestPart(
    file='web.img',
    size=5,
    sha512='ab' * 64,
    disk_format='ami',
    container_format='ami',
    id='1',
    name='web "1"\n',
    min_disk=2,
    min_ram=512,
    visibility='public',
    protected=True,
    hidden=True,
    tags=('blue', 'ü'),
    properties={'foo': 'bar', 'os_type': 'linux'},
)
KERNEL = manifest.ManifestPart(
    file='web-vmlinuz',
    size=2**40,
    sha512='0' * 128,
    disk_format='aki',
    container_format='aki',
)


class TestManifest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = self.tmp() / manifest.NAME
        self.written = manifest.Manifest(PART, KERNEL)

    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(manifest.dump(self.written))
        return content

    def refuse(self, content: Any) -> str:
        text = content if isinstance(content, str) else json.dumps(content)
        self.path.write_text(text)
        error = self.assertRaises(errors.SourceError, manifest.read, self.path)
        self.assertNotIn('\n', str(error))
        self.assertIn(str(self.path), str(error))
        return str(error)

    def test_there_and_back(self) -> None:
        self.path.write_bytes(manifest.dump(self.written))
        self.assertEqual(self.written, manifest.read(self.path))
        self.assertTrue(manifest.is_one(self.path.read_bytes()[:512]))

    def test_always_the_same_text(self) -> None:
        other = dataclasses.replace(
            PART, properties=dict(reversed(PART.properties.items()))
        )
        # The order is what travelling() gives.
        self.assertEqual(
            list(manifest.travelling(PART.properties)),
            list(manifest.travelling(other.properties)),
        )

    def test_not_json(self) -> None:
        self.assertIn('not JSON', self.refuse('{'))
        self.assertIn('not JSON', self.refuse('[' * 100000))

    def test_other_json(self) -> None:
        for content in ([], 'x', {}, {'format': 'other'}):
            self.assertIn('not the manifest', self.refuse(json.dumps(content)))

    def test_another_version(self) -> None:
        content = {**self.content(), 'version': 2}
        self.assertIn('another version', self.refuse(content))

    def test_too_long(self) -> None:
        self.assertIn('longer than', self.refuse(' ' * (manifest.LIMIT + 1)))

    def test_fields_of_other_kinds(self) -> None:
        for field, values in {
            'file': (None, '', 5, '..', '.', '../x', '/etc/passwd', 'a\0'),
            'size': (None, -1, '5', 1.5, True, 2**63),
            'sha512': (None, '', 'xyz', 'ab' * 63, 'AB' * 64),
            'disk_format': (None, '', 5),
            'min_disk': (-1, 'x', None),
            'name': (5, []),
            'tags': ('blue', [5], {'a': 1}),
            'properties': ([1], {'a': 5}, 'x'),
        }.items():
            for value in values:
                content = self.content()
                content['image'][field] = value
                self.assertIn(f'image.{field}', self.refuse(content))

    def test_no_image(self) -> None:
        content = self.content()
        del content['image']
        self.assertIn('image is missing', self.refuse(content))
        for value in ([], 'x', 5):
            content['image'] = value
            self.assertIn('image is not an object', self.refuse(content))

    def test_the_same_file_twice(self) -> None:
        for name in (PART.file, manifest.NAME):
            content = self.content()
            content['kernel']['file'] = name
            self.assertIn('is the same twice', self.refuse(content))

    def test_what_stays(self) -> None:
        """Also if somebody wrote it into a manifest."""
        content = self.content()
        staying = (
            'kernel_id', 'ramdisk_id', 'owner_specified.openstack.md5',
            'os_glance_import_task', 'os_hash_x', 'img_signature',
            'base_image_ref', 'amiclient_upload', 'instance_uuid',
        )  # fmt: skip
        content['image']['properties'].update(dict.fromkeys(staying, 'x'))
        self.path.write_text(json.dumps(content))
        self.assertEqual(self.written, manifest.read(self.path))


class TestStem(base.TestCase):
    def test_names(self) -> None:
        for name, expected in {
            'web': 'web',
            'web 1.0': 'web 1.0',
            'Ubuntu 22.04 é': 'Ubuntu 22.04 é',
            'a/b\\c': 'a_b_c',
            '../../etc/passwd': '_.._etc_passwd',
            '.hidden': 'hidden',
            '--option': 'option',
            '~root': 'root',
            'a\nb\x1b[1m\u202e': 'a_b_[1m_',
            '': 'ami',
            '...': 'ami',
            None: 'ami',
            'ä' * 200: 'ä' * 75,
        }.items():
            self.assertEqual(expected, manifest.stem(name), name)
