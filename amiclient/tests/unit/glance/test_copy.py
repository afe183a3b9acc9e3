# SPDX-License-Identifier: Apache-2.0

"""Triples that are copied between Glances in memory, over real sockets."""

import os
import signal
from typing import Any

import fixtures
import openstack

from amiclient import errors
from amiclient.glance.change import copy
from amiclient.glance.change import copy_plan
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import places
from amiclient.glance import stores
from amiclient.glance.upload import request
from amiclient.glance.verify import elsewhere
from amiclient import interrupts
from amiclient.tests import base
from amiclient.tests.cloud import memory
from amiclient.tests.faults import actions
from amiclient.tests.faults import proxy as faults
from amiclient.tests.unit.glance import uploads

DATA = {
    memory.KERNEL: b'kernel' * 100,
    memory.RAMDISK: b'ramdisk' * 100,
    memory.AMI: b'image' * 1000,
}
SIZE = sum(map(len, DATA.values()))


class _Cloud(fixtures.Fixture):
    """A Glance in memory behind a proxy, and the way to it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.glance = memory.Glance()

    def _setUp(self) -> None:
        server = self.useFixture(memory.Server(self.glance))
        self.way = self.useFixture(faults.Proxy(server.url))
        self.glance.url = self.way.url
        proxy = openstack.connect(
            load_yaml_config=False,
            auth_type='none',
            endpoint=self.way.url,
            region_name='here',
        ).image
        self.addCleanup(proxy.session.session.close)
        self.place = places.CloudPlace('cloud', self._name, proxy)

    def put(self, name: str, id: str, format: str, **more: Any) -> None:
        self.glance.put(name, id, format, data=DATA[id], **more)

    def sent(self) -> int:
        """Count the uploads."""
        return sum(
            seen.method == 'PUT' and seen.path.endswith('/file')
            for seen in self.way.seen
        )


class CopyTest(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger())
        self.here = self.useFixture(_Cloud('here'))
        self.there = self.useFixture(_Cloud('there'))
        for cloud in (self.here, self.there):
            # Whose project it is, such a login does not tell.
            self.useFixture(
                fixtures.MockPatchObject(
                    cloud.place.proxy, 'get_project_id', lambda: memory.OWNER
                )
            )
        self.here.put('vmlinuz', memory.KERNEL, 'aki', architecture='x86_64')
        self.here.put('initrd', memory.RAMDISK, 'ari', tags=['early'])
        self.here.put(
            'web',
            memory.AMI,
            'ami',
            kernel_id=memory.KERNEL,
            ramdisk_id=memory.RAMDISK,
            min_disk=3,
            min_ram=512,
            tags=['blue'],
            protected=True,
            foo='bar',
            hw_disk_bus='scsi',
            os_hidden=False,
            amiclient_upload='x',
            **{'owner_specified.x': '1', 'os_glance_failed_import': ''},
        )

    def copied(
        self, *targets: Any, **asked: Any
    ) -> tuple[copy.CopyResult, ...]:
        settings = request.Settings(
            patience=uploads.QUICK, **asked.pop('settings', {})
        )
        return copy.copy(
            copy_plan.CopyRequest('web', settings, **asked),
            self.here.place,
            tuple(each.place for each in targets or (self.there,)),
            progress=uploads.Watcher(),
        )

    def triple(self, result: copy.CopyResult) -> tuple[Any, Any, Any]:
        """Get AMI, kernel and ramdisk."""
        images = self.there.glance.images
        return tuple(
            images[id or '']
            for id in (result.id, result.kernel_id, result.ramdisk_id)
        )  # type: ignore[return-value]


class TestStores(CopyTest):
    """Those of the target, which the user names."""

    def setUp(self) -> None:
        super().setUp()
        self.there.glance.stores = {'fast': True, 'cheap': True}

    def test_after_an_upload(self) -> None:
        """The copies are in the stores that the upload names."""
        targets, watch = (self.there.place,), uploads.Watcher()
        settings = request.Settings(patience=uploads.QUICK, stores=('slow',))
        error = self.assertRaises(
            errors.CloudError, copy.check_stores, settings, targets
        )
        self.assertIn(
            "cloud there: this cloud has no store 'slow'", str(error)
        )
        settings = request.Settings(patience=uploads.QUICK, stores=('cheap',))
        copy.check_stores(settings, targets)
        source = self.here.place
        image = links.show(
            client.Catalog(source.proxy, patience=uploads.QUICK), 'web'
        ).image
        (result,) = copy.uploaded(
            image, settings, source, targets, (), progress=watch
        )
        for each in self.triple(result):
            self.assertEqual('cheap', each['stores'])

    def test_each(self) -> None:
        (result,) = self.copied(settings={'stores': ('cheap',)})
        for image in self.triple(result):
            self.assertEqual('cheap', image['stores'])
        # There, but elsewhere: only administrators have it copied.
        (again,) = self.copied(settings={'stores': ('fast',)})
        self.assertEqual(('copied', ()), (again.status, again.reused))
        self.useFixture(
            fixtures.MockPatchObject(stores, 'may_copy', lambda _: True)
        )
        both = {'stores': ('cheap', 'fast')}
        (planned,) = self.copied(settings=both, dry_run=True)
        self.assertEqual('present', planned.status)
        self.assertEqual({1}, {len(step.copies) for step in planned.plan})
        (spread,) = self.copied(settings=both)
        self.assertEqual(('present', 0), (spread.status, spread.sent))
        for image in self.triple(spread):
            self.assertEqual({'cheap', 'fast'}, {*image['stores'].split(',')})

    def test_refused(self) -> None:
        for names, words in (
            (('slow',), "this cloud has no store 'slow'"),
            (('fast', 'cheap'), 'you may not have data copied to the stores'),
        ):
            self.there.glance.methods = []
            (result,) = self.copied(settings={'stores': names})
            self.assertEqual('failed', result.status)
            self.assertIn(words, self.log.output)
        self.assertEqual({}, self.there.glance.images)


class TestCopy(CopyTest):
    def test_all_of_it(self) -> None:
        (result,) = self.copied()
        self.assertEqual(
            ('cloud there', 'copied', 'stream', SIZE, ()),
            (
                result.target,
                result.status,
                result.way,
                result.sent,
                result.reused,
            ),
        )
        ami, kernel, ramdisk = self.triple(result)
        self.assertEqual(result.kernel_id, ami['kernel_id'])
        self.assertEqual(result.ramdisk_id, ami['ramdisk_id'])
        for before, after in (
            (memory.AMI, ami),
            (memory.KERNEL, kernel),
            (memory.RAMDISK, ramdisk),
        ):
            self.assertEqual(DATA[before], self.there.glance.data[after['id']])
            self.assertNotEqual(before, after['id'])
            for name in ('name', 'disk_format', 'min_disk', 'tags'):
                old = self.here.glance.images[before][name]
                self.assertEqual(old, after[name])
        self.assertEqual('x86_64', kernel['architecture'])
        self.assertEqual(
            ('bar', 'scsi', 512, False, 'shared'),
            tuple(
                ami[name]
                for name in (
                    'foo', 'hw_disk_bus', 'min_ram', 'protected', 'visibility',
                )
            ),
        )  # fmt: skip
        for name in (
            'amiclient_upload', 'owner_specified.x', 'os_glance_failed_import',
        ):  # fmt: skip
            self.assertNotIn(name, ami)

    def test_again(self) -> None:
        """Nothing is sent, and that is said."""
        self.copied()
        ids = {*self.there.glance.images}
        (result,) = self.copied()
        self.assertEqual(('present', 0), (result.status, result.sent))
        self.assertEqual(3, len(result.reused))
        self.assertEqual(ids, {*self.there.glance.images})
        self.assertEqual(3, self.there.sent())
        self.assertIn(
            'cloud there: the AMI is there already: nothing is sent',
            self.log.output,
        )

    def test_parts_that_are_there(self) -> None:
        self.there.put('other', memory.KERNEL, 'aki')
        (result,) = self.copied()
        self.assertEqual(memory.KERNEL, result.kernel_id)
        self.assertEqual((memory.KERNEL,), result.reused)
        self.assertEqual(SIZE - len(DATA[memory.KERNEL]), result.sent)

    def test_an_ami_that_is_not_the_same(self) -> None:
        """There is a new one, and it is said why."""
        (before,) = self.copied()
        self.there.glance.change(before.id or '', foo='baz')
        (result,) = self.copied()
        self.assertEqual('copied', result.status)
        self.assertEqual(len(DATA[memory.AMI]), result.sent)
        self.assertEqual(before.kernel_id, result.kernel_id)
        self.assertIn("its foo is 'baz', not 'bar'", self.log.output)

    def test_settings(self) -> None:
        (result,) = self.copied(
            settings={'visibility': 'community', 'protected': True}
        )
        for image in self.triple(result):
            self.assertEqual('community', image['visibility'])
            self.assertTrue(image['protected'])

    def test_the_same_ids(self) -> None:
        for status, sent in (('copied', SIZE), ('present', 0)):
            (result,) = self.copied(same_id=True)
            self.assertEqual(status, result.status)
            self.assertEqual(
                (memory.AMI, memory.KERNEL, memory.RAMDISK),
                (result.id, result.kernel_id, result.ramdisk_id),
            )
            self.assertEqual(sent, result.sent)

    def test_the_same_ids_are_used(self) -> None:
        self.there.glance.put('mine', memory.KERNEL, 'aki', data=b'other')
        (result,) = self.copied(same_id=True)
        self.assertEqual('failed', result.status)
        self.assertIn(
            "cloud there: the kernel 'mine' (22222222-2222-4222-8222-22222222"
            '2222) has the id that the copy is to have, but holds other data; '
            'leave out --same-id',
            self.log.output,
        )
        self.assertEqual([memory.KERNEL], [*self.there.glance.images])

    def test_a_snapshot(self) -> None:
        self.here.glance.change(
            memory.AMI,
            image_type='snapshot',
            base_image_ref=memory.OTHER,
            hw_machine_type='pc',
        )
        (result,) = self.copied()
        ami, _, _ = self.triple(result)
        for name in ('image_type', 'base_image_ref', 'hw_machine_type'):
            self.assertNotIn(name, ami)
        (result,) = self.copied(keep_hardware=True)
        self.assertEqual('pc', self.triple(result)[0]['hw_machine_type'])

    def test_a_property_that_is_refused(self) -> None:
        schema = dict(self.there.glance.others['schemas/image'])
        schema['properties'] = {
            **schema['properties'],
            'foo': {'type': 'string', 'enum': ['x']},
        }
        self.there.glance.others['schemas/image'] = schema
        (result,) = self.copied()
        self.assertNotIn('foo', self.triple(result)[0])
        self.assertIn('the property foo=bar is left out', self.log.output)

    def test_dry_run(self) -> None:
        self.there.put('other', memory.KERNEL, 'aki')
        (result,) = self.copied(dry_run=True)
        self.assertEqual(
            ('planned', 'stream', None, memory.KERNEL),
            (result.status, result.way, result.id, result.kernel_id),
        )
        self.assertEqual(
            ['reuse', 'copy', 'copy'], [step.action for step in result.plan]
        )
        self.assertEqual([memory.KERNEL], [*self.there.glance.images])


class TestFailures(CopyTest):
    def test_one_of_two(self) -> None:
        """The other is whole, and the one is as it was."""
        other = self.useFixture(_Cloud('broken'))
        other.way.rule(actions.answer(413), method='PUT', path='/file$')
        done = self.copied(other, self.there)
        self.assertEqual(
            [('cloud broken', 'failed'), ('cloud there', 'copied')],
            [(each.target, each.status) for each in done],
        )
        self.assertTrue(copy.failed(done))
        self.assertEqual({}, other.glance.images)
        self.assertEqual(3, len(self.there.glance.images))
        self.assertIn('cloud broken: sending the data of', self.log.output)
        self.assertIn('; nothing was left behind', self.log.output)
        self.assertNotIn('Traceback', self.log.output)

    def test_not_all_of_it_is_here(self) -> None:
        del self.here.glance.images[memory.RAMDISK]
        error = self.assertRaises(errors.NotFoundError, self.copied)
        self.assertIn('see `openstack ami verify', str(error))
        self.here.put('initrd', memory.RAMDISK, 'ari', status='queued')
        error = self.assertRaises(errors.CloudError, self.copied)
        self.assertIn('is queued, not active', str(error))
        self.assertEqual({}, self.there.glance.images)

    def test_interrupted(self) -> None:
        """What is not complete is removed, what is complete stays."""

        def interrupt(exchange: faults.Exchange) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            exchange.hold()

        other = self.useFixture(_Cloud('slow'))
        path = f'/{memory.AMI}/file$'
        self.here.way.rule(interrupt, path=path, times=1)
        with interrupts.raised():
            error = self.assertRaises(
                interrupts.Interrupted, self.copied, other
            )
        self.assertEqual(['nothing was left behind'], error.__notes__)
        self.assertEqual({}, other.glance.images)

    def test_what_comes_is_wrong(self) -> None:
        """It is compared before the target has all of it."""
        self.here.glance.data[memory.AMI] = b'imagf' * 1000
        (result,) = self.copied()
        self.assertEqual('failed', result.status)
        self.assertIn('is not that of image', self.log.output)
        self.assertEqual({}, self.there.glance.images)


class TestElsewhere(CopyTest):
    def judge(self, *, all_of_it: bool = False) -> str:
        ami = links.show(self.here.place.catalog(uploads.QUICK), 'web')
        where = self.there.place, uploads.QUICK
        one = str(elsewhere.Elsewhere.of_one(*where, ami.image).judge(ami))
        # However it is looked for.
        of_all = elsewhere.Elsewhere.of_all(*where).judge(ami)
        self.assertEqual(one, str(of_all))
        return one

    def test_verdicts(self) -> None:
        self.assertEqual('missing', self.judge())
        self.there.glance.put('other', memory.OTHER, 'ami', kernel_id='x')
        self.assertEqual('missing', self.judge())
        (result,) = self.copied()
        self.assertEqual('same', self.judge())
        change = self.there.glance.change
        change(result.id or '', foo='baz', tags=[], name='www', min_ram=0)
        self.assertEqual('differs: name, min_ram, tags, foo', self.judge())
        change(result.kernel_id or '', os_hash_value='0' * 128)
        self.assertEqual(
            'differs: kernel, name, min_ram, tags, foo', self.judge()
        )
        change(result.id or '', os_hash_value='0' * 128)
        self.assertEqual('missing', self.judge())
        change(result.id or '', name='web', status='deactivated')
        self.assertEqual(
            'differs: it is deactivated, data, kernel, min_ram, tags and '
            '1 more',
            self.judge(),
        )
