# SPDX-License-Identifier: Apache-2.0


import contextlib
from importlib import metadata
import io
import os
import pathlib

import testscenarios

from amiclient import errors
from amiclient.glance import retry
from amiclient.osc import ami
from amiclient.osc import ami_change
from amiclient.osc import local
from amiclient.osc import options
from amiclient.osc import parts
from amiclient.tests import base
from amiclient.tests.disks import signing
from amiclient import units

load_tests = testscenarios.load_tests_apply_scenarios

COMMANDS = (
    ami.ListAmi,
    ami.ShowAmi,
    ami.UploadAmi,
    parts.UploadKernel,
    local.ShrinkImage,
    parts.UploadRamdisk,
)


_OSC_LIB = metadata.version('osc-lib')


def parse(command, *words):
    """Parse as the documentation's builder does: without an application."""
    return command(None, None).get_parser('openstack').parse_args(words)


class TestParsers(base.TestCase):
    scenarios = tuple((c.__name__, {'command': c}) for c in COMMANDS)

    def test_help_names_every_option(self):
        text = self.command(None, None).get_parser('openstack').format_help()
        self.assertNotIn('%(', text)
        self.assertIn('--help', text)

    def test_every_option_has_a_help_text(self):
        parser = self.command(None, None).get_parser('openstack')
        for action in parser._actions:
            self.assertTrue(action.help, action)

    def test_the_command_says_what_it_does(self):
        text = self.command(None, None).get_description()
        self.assertGreater(len(text), 20)


class TestRefused(base.TestCase):
    scenarios = tuple(
        (' '.join(words), {'words': words})
        for words in (
            ('--public', '--private'),
            ('--protected', '--unprotected'),
            ('--kernel', 'a', '--no-kernel'),
            ('--ramdisk', 'a', '--no-ramdisk'),
            ('--headroom', 'much'),
            ('--journal', 'yes'),
            ('--id', '123'),
            ('--min-disk', '-1'),
            ('--min-ram', '1G'),
            ('--image-format', 'vmdk'),
            ('--property', 'novalue'),
            # What a script says when a variable of its is not set.
            ('--name', ''),
            ('--kernel', ''),
            ('--ramdisk-name', ''),
            ('--work-directory', ''),
        )
    )

    def test_with_usage_and_status_2(self):
        if '--property' in self.words and _OSC_LIB.startswith(('2.', '3.0.')):
            self.skipTest('older osc-lib ends otherwise: with status 1')
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr):
            error = self.assertRaises(
                SystemExit, parse, ami.UploadAmi, 'root.img', *self.words
            )
        self.assertEqual(2, error.code)
        self.assertIn(self.words[-2], stderr.getvalue())


class TestCloudCommands(base.TestCase):
    def test_each_can_be_told_how_patient_to_be(self):
        found = metadata.entry_points(group='openstack.ami.v1')
        commands = [point.load() for point in found]
        for command in commands:
            if command.auth_required:
                parser = command(None, None).get_parser('openstack')
                self.assertIn('--retries', parser.format_help(), command)
                self.assertIn('--timeout', parser.format_help(), command)
        self.assertGreater(len(commands), 20)


