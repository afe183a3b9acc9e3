# SPDX-License-Identifier: Apache-2.0

"""Options that would do nothing are refused, and those that do are not."""

import pathlib

from amiclient import errors
from amiclient.osc import ami
from amiclient.osc import ami_change
from amiclient.osc import boot
from amiclient.osc import command
from amiclient.osc import local
from amiclient.osc import options
from amiclient.osc import parts
from amiclient.osc import sources
from amiclient.osc import verify
from amiclient import process
from amiclient import progress
from amiclient.tests import base

VERSION = ('--kernel-version', '6.1.0-30')


class TestCase(base.TestCase):
    def parse(self, kind: type[command._Base], *words: str) -> object:
        return kind(None, None).get_parser('openstack').parse_args(words)

    def refused(self, function: object, *arguments: object) -> str:
        error = self.assertRaises(errors.UsageError, function, *arguments)
        self.assertIsNotNone(error.hint)
        return str(error)


class TestKernelVersion(TestCase):
    def open(self, kind: type[command._Base], *words: str) -> None:
        parsed_args = self.parse(kind, 'nosuch.img', *words)
        with sources.triple(parsed_args, progress.QUIET):
            self.fail('there is no such file')

    def test_a_kernel_is_named(self) -> None:
        for kind, words in (
            (ami.UploadAmi, ('--kernel', 'vmlinuz')),
            (ami.UploadAmi, ('--no-kernel',)),
            (boot.BootImage, ('--kernel', 'vmlinuz')),
        ):
            told = self.refused(self.open, kind, *words, *VERSION)
            self.assertIn('--kernel-version: ', told)
            self.assertIn(words[0], told)

    def test_check(self) -> None:
        parsed_args = self.parse(
            local.CheckSource, 'nosuch.img', '--kernel', 'vmlinuz', *VERSION
        )
        check = local.CheckSource(None, None)
        self.assertIn(
            '--kernel-version: ', self.refused(check.take_action, parsed_args)
        )

    def test_what_to_do_without_a_kernel(self) -> None:
        image = self.tmp() / 'root.img'
        process.run(['mke2fs', '-q', '-t', 'ext4', image, '4M'], access=None)
        parsed_args = self.parse(local.ExtractSource, str(image), *VERSION)
        error = self.assertRaises(
            errors.SourceError,
            sources.triple(parsed_args, progress.QUIET).__enter__,
        )
        self.assertEqual('remove --kernel-version', error.hint)

    def test_a_ramdisk_is_named(self) -> None:
        for kind in (ami.UploadAmi, boot.BootImage):
            self.assertRaises(
                errors.SourceError,
                self.open, kind, '--ramdisk', 'initrd', *VERSION,
            )  # fmt: skip


class TestWithoutRoot(TestCase):
    """Uploads of images that hold no root filesystem."""

    parts = ('--kernel', 'vmlinuz', '--ramdisk', 'initrd')
    diskless = ('--for', 'ironic-ramdisk')

    def check(self, *words: str) -> None:
        parsed_args = self.parse(ami.UploadAmi, *words)
        ami.check_source(parsed_args)
        if parsed_args.source is None:
            with sources.triple(parsed_args, progress.QUIET) as source:
                self.assertIsNone(source.kernel)

    def test_what_is_enough(self) -> None:
        named = (*self.diskless, *self.parts, '--name', 'x')
        self.check(*named)
        self.check(*named, '--architecture', 'x86_64')
        for some in ((), self.parts[:2]):
            self.check(*self.diskless, *some, 'root.img', '--name', 'x')

    def test_what_is_not(self) -> None:
        for words, told in (
            ((), 'no source was named'),
            (('--for', 'ironic', *self.parts), 'no source was named'),
            ((*self.diskless, *self.parts), 'no source was named'),
            (
                (*self.diskless, *self.parts[:2], '--name', 'x'),
                'no source was named',
            ),
            (
                (*self.diskless, *self.parts, 'root.img'),
                'nothing of the source root.img',
            ),
            (
                (*self.diskless, 'root.img', '--headroom', '1M'),
                '--headroom: no root filesystem',
            ),
            ((*self.diskless, 'root.img', '--fix'), '--fix: '),
            (
                (*self.diskless, *self.parts, '--name=x', '--partition=1'),
                '--partition: there is no source',
            ),
        ):
            self.assertIn(told, self.refused(self.check, *words))


