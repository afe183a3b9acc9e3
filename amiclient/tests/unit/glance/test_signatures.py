# SPDX-License-Identifier: Apache-2.0

"""Keys and certificates as users have them, and what signatures prove."""

import base64
import dataclasses
import hashlib
import subprocess
from typing import Any

from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization

from amiclient import errors
from amiclient.glance import model
from amiclient.glance import signatures
from amiclient.tests import base
from amiclient.tests.disks import signing
from amiclient.tests.unit.glance import records

ID = '11111111-1111-4111-8111-111111111111'
DATA = b'data'
SHA512 = hashlib.sha512(DATA).hexdigest()


def nothing() -> bytes:
    raise AssertionError('asked for a passphrase')


class SignatureCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()

    def load(self, key: Any, **more: Any) -> signatures.Signer:
        path, given = signing.pair(self.directory, key, **more)
        return signatures.Signer.load(path, str(given), nothing)

    def record(
        self, signer: signatures.Signer, sha512: str = SHA512, **more: Any
    ) -> model.ImageRecord:
        """Make an image that is signed."""
        return dataclasses.replace(
            records.record(),
            hash_algo='sha512',
            hash_value=sha512,
            properties={**signer.properties(sha512), **more},
        )


class TestSigner(SignatureCase):
    def test_what_glance_takes(self) -> None:
        """openssl, which is not ours, finds the signatures to be right."""
        (self.directory / 'data').write_bytes(DATA)
        for key, kind, more in (
            (
                signing.rsa_key(),
                'RSA-PSS',
                ('rsa_padding_mode:pss', 'rsa_pss_saltlen:-2'),
            ),
            (signing.ecc_key(), 'ECC_SECP384R1', ()),
            (signing.ecc_key(ec.SECP521R1()), 'ECC_SECP521R1', ()),
        ):
            signer = self.load(key)
            assert signer.certificate is not None
            found = signer.properties(SHA512)
            value, method, told, _ = found.values()
            self.assertEqual(('SHA-512', kind), (method, told))
            (self.directory / 'signature').write_bytes(base64.b64decode(value))
            public = key.public_key().public_bytes(
                serialization.Encoding.PEM,
                serialization.PublicFormat.SubjectPublicKeyInfo,
            )
            (self.directory / 'public').write_bytes(public)
            subprocess.run(
                [
                    *('openssl', 'dgst', '-sha512', '-verify', 'public'),
                    *(word for each in more for word in ('-sigopt', each)),
                    *('-signature', 'signature', 'data'),
                ],
                cwd=self.directory,
                check=True,
                capture_output=True,
            )
            image = self.record(signer)
            signature = signatures.Signature.of(image)
            assert signature is not None
            judge = signatures.judge
            certificate = signer.certificate
            self.assertIsNone(judge(signature, certificate, SHA512))
            other = hashlib.sha512(b'date').hexdigest()
            why = judge(signature, certificate, other) or ''
            self.assertIn('is not that of its data', why)

    def test_keys_that_are_not_taken(self) -> None:
        given = str(signing.pair(self.directory, stem='fine')[1])
        path = self.directory / 'key'
        for key, text in (
            (ec.generate_private_key(ec.SECP256R1()), 'secp256r1'),
            (ed25519.Ed25519PrivateKey.generate(), 'Ed25519'),
        ):
            signing.write_key(path, key)
            text = f'{path} is a key of the type {text}, whose signatures'
            self.refused(text, path, given)
        good = (self.directory / 'fine.key').read_bytes()
        for data in (b'', b'\xff' * 99, (self.directory / given).read_bytes()):
            path.write_bytes(data)
            self.refused('holds no private key;', path, given)
        path.write_bytes(good[:-40])
        self.refused('holds no private key', path, given)
        path.write_bytes(good.replace(b'M', b'A', 2))
        self.refused('holds no private key that can be read', path, given)
        path.write_bytes(bytes(2**20 + 1))
        self.refused('is too large', path, given)
        self.refused('Is a directory', self.directory, given)
        self.refused('No such file', self.directory / 'no', given)

    def refused(
        self,
        text: str,
        path: Any,
        given: str,
        passphrase: signatures.Passphrase = nothing,
    ) -> None:
        error = self.assertRaises(
            errors.AmiError, signatures.Signer.load, path, given, passphrase
        )
        self.assertIn(text, str(error))

    def test_certificates_that_do_not_fit(self) -> None:
        path, _ = signing.pair(self.directory)
        _, other = signing.pair(self.directory, stem='other')
        self.refused('is not that of the certificate', path, str(other))
        for days, text in (((-9, -1), 'expired on 20'), ((1, 9), 'before 20')):
            late, lapsed = signing.pair(self.directory, stem='l', days=days)
            self.refused(text, late, str(lapsed))
        other.write_bytes(path.read_bytes())
        self.refused('holds no certificate', path, str(other))
        other.write_bytes(b'x')
        self.refused('holds no certificate', path, str(other))
        self.refused('is neither a file nor the id', path, 'no.crt')

    def test_one_of_several(self) -> None:
        key = signing.ecc_key()
        path, given = signing.pair(self.directory, key)
        mine = given.read_bytes()
        issuer = signing.pem(signing.certificate(signing.ecc_key()))
        for data in (issuer + mine, b'text\n' + mine + issuer):
            given.write_bytes(data)
            signer = signatures.Signer.load(path, str(given), nothing)
            assert signer.certificate is not None
            self.assertEqual(mine, signer.certificate.pem)
        der = signer.certificate.x509.public_bytes(serialization.Encoding.DER)
        given.write_bytes(der)
        signer = signatures.Signer.load(path, str(given), nothing)
        assert signer.certificate is not None
        self.assertEqual(mine, signer.certificate.pem)

    def test_ids(self) -> None:
        path, _ = signing.pair(self.directory)
        for given in (ID, f'https://keys.example/v1/secrets/{ID.upper()}'):
            signer = signatures.Signer.load(path, given, nothing)
            self.assertIsNone(signer.certificate)
            self.assertEqual(ID, signer.id)
        # What is printed of it has no key.
        self.assertNotIn('key=', repr(signer))

    def test_passphrases(self) -> None:
        path, given = signing.pair(self.directory, passphrase=b'secret')
        load = signatures.Signer.load
        signer = load(path, str(given), lambda: b'secret')
        self.assertIsNotNone(signer.certificate)
        for wrong in (b'Secret', b''):
            self.refused(
                'does not open with this passphrase',
                path,
                str(given),
                lambda wrong=wrong: wrong,  # type: ignore[misc]
            )


