# SPDX-License-Identifier: Apache-2.0

"""All seems well, but the cloud does not hold what was sent, or says less."""

import hashlib
from typing import Any

from amiclient.tests.faults import actions as acts
from amiclient.tests.functional import faulty


#: Answers that describe one image.
class TestCorrupted(faulty.FaultCase):
    """What arrives is not what was sent: no attempt can mend it."""

    def test_truncated_and_answered_2xx(self) -> None:
        for kind in self.uploads():
            self.disturb(kind, acts.truncate(0.5), times=None)
            size = self.files[kind].stat().st_size
            line = self.refuse(kind)
            self.assertIn(f'holds {size // 2} bytes, {size} were sent', line)

    def test_swallowed_and_answered_2xx(self) -> None:
        """Glance never heard of it: it may be sent again."""
        self.survives(acts.swallow, attempts=2)

    def test_swallowed_for_good(self) -> None:
        self.fails(acts.swallow, text='but Glance stored no data')

    def test_altered(self) -> None:
        self.fails(
            acts.alter, text='does not hold what was sent: its sha512 is'
        )


class TestHashes(faulty.FaultCase):
    """Old clouds, and operators' choices: other hashes, or none."""

    #: The requests whose answers describe images.
    described = '/v2/images/[0-9a-f-]{36}$'

    def describe(self, *, of_file: bool, **changes: Any) -> None:
        """Have Glance describe active images with other hashes.

        :param changes: attributes; None removes one. A value that names an
            algorithm after ``hash:`` is computed.
        :param of_file: whether from what was sent, or something else.
        """
        hashes: dict[tuple[int, str], str] = {}
        for path in self.files.values():
            data = path.read_bytes()
            for name in ('md5', 'sha256'):
                digest = hashlib.new(name, data if of_file else b'x')
                hashes[len(data), name] = digest.hexdigest()

        def change(document: dict[str, Any]) -> None:
            for image in document.get('images', [document]):
                if image['status'] != 'active':
                    continue
                for key, value in changes.items():
                    if value is None:
                        image.pop(key, None)
                    elif value.startswith('hash:'):
                        image[key] = hashes[image['size'], value[5:]]
                    else:
                        image[key] = value

        self.glance.rule(
            acts.rewrite(change),
            method='GET',
            path=self.described,
            times=None,
        )

    def check(self, *, told: str | None, **changes: Any) -> None:
        """Check what comes of a hash that is right, and of a wrong one.

        :param told: of a wrong one; None if there is none to be wrong.
        """
        # This sends all three.
        for kind in self.uploads('image'):
            self.describe(of_file=True, **changes)
            self.succeed(kind)
        if told is None:
            return
        for kind in self.uploads('kernel', 'image'):
            self.describe(of_file=False, **changes)
            self.assertIn(told, self.refuse(kind))

    def test_sha256(self) -> None:
        self.check(
            os_hash_algo='sha256',
            os_hash_value='hash:sha256',
            told='its sha256 is',
        )

    def test_unknown_algorithm_then_md5(self) -> None:
        self.check(
            os_hash_algo='nosuch', checksum='hash:md5', told='its md5 is'
        )

    def test_no_os_hash_then_md5(self) -> None:
        self.check(
            os_hash_algo=None,
            os_hash_value=None,
            checksum='hash:md5',
            told='its md5 is',
        )

    def test_no_hash_at_all_then_size(self) -> None:
        self.check(
            os_hash_algo=None, os_hash_value=None, checksum=None, told=None
        )

    def test_no_hash_at_all_and_truncated(self) -> None:
        none = {'os_hash_algo': None, 'os_hash_value': None, 'checksum': None}
        for kind in self.uploads('ramdisk', 'image'):
            self.describe(of_file=True, **none)
            self.disturb(kind, acts.truncate(0.5))
            self.assertIn('were sent', self.refuse(kind))


class TestSchema(faulty.FaultCase):
    """The operator's rules of what an image may be."""

    def schema(self, change: Any) -> None:
        self.glance.rule(
            acts.rewrite(change),
            method='GET',
            path='/v2/schemas/image$',
            times=None,
        )

    def test_without_the_formats(self) -> None:
        def change(schema: dict[str, Any]) -> None:
            for name in ('disk_format', 'container_format'):
                schema['properties'][name]['enum'] = ['bare', 'raw', 'qcow2']

        for kind in self.uploads():
            self.schema(change)
            self.assertRegex(self.refuse(kind), 'format .?a[kmr]i')
            self.assertEqual(0, self.glance.count('POST', 'images'))

    def test_with_required_properties(self) -> None:
        def change(schema: dict[str, Any]) -> None:
            schema['properties']['contact'] = {'type': 'string'}
            schema['required'] = ['contact']

        self.schema(change)
        # The kernel and the ramdisk stay, to be reused by the last.
        for kind in self.commands:
            before = self.glance.count('POST', 'images')
            self.assertIn('contact', self.refuse(kind))
            self.assertEqual(before, self.glance.count('POST', 'images'))
            shown = self.openstack_json(
                *self.commands[kind], '--property', 'contact=me'
            )
            self.assertEqual('me', self.get(shown['id'])['contact'])