class TestShrink(TestCase):
    def shrink(self, *words: str) -> None:
        path = self.tmp() / 'root.img'
        path.write_bytes(bytes(4096))
        shrink = local.ShrinkImage(None, None)
        shrink.watch = lambda parsed_args: progress.QUIET
        shrink.take_action(self.parse(local.ShrinkImage, str(path), *words))

    def test_what_is_for_a_copy_only(self) -> None:
        for words in (('--fix',), ('--partition', '1'), ('--partition', '0')):
            told = self.refused(self.shrink, *words)
            self.assertIn(f'{words[0]}: ', told)
            self.assertIn('--output', told)

    def test_others(self) -> None:
        for word in ('--allow-backing-file', '--repair', '--dry-run'):
            self.assertRaises(errors.SourceError, self.shrink, word)


class TestBoot(TestCase):
    def request(self, *words: str) -> object:
        return boot._request(self.parse(boot.BootImage, 'root.img', *words))

    def test_nothing_is_waited_for(self) -> None:
        told = self.refused(self.request, '--interactive', '--wait', '900')
        self.assertIn('--wait: ', told)
        # That decides whether it has booted.
        self.request('--interactive', '--until', 'login:')


class TestVerify(TestCase):
    def local(self, *words: str) -> object:
        command = verify.VerifyAmi(None, None)
        return command._local(self.parse(verify.VerifyAmi, 'web', *words))

    def test_nothing_is_compared(self) -> None:
        for words in (
            ('--repair',),
            ('--headroom', '64M'),
            ('--headroom', '0'),
            ('--journal', 'none'),
            ('--partition', '0'),
        ):
            told = self.refused(self.local, *words)
            self.assertIn(f'{words[0]}: ', told)
            self.assertIn('--against', told)
        self.assertIsNone(self.local('--deep', '--work-directory', '/tmp'))

    def test_as_an_upload_has_it(self) -> None:
        found = self.local('--against', 'a.img')
        self.assertEqual(pathlib.Path('a.img'), found.path)
        self.assertEqual(64 * 2**20, found.choice.options.headroom.size)
        self.assertEqual(
            0,
            self.local(
                '--against', 'a', '--headroom', '0'
            ).choice.options.headroom.size,
        )


class TestContradictions(TestCase):
    def test_an_option_and_its_property(self) -> None:
        for function, kind, option, value in (
            (options.traits, ami.UploadAmi, 'architecture', 'x86_64'),
            (options.traits, parts.UploadKernel, 'architecture', 'x86_64'),
            (ami_change._request, ami_change.SetAmi, 'os-version', '12'),
        ):
            name = option.replace('-', '_')
            for other, is_refused in (('13', True), (value, False)):
                parsed_args = self.parse(
                    kind, 'web', f'--{option}', value,
                    '--property', f'{name}={other}',
                )  # fmt: skip
                if not is_refused:
                    function(parsed_args)
                    continue
                told = self.refused(function, parsed_args)
                self.assertIn(f'--{option} {value}', told)
                self.assertIn(f'--property {name}={other}', told)


class TestStores(TestCase):
    def test_there_is_one(self) -> None:
        allow = '--allow-store-failure'
        for words in ((), ('--store', 'a', '--store', 'a')):
            parsed_args = self.parse(parts.UploadKernel, 'k', allow, *words)
            told = self.refused(options.settings, parsed_args, None)
            self.assertIn(allow, told)
            parsed_args = self.parse(ami_change.SetAmi, 'web', allow, *words)
            self.assertIn(
                allow, self.refused(ami_change._request, parsed_args)
            )
        for words in (('--all-stores',), ('--store', 'a', '--store', 'b')):
            parsed_args = self.parse(
                parts.UploadKernel, 'k', '--allow-failure', *words
            )
            found = options.settings(parsed_args, None)
            self.assertTrue(found.allow_store_failure)


class TestProject(TestCase):
    def test_a_domain_alone(self) -> None:
        for kind, words in (
            (ami.ListAmi, ()),
            (parts.ListKernel, ()),
            (ami.UploadAmi, ('root.img',)),
        ):
            parsed_args = self.parse(kind, *words, '--project-domain', 'x')
            told = self.refused(kind(None, None).project_id, parsed_args)
            self.assertIn('--project-domain: ', told)