class TestJudge(SignatureCase):
    def setUp(self) -> None:
        super().setUp()
        self.signer = self.load(signing.ecc_key())
        assert self.signer.certificate is not None
        self.certificate = dataclasses.replace(self.signer.certificate, id=ID)
        self.signer = dataclasses.replace(
            self.signer, certificate=self.certificate
        )

    def judged(self, **changes: str) -> str:
        signature = signatures.Signature.of(
            self.record(self.signer, **changes)
        )
        assert signature is not None
        why = signatures.judge(signature, self.certificate, SHA512)
        return why or ''

    def test_what_strangers_write(self) -> None:
        self.assertEqual('', self.judged())
        for changes, text in (
            ({'img_signature': 'A'}, 'is not base64'),
            ({'img_signature': 'AAAA'}, 'is not that of its data'),
            ({'img_signature': 'ä'}, 'is not base64'),
            ({'img_signature_hash_method': 'MD5'}, 'MD5 is unknown'),
            ({'img_signature_hash_method': 'SHA-256'}, 'not that of its data'),
            ({'img_signature_key_type': 'RSA-PSS'}, 'not that of the key'),
            ({'img_signature_key_type': 'x'}, 'which is not that'),
        ):
            self.assertIn(text, self.judged(**changes))

    def test_dsa(self) -> None:
        """Glance takes it, though nobody should use it any more."""
        key = dsa.generate_private_key(1024)
        certificate = signatures.Certificate(signing.certificate(key))
        value = base64.b64encode(key.sign(DATA, hashes.SHA512())).decode()
        judge = signatures.judge
        signature = signatures.Signature(value, 'SHA-512', 'DSA', ID)
        self.assertIsNone(judge(signature, certificate, SHA512))
        self.assertIsNotNone(judge(signature, certificate, '00' * 64))

    def test_missing(self) -> None:
        image = self.record(self.signer)
        self.assertEqual((), signatures.missing(image))
        for name in signatures.PROPERTIES:
            less = dataclasses.replace(
                image, properties={**image.properties, name: None}
            )
            self.assertEqual((name,), signatures.missing(less))
            self.assertIsNone(signatures.Signature.of(less))
            self.assertTrue(signatures.is_signed(less))
        none = dataclasses.replace(image, properties={})
        self.assertEqual((), signatures.missing(none))
        self.assertFalse(signatures.is_signed(none))

    def test_unlike(self) -> None:
        def why(image: model.ImageRecord) -> str | None:
            return signatures.unlike(image, self.certificate)

        image = self.record(self.signer)
        self.assertIsNone(why(image))
        none = dataclasses.replace(image, properties={})
        self.assertEqual('is not signed', why(none))
        other = self.record(
            self.signer, img_signature_certificate_uuid='another'
        )
        self.assertEqual('is signed with the certificate another', why(other))
        md5 = dataclasses.replace(image, hash_algo='md5')
        self.assertEqual('its signature is of its SHA-512', why(md5))
        false = dataclasses.replace(image, hash_value='0' * 128)
        self.assertIn('is not that of its data', why(false) or '')