class TestValues(base.TestCase):
    def test_the_current_directory_is_not_meant_by_nothing(self):
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr):
            self.assertRaises(SystemExit, parse, ami.UploadAmi, '')
        self.assertIn('it must not be empty', stderr.getvalue())

    def test_the_variable_of_a_script_that_was_not_set(self):
        for command, words in (
            (ami.UploadAmi, ('--architecture', '')),
            (ami.UploadAmi, ('--store', '')),
            (parts.UploadKernel, ('--architecture', '')),
            (ami_change.SetAmi, ('--architecture', '')),
            (ami_change.SetAmi, ('--os-distro', '')),
            (ami_change.SetAmi, ('--store', '')),
        ):
            stderr = io.StringIO()
            with contextlib.redirect_stderr(stderr):
                self.assertRaises(SystemExit, parse, command, 'x', *words)
            self.assertIn('it must not be empty', stderr.getvalue())

    def test_an_image_without_a_name(self):
        for command, words in (
            (ami.ShowAmi, ('',)),
            (ami.ListAmi, ('--kernel', '')),
            (ami.ListAmi, ('--marker', '')),
            (parts.DeleteKernel, ('vmlinuz', '')),
        ):
            stderr = io.StringIO()
            with contextlib.redirect_stderr(stderr):
                self.assertRaises(SystemExit, parse, command, *words)
            self.assertIn('it must not be empty', stderr.getvalue())

    def test_a_project_without_a_name(self):
        find = ami.UploadAmi(None, None).find_project
        for words in (('',), ('p', '')):
            error = self.assertRaises(errors.UsageError, find, *words)
            self.assertIn('it must not be empty; give a name', str(error))

    def test_a_url_is_no_file(self):
        for option, url in (
            ('--output', 'https://127.0.0.1//x.img?a=b'),
            ('--output', 's3://bucket/key'),
            ('--', 's3://bucket/key'),
        ):
            error = self.assertRaises(
                errors.SourceError, parse, local.ShrinkImage, option, url
            )
            self.assertIn(f'{url}: a URL', str(error))
            self.assertIn('download it first', error.hint)
        name = os.path.join(self.tmp(), 'http:')
        os.makedirs(os.path.join(name, 'x'))
        # What is there is meant.
        found = [parse(local.ShrinkImage, f'{name}//x')]
        with contextlib.chdir(os.path.dirname(name)):
            found.append(parse(local.ShrinkImage, 'http://x'))
        for each in found:
            self.assertIsInstance(each.image, pathlib.Path)

    def test_headroom(self):
        # Whether it was given decides whether a saved AMI is shrunk.
        self.assertIsNone(parse(ami.UploadAmi, 'root.img').headroom)
        self.assertEqual(units.Headroom(64 * 2**20), options.DEFAULT_HEADROOM)
        self.assertEqual(
            units.Headroom(), parse(local.ShrinkImage, 'root.img').headroom
        )
        self.assertEqual(
            units.Headroom(percent=5.0),
            parse(local.ShrinkImage, 'root.img', '--headroom', '5%').headroom,
        )

    def test_journal(self):
        for text, value in (('none', 'none'), ('keep', 'keep'), ('8M', 2**23)):
            self.assertEqual(
                value,
                parse(
                    local.ShrinkImage, 'root.img', '--journal', text
                ).journal,
            )

    def test_traits_and_settings(self):
        args = parse(
            parts.UploadKernel,
            'vmlinuz',
            '--public',
            '--protected',
            '--no-reuse',
            '--tag=b',
            '--tag=a',
            '--tag=b',
            '--property=a=b=c',
            '--id=D5ABC5A6-3263-4F4C-900A-F1AD6FF16BFA',
            '--store=fast',
            '--store=slow',
            '--allow-store-failure',
        )
        traits = options.traits(args)
        self.assertEqual(('b', 'a'), traits.tags)
        self.assertEqual({'a': 'b=c'}, traits.properties)
        self.assertEqual('d5abc5a6-3263-4f4c-900a-f1ad6ff16bfa', traits.id)
        settings = options.settings(args, 'a-project')
        self.assertEqual('public', settings.visibility)
        self.assertEqual('a-project', settings.owner)
        self.assertEqual(('fast', 'slow'), settings.stores)
        self.assertTrue(settings.allow_store_failure)
        self.assertTrue(settings.protected)
        self.assertFalse(settings.reuse)
        self.assertFalse(settings.hidden)

    def test_paths_are_paths(self):
        args = parse(ami.UploadAmi, 'a.img', '--work-directory', 'b')
        self.assertEqual(pathlib.Path('a.img'), args.source)
        self.assertEqual(pathlib.Path('b'), args.work_directory)


