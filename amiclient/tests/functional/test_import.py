# SPDX-License-Identifier: Apache-2.0

"""A cloud that lets nobody write to its stores: all data is imported."""

import dataclasses
import gzip
import hashlib
import json
import os
import pathlib
import signal
import threading
import time

from amiclient.glance.upload import marks
from amiclient.tests.cloud import cloud
from amiclient.tests.cloud import forkserver as openstack_server
from amiclient.tests.faults import stuck
from amiclient.tests.functional import upload

#: One cloud for all of it. The plugin unpacks what is compressed.
OPTIONS = cloud.Options(
    policy=(('upload_image', '!'),), plugins=('image_decompression',)
)


class ImportCase(upload.UploadCase):
    options = OPTIONS

    def stored(self, *parts: str) -> list[str]:
        """Tell what is in the stores, or in the stage."""
        return sorted(
            path.name
            for part in parts or ('main', 'second', 'staging')
            for path in (self.cloud.store / part).iterdir()
        )

    def upload_kernel(self, *words, **options):
        return self.openstack_json(
            'ami', 'kernel', 'upload', self.kernel, *words, **options
        )


class TestImport(ImportCase):
    def test_a_triple(self) -> None:
        words = ('--no-ramdisk', '--kernel', self.kernel)
        words = ('ami', 'upload', self.root, *words)
        told = self.openstack_json(*words, '--dry-run')
        # Nothing is there to ask about.
        ways = {step['way'] for step in told['plan']}
        self.assertEqual({'put or import'}, ways)
        self.assertEqual([], self.images())
        told = self.openstack_json(*words)
        for id in (told['id'], told['kernel_id']):
            found = self.get(id)
            self.assertEqual('active', found['status'])
            self.assertNotIn(marks.PROPERTY, found)
        self.assertEqual(self.images(), self.stored('main'))
        self.assertEqual(self.images(), self.stored())
        data = self.download(told['kernel_id']).read_bytes()
        self.assertEqual(_hash(self.kernel.read_bytes()), _hash(data))
        # Now there is. What is asked for changes nothing of it.
        before = self.get(told['id'])
        again = self.openstack_json(*words, '--no-reuse', '--dry-run',
                                    stderr=None)  # fmt: skip
        self.assertEqual({'import'}, {s['way'] for s in again['plan']})
        self.assertEqual(before, self.get(told['id']))
        words += ('--no-reuse', '--name', 'other', '--import', 'never')
        text = self.refused(*words, '--dry-run')
        self.assertIn('policy upload_image', text)
        self.assertIn('has to be imported', self.refused(*words))
        # Several stores, for somebody who may not have it copied.
        kernel = self.upload_kernel('--all-stores', '--no-reuse')
        self.assertEqual('main,second', self.get(kernel['id'])['stores'])

    def test_what_the_plugin_unpacks(self) -> None:
        packed = self.directory / 'initrd.gz'
        packed.write_bytes(gzip.compress(self.unpacked()))
        words = ('ami', 'ramdisk', 'upload', packed)
        text = self.refused(*words)
        self.assertIn('import plugin unpacked or converted the ramdisk', text)
        self.assertIn('--allow-conversion', text)
        self.assertEqual([], self.stored())
        finished = self.run_openstack(
            *words, '--allow-conversion', '-f', 'json'
        )
        self.assertEqual(0, finished.status, finished)
        self.assertIn('unpacked or converted', finished.stderr)
        told = json.loads(finished.stdout)
        data = self.download(told['id']).read_bytes()
        self.assertEqual(_hash(self.unpacked()), _hash(data))

    def unpacked(self) -> bytes:
        data = self.ramdisk.read_bytes()
        return gzip.decompress(data) if data[:2] == b'\x1f\x8b' else data

    def test_a_store_that_fails(self) -> None:
        second = self.cloud.store / 'second'
        second.rename(aside := self.cloud.store / 'aside')
        self.addCleanup(aside.rename, second)
        second.write_bytes(b'')
        self.addCleanup(second.unlink)
        words = ('ami', 'kernel', 'upload', self.kernel)
        text = self.refused(*words, '--all-stores')
        self.assertIn("to the store 'second' failed", text)
        self.assertEqual([], self.stored('main', 'staging'))
        finished = self.run_openstack(
            *words, '--all-stores', '--allow-store-failure', '-f', 'json'
        )
        self.assertEqual(0, finished.status, finished)
        self.assertIn("the store 'second'", finished.stderr)
        told = json.loads(finished.stdout)
        self.assertEqual('main', self.get(told['id'])['stores'])


