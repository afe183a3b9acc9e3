# SPDX-License-Identifier: Apache-2.0

"""Images in several stores of a real Glance, one of which is read-only."""

import json
import shlex
from typing import Any

from amiclient.tests.disks import triple
from amiclient.tests.functional import base


class TestStores(base.TestCase):
    options = base.WITH_ALL
    user = 'admin'

    def setUp(self) -> None:
        super().setUp()
        directory = self.tmp()
        self.root = triple.root(directory)
        self.parts = (
            *('--kernel', triple.kernel(directory)),
            *('--ramdisk', triple.ramdisk(directory)),
        )

    def upload(self, *words: object, **options: Any) -> dict[str, Any]:
        words = ('ami', 'upload', self.root, *self.parts, *words)
        shown: dict[str, Any] = self.openstack_json(*words, **options)
        return shown

    def stored(self, id: str) -> list[set[str]]:
        """Where an AMI, its kernel and its ramdisk are."""
        shown = self.openstack_json('ami', 'show', id)
        there = [shown, shown['kernel'], shown['ramdisk']]
        for image in there:
            for store in ('main', 'second'):
                self.assertEqual(
                    store in image['stores'],
                    (self.cloud.store / store / image['id']).exists(),
                )
        return [{*image['stores']} for image in there]

    def refused(self, *words: object, **options: Any) -> str:
        finished = self.run_openstack(*words, **options)
        self.assertEqual(1, finished.status, finished)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        return finished.stderr

    def test_from_upload_to_the_last_copy(self) -> None:
        for store, why in (('mirror', 'is read-only'), ('x', 'has no store')):
            text = self.refused(
                *('ami', 'upload', self.root, *self.parts),
                *('--store', 'second', '--store', store),
            )
            self.assertIn(why, text)
            self.assertIn('choose one of: main, second', text)
        self.assertEqual([], self.openstack_json('image', 'list'))
        shown = self.upload('--all-stores')
        id, kernel = shown['id'], shown['kernel_id']
        everywhere, second = {'main', 'second'}, {'second'}
        self.assertEqual([everywhere] * 3, self.stored(id))
        (row,) = self.openstack_json('ami', 'list', '--long')
        self.assertEqual(everywhere, {*row['Stores']})
        # What is there is reused, and copied if it has to be.
        self.openstack('image', 'delete', '--store', 'second', kernel)
        found = self.run_openstack('ami', 'verify', id, '-f', 'json').stdout
        finding = {each['rule']: each for each in json.loads(found)}
        remedy = finding['fewer-stores']['remedy']
        again = self.upload('--store', 'second', stderr=None)
        self.assertEqual((id, 0), (again['id'], again['uploaded']))
        self.assertEqual([everywhere] * 3, self.stored(id))
        # So is an AMI.
        for image in (id, kernel):
            self.openstack('image', 'delete', '--store', 'main', image)
        again = self.upload('--store', 'main', stderr=None)
        self.assertEqual((id, 0), (again['id'], again['uploaded']))
        self.assertEqual([everywhere] * 3, self.stored(id))
        # The remedy does the same.
        self.openstack('image', 'delete', '--store', 'second', kernel)
        self.openstack(*shlex.split(remedy)[1:])
        self.assertEqual([everywhere] * 3, self.stored(id))
        self.openstack('ami', 'unset', '--store', 'main', id)
        self.assertEqual([second, everywhere, everywhere], self.stored(id))
        self.openstack(
            'ami', 'unset', '--store', 'second', id, status=1, stderr=None
        )
        self.openstack('ami', 'set', '--all-stores', id)
        self.openstack('ami', 'unset', '--store', 'main', '--linked', id)
        self.assertEqual([second] * 3, self.stored(id))

    def test_a_member(self) -> None:
        shown = self.upload('--store', 'second', user='demo')
        text = self.refused(
            'ami', 'set', '--store', 'main', shown['id'], user='demo'
        )
        self.assertIn('only administrators', text)
        self.openstack('ami', 'set', '--store', 'main', shown['id'])
        unset = ('ami', 'unset', '--store', 'main', shown['id'])
        self.assertIn('only administrators', self.refused(*unset, user='demo'))

    def test_a_store_that_fails(self) -> None:
        second = self.cloud.store / 'second'
        away = second.rename(self.cloud.store / 'away')
        self.addCleanup(away.rename, second)
        second.touch()
        self.addCleanup(second.unlink)
        words = ('ami', 'upload', self.root, *self.parts, '--all-stores')
        finished = self.run_openstack(*words)
        self.assertEqual(1, finished.status, finished)
        self.assertIn('could not copy image', finished.stderr)
        self.assertIn("to the store 'second'", finished.stderr)
        self.assertEqual([], self.openstack_json('image', 'list'))
        self.assertEqual([], [*(self.cloud.store / 'main').iterdir()])
        shown = self.upload(
            *('--store', 'second', '--store', 'main'),
            *('--allow-store-failure', '--retries', '0'),
            stderr=None,
        )
        self.assertEqual(
            ['main'], self.openstack_json('ami', 'show', shown['id'])['stores']
        )
