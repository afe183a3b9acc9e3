# SPDX-License-Identifier: Apache-2.0

"""What is checked before a machine is started, and what is told after."""

import dataclasses
import pathlib
import re

import fixtures

from amiclient.boot import causes
from amiclient.boot import run
from amiclient import distribution
from amiclient import errors
from amiclient import kvm
from amiclient.source import bundle
from amiclient.source import manifest
from amiclient.tests import base
from amiclient.tests.disks import triple
from amiclient.tests.unit.rootfs import samples

MIB = 2**20

_GUESSED = dataclasses.replace(causes.named('no-driver'), guessed=True)


class PlanCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.bin = self.directory / 'bin'
        self.bin.mkdir()
        for name in ('qemu-system-x86_64', 'qemu-img', 'setpriv'):
            self.program(name)
        self.root = triple.root(self.directory)
        self.source = bundle.Source(
            root=self.root,
            kernel=triple.kernel(self.directory),
            ramdisk=triple.ramdisk(self.directory),
        )

    def program(self, name: str, script: str = '') -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\n{script}\n')
        path.chmod(0o755)
        self.useFixture(
            fixtures.EnvironmentVariable('PATH', f'{self.bin}:/usr/bin:/bin')
        )

    def plan(self, **rest: object) -> run.BootPlan:
        request = run.BootRequest(**{'source': self.root, **rest})
        return run.plan(request, self.source)


class TestPlan(PlanCase):
    def test_of_the_source(self) -> None:
        plan = self.plan()
        self.assertEqual(self.source.kernel, plan.kernel)
        self.assertEqual(self.source.ramdisk, plan.ramdisk)
        self.assertEqual('qemu-system-x86_64', plan.emulator.program)
        # So that growing is tried.
        self.assertEqual(32 * MIB, plan.disk)

    def test_another_kernel(self) -> None:
        """What an upload would make of the same options."""
        other = self.directory / 'other'
        other.write_bytes(samples.bzimage())
        plan = self.plan(kernel=other)
        self.assertEqual(other, plan.kernel)
        self.assertEqual(self.source.ramdisk, plan.ramdisk)
        self.source = dataclasses.replace(self.source, ramdisk=None)
        self.assertIsNone(self.plan(kernel=other).ramdisk)

    def test_another_ramdisk(self) -> None:
        other = self.directory / 'other'
        other.write_bytes(samples.initramfs())
        plan = self.plan(ramdisk=other)
        self.assertEqual(self.source.kernel, plan.kernel)
        self.assertEqual(other, plan.ramdisk)

    def test_disk(self) -> None:
        self.assertEqual(64 * MIB, self.plan(disk=64 * MIB).disk)
        error = self.assertRaises(errors.UsageError, self.plan, disk=15 * MIB)
        self.assertIn('--disk', str(error))

    def refused(self, kind: type[Exception], **rest: object) -> str:
        error = self.assertRaises(kind, self.plan, **rest)
        self.assertNotIn('\n', str(error))
        return str(error)

    def test_sizes_that_cannot_be(self) -> None:
        usage = errors.UsageError
        for rest, said in (
            ({'memory': 1000}, 'MiB; give 1048576'),
            ({'memory': MIB + 1}, 'MiB; give 1048576 or 2097152'),
            ({'disk': 64 * MIB + 1}, 'bytes; give 67108864 or 67109376'),
            ({'disk': 1 << 60}, 'is too large; give 2251799813685248 at most'),
        ):
            self.assertIn(said, self.refused(usage, **rest))

    def test_no_kernel(self) -> None:
        self.source = dataclasses.replace(self.source, kernel=None)
        words = self.refused(errors.UsageError)
        self.assertIn('root.img', words)
        self.assertIn('--kernel', words)

    def test_swapped(self) -> None:
        words = self.refused(
            errors.SourceError,
            kernel=self.source.ramdisk, ramdisk=self.source.kernel,
        )  # fmt: skip
        self.assertIn('an initramfs was given as kernel', words)

    def test_ramdisk_that_is_none(self) -> None:
        self.refused(errors.SourceError, ramdisk=self.root)

    def test_root_that_is_none(self) -> None:
        self.source = dataclasses.replace(self.source, root=self.source.kernel)
        self.refused(errors.SourceError)

    def test_kernel_for_what_cannot_be_run(self) -> None:
        self.source.kernel.write_bytes(bytes(samples.pe(0x5064, b'.linux')))
        error = self.assertRaises(errors.AmiError, self.plan)
        self.assertNotIn('\n', str(error))

    def test_command_line(self) -> None:
        self.refused(errors.UsageError, append='x' * 4000)

    def saved(self, **properties: str) -> None:
        part = manifest.ManifestPart(
            file='root.img', size=1, sha512='0' * 128,
            disk_format='ami', container_format='ami', properties=properties,
        )  # fmt: skip
        self.source = dataclasses.replace(
            self.source, manifest=manifest.Manifest(part)
        )

    def test_command_line_of_a_saved_one(self) -> None:
        self.assertEqual('', self.plan().command_line)
        self.saved(os_distro='debian')
        self.assertEqual('', self.plan().command_line)
        self.saved(os_command_line='root=/dev/vda ro console=ttyS0')
        self.assertEqual(
            'root=/dev/vda ro console=ttyS0', self.plan().command_line
        )
        self.saved(os_command_line='x\ny')
        words = self.refused(errors.UsageError)
        self.assertIn('os_command_line', words)

    def test_console_that_is_a_directory(self) -> None:
        for text in ('.', '..', '/', str(self.directory)):
            words = self.refused(errors.UsageError, console=pathlib.Path(text))
            self.assertEqual(
                f'--console {text}: a directory; name a file in it', words
            )

    def test_console_within_the_source(self) -> None:
        words = self.refused(
            errors.UsageError,
            source=self.directory,
            console=self.directory / 'new' / 'console',
        )
        self.assertIn('console is within the source; ', words)
        # Beside what was saved, there may be others.
        (self.directory / manifest.NAME).touch()
        self.plan(source=self.directory, console=self.directory / 'console')

    def test_qemu_is_missing(self) -> None:
        for name in ('qemu-system-x86_64', 'qemu-img'):
            (self.bin / name).unlink()
        self.useFixture(fixtures.EnvironmentVariable('PATH', str(self.bin)))
        words = self.refused(errors.ProgramError)
        self.assertEqual(
            'qemu-system-x86_64 was not found; '
            f'{distribution.remedy("qemu-system-x86_64")}',
            words,
        )


