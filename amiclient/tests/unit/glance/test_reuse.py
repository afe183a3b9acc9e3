# SPDX-License-Identifier: Apache-2.0

import hashlib

from amiclient.glance.upload import marks
from amiclient.glance.upload import request
from amiclient.glance.upload import reuse
from amiclient.tests import base
from amiclient.tests.unit.glance import records
from amiclient.tests.unit.glance import wire

DATA = b'kernel'
KERNEL = reuse.Requirements(formats=('aki', 'aki'), owner='p1')


def digest(algorithm: str) -> str:
    return hashlib.new(algorithm, DATA).hexdigest()


class TestFind(wire.CatalogTest):
    def find(self, *images, wanted=KERNEL):
        self.answer(
            'GET',
            '/images',
            {'images': [i for i in images if not i['os_hidden']]},
            {'images': [i for i in images if i['os_hidden']]},
        )
        self.hashed = []

        def watched(algorithm):
            self.hashed.append(algorithm)
            return digest(algorithm)

        return reuse.find(self.catalog, wanted, len(DATA), watched)

    def image(self, algorithm='sha512', **attributes):
        return wire.image(
            **{
                'disk_format': 'aki',
                'container_format': 'aki',
                'size': len(DATA),
                'os_hash_algo': algorithm,
                'os_hash_value': digest(algorithm),
                **attributes,
            }
        )

    def test_asked_for_by_size(self) -> None:
        found, others = self.find(self.image())
        self.assertEqual(wire.ID, found.id)
        self.assertEqual((), others)
        self.assertEqual(
            [
                (
                    'GET',
                    '/v2/images?disk_format=aki&container_format=aki'
                    f'&size_min={len(DATA)}&size_max={len(DATA)}'
                    '&visibility=all&os_hidden=false&sort=created_at:asc'
                    '&limit=250',
                )
            ],
            self.asked(),
        )

    def test_no_hash_for_nothing(self) -> None:
        found, _ = self.find(self.image(size=len(DATA) + 1))
        self.assertIsNone(found)
        self.assertEqual([], self.hashed)

    def test_another_algorithm(self) -> None:
        found, _ = self.find(self.image('sha256'))
        self.assertEqual(wire.ID, found.id)
        self.assertEqual(['sha256'], self.hashed)

    def test_no_proof(self) -> None:
        for image in (
            self.image('md5'),
            self.image('sha1'),
            self.image(os_hash_algo='none-of-ours'),
            self.image(os_hash_algo=None, os_hash_value=None),
            self.image(os_hash_value='cd' * 64),
        ):
            self.assertEqual((None, ()), self.find(image))

    def test_the_oldest_that_will_do(self) -> None:
        found, _ = self.find(
            self.image(id=wire.OTHER, status='deactivated'), self.image()
        )
        self.assertEqual(wire.ID, found.id)

    def test_why_one_will_not_do(self) -> None:
        for attributes, why in (
            ({'status': 'deactivated'}, 'is deactivated'),
            ({'os_hidden': True}, 'is hidden'),
            ({'visibility': 'private'}, 'is private, not shared'),
            ({'owner': 'p2'}, 'belongs to the project p2'),
            (
                {marks.PROPERTY: str(marks.UploadRun.this())},
                'belongs to an upload that is not complete',
            ),
        ):
            found, others = self.find(self.image(**attributes))
            self.assertIsNone(found)
            self.assertEqual([why], [other.why for other in others])

    def test_visibility(self) -> None:
        order = ('private', 'shared', 'community', 'public')
        for wanted in order:
            for there in order:
                found, _ = self.find(
                    self.image(visibility=there),
                    wanted=reuse.Requirements(
                        formats=('aki', 'aki'), owner='p1', visibility=wanted
                    ),
                )
                enough = order.index(there) >= order.index(wanted)
                self.assertEqual(enough, found is not None, (wanted, there))

    def test_others_can_lend_what_everybody_sees(self) -> None:
        for there in ('community', 'public'):
            found, _ = self.find(self.image(owner='p2', visibility=there))
            self.assertEqual(wire.ID, found.id)


class TestUnfit(base.TestCase):
    def unfit(self, wanted, **attributes):
        record = records.record(**{'size': 2**30 + 1, **attributes})
        return reuse.unfit(
            record,
            reuse.Requirements(
                formats=('ami', 'ami'), foreign=False, **wanted
            ),
            'project',
        )

    def test_what_was_asked_for(self) -> None:
        for wanted, attributes, why in (
            ({'name': 'image'}, {}, None),
            ({'name': 'web'}, {}, "its name is not 'web'"),
            ({'tags': ('a',)}, {'tags': ['a', 'b']}, None),
            ({'tags': ('a', 'c')}, {'tags': ['a']}, "lacks the tag 'c'"),
            ({'properties': {'x': 'y'}}, {'x': 'y', 'z': '1'}, None),
            (
                {'properties': {'x': 'y'}},
                {'x': 'z'},
                "its x is 'z', not 'y'",
            ),
            ({'properties': {'x': 'y'}}, {}, "its x is not set, not 'y'"),
            ({'properties': {'x': ''}}, {'x': ''}, None),
            ({'properties': {'x': ''}}, {}, "its x is not set, not ''"),
            ({'properties': {'kernel_id': None}}, {}, None),
            ({'properties': {'kernel_id': None}}, {'kernel_id': ''}, None),
            (
                {'properties': {'kernel_id': None}},
                {'kernel_id': 'k'},
                "its kernel_id is 'k'",
            ),
            ({'protected': True}, {}, 'is not protected'),
            ({'protected': False}, {'protected': True}, 'is protected'),
            ({'stores': ('fast',)}, {'stores': 'slow,fast'}, None),
            (
                {'stores': ('fast',)},
                {},
                "is not in the store 'fast', and only administrators can have "
                'it copied there',
            ),
            ({'stores': ('fast',), 'may_copy': True}, {}, None),
            ({'min_ram': 0}, {'min_disk': 2}, None),
            ({'min_ram': 0}, {'min_disk': 1}, 'its min_disk is 1, not 2'),
            (
                {'min_ram': 5, 'min_disk': 9},
                {'min_disk': 9},
                'its min_ram is 0, not 5',
            ),
            ({'hidden': True}, {}, 'is not hidden'),
            ({'hidden': True}, {'os_hidden': True}, None),
            (
                {'visibility': 'private', 'exactly_visible': True},
                {'visibility': 'public'},
                'is public, not private',
            ),
            # An AMI of somebody else is theirs to change and delete.
            (
                {},
                {'visibility': 'public', 'owner': 'other'},
                'belongs to the project other',
            ),
        ):
            self.assertEqual(why, self.unfit(wanted, **attributes), wanted)

    def test_told_in_one_line(self) -> None:
        others = [
            request.Other(records.record(name=name), 'is hidden')
            for name in ('a', 'b', 'c')
        ]
        self.assertEqual([], list(reuse.told([])))
        (line,) = reuse.told(others)
        self.assertIn("the image 'a'", line)
        self.assertIn('(and 2 more)', line)