class TestCutShort(ImportCase):
    """Ctrl-C and kill -9 while Glance imports."""

    def importing(self) -> tuple[openstack_server.Forked, pathlib.Path]:
        """Start an upload that comes to the middle of the import.

        :returns: its process, and what Glance waits for: a FIFO in place of
            what was staged.
        """
        way = self.useFixture(stuck.Way(self.cloud, self.directory))
        pause = way.hold(None, method='POST', path='/import$')
        process = self.start_openstack('ami', 'kernel', 'upload', self.kernel)
        pause.wait()
        [name] = self.stored('staging')
        staged = self.cloud.store / 'staging' / name
        staged.unlink()
        os.mkfifo(staged)
        pause.end()
        self.await_status(name, 'importing')
        return process, staged

    def await_status(self, id: str, status: str) -> None:
        end = time.monotonic() + stuck.LATE
        while (found := self.get(id).get('status')) != status:
            self.assertLess(time.monotonic(), end, found)
            time.sleep(0.02)

    def go_on(self, staged: pathlib.Path) -> None:
        """Have Glance find what was staged.

        It is the plugin that waits, which then has looked at nothing.
        """
        real = self.directory / 'staged'
        real.write_bytes(self.kernel.read_bytes())
        fifo = os.open(staged, os.O_RDWR)
        real.replace(staged)
        os.close(fifo)

    def test_ctrl_c(self) -> None:
        process, staged = self.importing()
        os.kill(process.pid, signal.SIGINT)
        threading.Timer(0.5, self.go_on, [staged]).start()
        _, stderr = process.communicate(timeout=stuck.LATE)
        self.assertEqual(130, process.returncode, stderr)
        self.assertIn('waiting until the cloud has written', stderr)
        self.assertIn('interrupted; nothing was left behind', stderr)
        self.assertEqual([], self.images())
        self.assertEqual([], self.stored())

    def test_delete(self) -> None:
        """While it is imported, whoever has begun that."""
        process, staged = self.importing()
        process.kill()
        process.communicate()
        threading.Timer(0.5, self.go_on, [staged]).start()
        told = self.run_openstack('ami', 'kernel', 'delete', staged.name)
        self.assertEqual(0, told.status, told)
        self.assertIn('waiting until the cloud has written', told.stderr)
        self.assertEqual([], self.stored())

    def test_kill(self) -> None:
        process, staged = self.importing()
        process.kill()
        process.communicate()
        words = ('ami', 'kernel', 'upload', self.kernel)
        told = self.run_openstack(*words, '--dry-run')
        self.assertIn('that was killed left', told.stderr)
        self.assertIn(staged.name, told.stderr)
        threading.Timer(0.5, self.go_on, [staged]).start()
        finished = self.run_openstack(*words, '-f', 'json')
        self.assertEqual(0, finished.status, finished)
        [left] = self.images()
        self.assertNotEqual(staged.name, left)
        self.assertEqual([left], self.stored())
        self.openstack('ami', 'kernel', 'delete', left)
        self.assertEqual([], self.stored())


class TestConversion(ImportCase):
    """A cloud that makes raw images of what is imported, whatever it is."""

    options = dataclasses.replace(OPTIONS, plugins=('image_conversion',))

    def test_what_the_plugin_converts(self) -> None:
        words = ('ami', 'upload', self.root, '--no-kernel', '--no-ramdisk',
                 '--image-format', 'qcow2')  # fmt: skip
        text = self.refused(*words)
        self.assertIn('import plugin unpacked or converted the image', text)
        self.assertEqual([], self.images())
        self.assertEqual([], self.stored())
        finished = self.run_openstack(
            *words, '--allow-conversion', '-f', 'json'
        )
        self.assertEqual(0, finished.status, finished)
        told = json.loads(finished.stdout)
        self.assertEqual('raw', told['disk_format'])
        # It can make nothing of a kernel, and Glance does not tell why.
        text = self.refused('ami', 'kernel', 'upload', self.kernel)
        self.assertIn('Glance does not tell why', text)
        self.assertEqual([told['id']], self.images())
        self.assertEqual([told['id']], self.stored())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