class TestKvm(PlanCase):
    def works(self, script: str) -> bool:
        self.program('qemu-system-x86_64', script)
        return kvm.works('qemu-system-x86_64', 'pc')

    def test_works(self) -> None:
        # What it is told ends it; the whole of it is there to read.
        self.assertTrue(
            self.works('read a && read b && echo "$b" | grep -q quit')
        )

    def test_is_not_there(self) -> None:
        self.assertFalse(self.works('echo "no /dev/kvm" >&2; exit 1'))

    def test_is_half_there(self) -> None:
        # As in a virtual machine: "kvm_buf_set_msrs: Assertion failed".
        self.assertFalse(self.works('kill -ABRT $$'))

    def test_hangs(self) -> None:
        self.patch(kvm, '_TRIAL', 0.3)
        self.assertFalse(self.works('exec sleep 60'))


class TestBooted(base.TestCase):
    def booted(self, **rest: object) -> run.Booted:
        return run.Booted(
            **{
                'result': 'booted',
                'seconds': 9.5,
                'matched': 'guest login:',
                'root_size': 32 * MIB,
                'root_size_before': 16 * MIB,
                'disk': 32 * MIB,
                'accelerator': 'tcg',
                'console': None,
                'cause': None,
                'lines': (),
                **rest,
            }
        )

    def test_grew(self) -> None:
        self.assertTrue(self.booted().grew)
        self.assertFalse(self.booted(root_size=16 * MIB).grew)
        self.assertFalse(self.booted(root_size=None).grew)

    def test_explanations(self) -> None:
        request = run.BootRequest(
            source=pathlib.Path('x'), until=re.compile('ready$'), wait=7
        )
        for words, rest in (
            ('after 7 seconds', {'result': 'timeout'}),
            ('--append console=ttyS0', {'result': 'timeout'}),
            (
                'probably: no root device: the kernel has no driver',
                {'result': 'timeout', 'cause': _GUESSED},
            ),
            (
                '--append console=ttyS0',
                {'result': 'timeout', 'cause': _GUESSED},
            ),
            ('switched itself off', {'result': 'ended'}),
            (
                causes.CAUSES[0].message,
                {'result': 'failed', 'cause': causes.CAUSES[0]},
            ),
        ):
            booted = self.booted(matched=None, **rest)
            self.assertFalse(booted.succeeded)
            said = booted.explanation(request)
            self.assertIn(words, said)
            self.assertIn("'ready$'", said)
            self.assertFalse(said.endswith('.'))

    def test_what_was_done_already_is_not_advised(self) -> None:
        request = run.BootRequest(
            source=pathlib.Path('x'), append='console=ttyS0'
        )
        booted = self.booted(matched=None, result='timeout')
        self.assertNotIn('--append', booted.explanation(request))
