# SPDX-License-Identifier: Apache-2.0

"""Signatures of what is downloaded, verified by a real gpgv."""

import base64
import pathlib
from typing import Any

from amiclient import errors
from amiclient import process
from amiclient.tests.unit.web import signed
from amiclient.tests.unit.web import test_fetch


class TestSignatures(test_fetch.WebTest):
    def setUp(self) -> None:
        super().setUp()
        self.data = signed.FILE
        self.site.files = {
            'web': self.data,
            'SUMS': signed.SUMS.encode(),
            'SUMS.gpg': signed.SIGNATURE.encode(),
            'CHECKSUM': signed.CLEARSIGNED.encode(),
            'web.asc': signed.OF_THE_FILE.encode(),
        }

    def keys(self, *texts: str) -> pathlib.Path:
        path = self.tmp() / 'keys.asc'
        path.write_text(''.join(texts))
        return path

    def sums(self, keyring: pathlib.Path) -> dict[str, Any]:
        return {
            'checksum_url': 'SUMS',
            'signature_url': 'SUMS.gpg',
            'keyring': keyring,
        }

    def test_of_the_file_with_the_hashes(self) -> None:
        keyring = self.keys(signed.STRANGER_KEY, 'and\n', signed.KEY)
        self.assertEqual(self.data, self.fetch(**self.sums(keyring)))

    def test_binary(self) -> None:
        block = ''.join(signed.KEY.splitlines()[2:-2])
        keyring = self.tmp() / 'keys.gpg'
        keyring.write_bytes(base64.b64decode(block))
        binary = ''.join(signed.SIGNATURE.splitlines()[2:-2])
        self.site.files['SUMS.gpg'] = base64.b64decode(binary)
        self.assertEqual(self.data, self.fetch(**self.sums(keyring)))

    def test_around_the_hashes(self) -> None:
        given = {'checksum_url': 'CHECKSUM', 'keyring': self.keys(signed.KEY)}
        # What is outside of it was not signed.
        other = b'SHA512 (web) = ' + b'a' * 128 + b'\n'
        self.site.files['CHECKSUM'] = other + self.site.files['CHECKSUM']
        self.assertEqual(self.data, self.fetch(**given))
        self.site.files['CHECKSUM'] = self.site.files['CHECKSUM'].replace(
            b'= a5', b'= a6'
        )
        self.assertIn(
            f'{self.site.url}CHECKSUM: its signature is false',
            self.refuse(errors.SourceError, **given),
        )

    def test_without_keys(self) -> None:
        self.assertEqual(self.data, self.fetch(checksum_url='CHECKSUM'))
        sums = b'\xef\xbb\xbf' + self.site.files['SUMS'].upper()
        self.site.files['SUMS'] = sums.replace(b'WEB\n', b'web\r\n')
        self.assertEqual(self.data, self.fetch(checksum_url='SUMS'))

    def test_of_the_file(self) -> None:
        given = {
            'digest': test_fetch.sha512(self.data),
            'signature_url': 'web.asc',
            'keyring': self.keys(signed.KEY),
        }
        self.assertEqual(self.data, self.fetch(**given))
        self.site.files['web.asc'] = signed.SIGNATURE.encode()
        self.assertIn(
            f'{self.site.url}web: its signature is false',
            self.refuse(errors.SourceError, **given),
        )

    def test_refused(self) -> None:
        keyring = self.keys(signed.KEY, signed.EXPIRED_KEY)
        for text, why in (
            (signed.STRANGER_SIGNATURE, 'it is signed with the key '),
            (signed.EXPIRED_SIGNATURE, 'the key of its signature has expired'),
            (signed.OF_THE_FILE, 'its signature is false'),
            ('nothing', 'its signature cannot be verified'),
        ):
            self.site.files['SUMS.gpg'] = text.encode()
            told = self.refuse(errors.SourceError, **self.sums(keyring))
            self.assertIn(f'{self.site.url}SUMS: {why}', told)
        self.assertEqual([], self.kept())
        self.assertEqual([], self.site.ranges('web'))

    def test_no_keys(self) -> None:
        told = self.refuse(errors.UsageError, **self.sums(self.keys('none')))
        self.assertIn('has no OpenPGP public keys', told)
        missing = self.tmp() / 'missing'
        told = self.refuse(errors.UsageError, **self.sums(missing))
        self.assertIn('missing cannot be read', told)
        for given, why in (
            ({'signature_url': 'x'}, 'give --keyring FILE'),
            ({'keyring': missing}, 'there is no signature to verify'),
        ):
            self.assertIn(why, self.refuse(errors.UsageError, **given))

    def test_no_gpgv(self) -> None:
        self.patch(process, '_SBIN', ())
        self.patch(process.os, 'environ', {**process.os.environ, 'PATH': '/'})
        told = self.refuse(
            errors.ProgramError, **self.sums(self.keys(signed.KEY))
        )
        self.assertIn('gpgv was not found; ', told)
