# SPDX-License-Identifier: Apache-2.0

"""Certificates in a key manager, and what becomes of them."""

import base64
import dataclasses
import logging
import re
from typing import Any

import fixtures
import requests
import requests_mock

from amiclient import errors
from amiclient.glance import certificates
from amiclient.glance.change import share
from amiclient.glance import client
from amiclient.glance import signatures
from amiclient.glance import steps
from amiclient.tests.cloud import memory
from amiclient.tests.disks import signing
from amiclient.tests.unit.glance import failing
from amiclient.tests.unit.glance import wire

_URL = f'{wire.CLOUD}/keys'

NOBODY = '99999999-9999-4999-8999-999999999999'


class _Keys:
    """A Barbican in memory."""

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, Any]] = {}
        self.acl: dict[str, Any] = {}
        self.asked: list[str] = []
        #: What happens to the next secret.
        self.status = 201
        self.lost = False

    def reply(self, request: Any, context: Any) -> Any:
        words = request.path.removeprefix('/keys/v1/secrets').strip('/')
        self.asked.append(f'{request.method} {words}')
        id, _, what = words.partition('/')
        if request.method == 'POST':
            return self.store(request.json(), context)
        if not id:
            name = request.qs['name'][0]
            return {
                'secrets': [
                    {'secret_ref': f'{_URL}/v1/secrets/{found}'}
                    for found, secret in self.secrets.items()
                    if secret['name'] == name
                ]
            }
        if id not in self.secrets:
            context.status_code = 404
            return {'title': 'Not Found'}
        if request.method == 'DELETE':
            del self.secrets[id]
            context.status_code = 204
            return None
        if what == 'acl':
            if request.method == 'PUT':
                self.acl = request.json()
                return {'acl_ref': f'{_URL}/v1/secrets/{id}/acl'}
            return self.acl or {'read': {'project-access': True}}
        if what == 'payload':
            return self.secrets[id]['payload']
        return {
            'secret_type': self.secrets[id]['secret_type'],
            'content_types': {'default': 'application/octet-stream'},
        }

    def store(self, secret: dict[str, Any], context: Any) -> Any:
        context.status_code = self.status
        if self.status != 201:
            return {'title': 'Forbidden'}
        id = f'1234567{len(self.secrets)}-1111-4111-8111-111111111111'
        secret['payload'] = base64.b64decode(secret['payload']).decode()
        self.secrets[id] = secret
        if self.lost:
            raise requests.exceptions.ConnectionError
        return {'secret_ref': f'{_URL}/v1/secrets/{id}'}


def _content(keys: _Keys) -> Any:
    def content(request: Any, context: Any) -> bytes:
        found = keys.reply(request, context)
        if isinstance(found, str):
            return found.encode()
        return memory.Answer(body=found).content

    return content


class CertificateCase(failing.GlanceCase):
    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger(level=logging.WARNING))
        self.keys = _Keys()
        self.wire.register_uri(
            requests_mock.ANY,
            re.compile(f'{re.escape(_URL)}/v1/.*'),
            content=_content(self.keys),
        )
        self.url: str | None = f'{_URL}/v1/'
        self.patch(client.Catalog, 'endpoint', lambda *_: self.url)
        directory = self.tmp()
        path, given = signing.pair(directory)
        self.signer = signatures.Signer.load(path, str(given), bytes)
        assert self.signer.certificate is not None
        self.certificate = self.signer.certificate


class TestStored(CertificateCase):
    def stored(self, *, fails: bool = False) -> signatures.Certificate:
        with steps.Changes(self.catalog) as changes:
            found = certificates.stored(
                self.catalog, self.certificate, changes
            )
            if fails:
                raise errors.AmiError('something else')
            changes.commit()
        return found

    def test_once(self) -> None:
        first = self.stored()
        (id,) = self.keys.secrets
        self.assertEqual(id, first.id)
        self.assertEqual(
            f'the certificate was stored: {_URL}/v1/secrets/{id}\n',
            self.log.output,
        )
        secret = self.keys.secrets[id]
        self.assertEqual(self.certificate.pem.decode(), secret['payload'])
        self.assertEqual('certificate', secret['secret_type'])
        self.assertEqual(first, self.stored())
        self.keys.asked.clear()
        self.assertIs(
            first,
            certificates.stored(
                self.catalog, first, steps.Changes(self.catalog)
            ),
        )
        self.assertEqual([], self.keys.asked)
        # Of a certificate that was there, nothing is undone.
        self.assertRaises(errors.AmiError, self.stored, fails=True)
        self.assertIn(id, self.keys.secrets)
        settled = certificates.settle(self.catalog, self.signer)
        self.assertEqual(id, settled.id)

    def test_undone(self) -> None:
        self.assertRaises(errors.AmiError, self.stored, fails=True)
        self.assertEqual({}, self.keys.secrets)
        self.assertEqual('', self.log.output)

    def test_undone_without_an_answer(self) -> None:
        self.keys.lost = True
        self.assertRaises(errors.CloudError, self.stored)
        self.assertEqual({}, self.keys.secrets)

    def test_not_undone_if_it_is_used(self) -> None:
        for hidden in (False, True):
            self.keys.secrets.clear()
            id = '12345670-1111-4111-8111-111111111111'
            self.glance.change(
                memory.AMI,
                os_hidden=hidden,
                **{signatures.CERTIFICATE: id},
            )
            self.assertRaises(errors.AmiError, self.stored, fails=True)
            self.assertEqual([id], [*self.keys.secrets])

    def test_refused(self) -> None:
        self.keys.status = 403
        error = self.assertRaises(errors.CloudError, self.stored)
        self.assertIn('storing the certificate', str(error))
        self.assertNotIn('DELETE', ' '.join(self.keys.asked))

    def test_what_is_to_be_done(self) -> None:
        """Whoever keeps what failed is told how to remove it."""
        changes = steps.Changes(self.catalog)
        certificates.stored(self.catalog, self.certificate, changes)
        (id,) = self.keys.secrets
        self.assertEqual(
            f'openstack secret delete {_URL}/v1/secrets/{id}',
            changes.undoing(),
        )