class TestChosenPart(base.TestCase):
    def chosen(self, *words, noun='kernel', found=None):
        args = parse(ami.UploadAmi, 'root.img', *words)
        return options.chosen_part(args, noun, found)

    def test_one_is_given(self):
        self.assertEqual('vmlinuz', self.chosen('--kernel', 'vmlinuz'))

    def test_none_is_wanted(self):
        self.assertIsNone(self.chosen('--no-kernel'))

    def test_no_kernel_needs_no_ramdisk(self):
        for found in (None, pathlib.Path('initrd')):
            self.assertIsNone(
                self.chosen('--no-kernel', noun='ramdisk', found=found)
            )
        # That is refused when the upload is planned.
        words = ('--no-kernel', '--ramdisk', 'initrd')
        self.assertEqual('initrd', self.chosen(*words, noun='ramdisk'))

    def test_nothing_was_said(self):
        error = self.assertRaises(errors.UsageError, self.chosen)
        self.assertIn('--no-kernel', str(error))


class TestPatience(base.TestCase):
    def patience(self, *words):
        return options.patience(parse(parts.UploadKernel, 'vmlinuz', *words))

    def test_defaults(self):
        self.assertEqual(retry.Patience(), self.patience())

    def test_what_was_said(self):
        found = self.patience('--retries', '0', '--timeout', '2.5')
        self.assertEqual((1, 2.5), (found.attempts, found.stall))

    def test_it_reaches_the_upload(self):
        args = parse(parts.UploadKernel, 'vmlinuz', '--retries', '7')
        self.assertEqual(8, options.settings(args, None).patience.attempts)

    def test_nonsense(self):
        for option, value in (
            ('--retries', '-1'),
            ('--retries', 'many'),
            ('--timeout', '0'),
            ('--timeout', '-1'),
            ('--timeout', 'nan'),
            ('--timeout', 'inf'),
            ('--timeout', 'x'),
        ):
            with contextlib.redirect_stderr(io.StringIO()):
                self.assertRaises(
                    SystemExit, self.patience, f'{option}={value}'
                )


class TestSigner(base.TestCase):
    """The key that images are signed with, and its passphrase."""

    def setUp(self):
        super().setUp()
        self.directory = self.tmp()
        self.key, self.certificate = signing.pair(self.directory)
        self.secret, other = signing.pair(
            self.directory, stem='secret', passphrase=b'pass phrase'
        )
        self.words = '--sign-key-path', self.secret, '--sign-cert-id', other
        self.file = self.directory / 'passphrase'
        self.file.write_text('pass phrase\r\nanother line\n')

    def signer(self, *words):
        words = ('file', *map(str, words))
        return options.signer(parse(parts.UploadKernel, *words))

    def refused(self, *words):
        error = self.assertRaises(errors.UsageError, self.signer, *words)
        return str(error)

    def test_not_all_of_it(self):
        self.assertIsNone(self.signer())
        key = '--sign-key-path', self.key
        certificate = '--sign-cert-id', self.certificate
        secret = '--sign-key-passphrase-file', self.file
        self.assertIsNotNone(self.signer(*key, *certificate))
        for words, text in (
            (key, '--sign-key-path: it needs --sign-cert-id'),
            (certificate, '--sign-cert-id: it needs --sign-key-path'),
            (secret, '--sign-key-passphrase-file: it needs --sign-key-path'),
            ((*key, *certificate, *secret), 'is not encrypted'),
        ):
            self.assertIn(text, self.refused(*words))

    def test_from_a_file(self):
        option = '--sign-key-passphrase-file'
        self.assertIsNotNone(self.signer(*self.words, option, self.file))
        self.file.write_text('\n')
        text = self.refused(*self.words, option, self.file)
        self.assertIn('does not open with this passphrase', text)
        error = self.assertRaises(
            errors.SourceError, self.signer, *self.words, option, 'no/file'
        )
        self.assertIn('no/file cannot be read', str(error))

    def test_asked_for(self):
        asked = []

        def ask(prompt):
            asked.append(prompt)
            return 'pass phrase'

        self.patch(options.getpass, 'getpass', ask)
        self.patch(options.sys, 'stdin', io.StringIO())
        self.assertIn('is encrypted', self.refused(*self.words))
        self.assertEqual([], asked)
        self.patch(options.sys.stdin, 'isatty', lambda: True)
        self.assertIsNotNone(self.signer(*self.words))
        self.assertEqual([f'Passphrase of {self.secret}: '], asked)