class TestSettle(CertificateCase):
    def refused(self, signer: signatures.Signer) -> str:
        error = self.assertRaises(
            errors.AmiError, certificates.settle, self.catalog, signer
        )
        return str(error)

    def by_id(self, id: str) -> signatures.Signer:
        return dataclasses.replace(self.signer, given=id, certificate=None)

    def put(self, payload: str, type: str = 'certificate') -> str:
        id = '12345678-1111-4111-8111-111111111111'
        self.keys.secrets[id] = {
            'name': '',
            'payload': payload,
            'secret_type': type,
        }
        return id

    def test_nothing_like_it(self) -> None:
        text = self.refused(self.by_id(NOBODY))
        self.assertIn(f'the key manager has no certificate {NOBODY}', text)
        id = self.put('x', 'passphrase')
        self.assertIn('is not a certificate', self.refused(self.by_id(id)))
        self.put('x')
        self.assertIn('is not in PEM', self.refused(self.by_id(id)))
        other = signing.pem(signing.certificate(signing.ecc_key())).decode()
        self.put(other)
        self.assertIn('is not that of', self.refused(self.by_id(id)))
        self.put(self.certificate.pem.decode())
        settled = certificates.settle(self.catalog, self.by_id(id))
        self.assertEqual(id, settled.id)
        self.url = None
        for signer in (self.signer, self.by_id(id)):
            self.assertIn('has no key manager', self.refused(signer))


class TestAdmit(CertificateCase):
    def test_beside_the_others(self) -> None:
        with steps.Changes(self.catalog) as changes:
            found = certificates.stored(
                self.catalog, self.certificate, changes
            )
            changes.commit()
        keys = certificates.KeyManager.of(self.catalog)
        assert keys is not None
        assert found.id is not None
        keys.admit(found.id, ['a', 'b'])
        read = {'users': ['a', 'b'], 'project-access': True}
        self.assertEqual({'read': read}, self.keys.acl)
        self.keys.acl['read']['project-access'] = False
        keys.admit(found.id, ['b', 'c'])
        read = {'users': ['a', 'b', 'c'], 'project-access': False}
        self.assertEqual({'read': read}, self.keys.acl)
        self.keys.asked.clear()
        keys.admit(found.id, ['c'])
        self.assertEqual([f'GET {found.id}/acl'], self.keys.asked)

    def test_shared_no_longer(self) -> None:
        """The list of the certificate stays: whoever unshares is told."""
        self.glance.members[memory.AMI]['2' * 32] = 'accepted'

        def warned(project: str) -> str:
            planned = share.plan_remove(self.catalog, 'web', [project])
            return ' '.join(planned.warnings)

        told = f'user remove --user USER --operation-type read {_URL}/v1/sec'
        self.assertNotIn(told, warned('2' * 32))
        properties = dict.fromkeys(signatures.PROPERTIES, 'x')
        properties[signatures.CERTIFICATE] = NOBODY
        self.glance.change(memory.AMI, **properties)
        self.assertIn(told, warned('2' * 32))
        self.assertNotIn(told, warned('3' * 32))


class TestChecker(CertificateCase):
    def test_certificates_that_are_not_there(self) -> None:
        checker = certificates.Checker(self.catalog)
        for id, text in (
            (NOBODY, 'is gone'),
            # Somebody else chose it, and it would be a part of a URL.
            ('../orders', 'this is not an id'),
            ('', 'this is not an id'),
        ):
            self.assertIn(text, str(checker.certificate(id)))
        self.assertEqual([f'GET {NOBODY}'], self.keys.asked)
        checker.certificate(NOBODY)
        self.assertEqual(1, len(self.keys.asked))
        self.url = None
        checker = certificates.Checker(self.catalog)
        text = str(checker.certificate(NOBODY))
        self.assertIn('this cloud has no key manager', text)
        self.assertIsNone(checker.find(self.certificate))

    def test_named_parts(self) -> None:
        """What is linked to a signed AMI must be signed."""

        def refused() -> str:
            record = self.catalog.get(memory.KERNEL)
            error = self.assertRaises(
                errors.CloudError,
                certificates.refuse_unsigned,
                self.catalog,
                record,
                'kernel',
            )
            return str(error)

        self.assertIn('it is not signed', refused())
        self.glance.change(memory.KERNEL, img_signature='x')
        text = 'it has no img_signature_hash_method and no img_signature_key'
        self.assertIn(text, refused())
        with steps.Changes(self.catalog) as changes:
            found = certificates.stored(
                self.catalog, self.certificate, changes
            )
            changes.commit()
        signer = dataclasses.replace(self.signer, certificate=found)
        data = memory.hashes(b'kernel')
        self.glance.change(
            memory.KERNEL,
            **data,
            **signer.properties(data['os_hash_value']),
        )
        record = self.catalog.get(memory.KERNEL)
        certificates.refuse_unsigned(self.catalog, record, 'kernel')
        self.glance.change(memory.KERNEL, os_hash_value='0' * 128)
        self.assertIn('is not that of its data', refused())
