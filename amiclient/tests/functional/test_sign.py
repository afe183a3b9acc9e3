# SPDX-License-Identifier: Apache-2.0

"""Signed images, which a real Glance checks with a real Barbican."""

import base64
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives import hashes

from amiclient.glance import signatures
from amiclient.tests.disks import signing
from amiclient.tests.faults import actions as acts
from amiclient.tests.functional import base
from amiclient.tests.functional import faulty
from amiclient.tests.functional import test_runbooks
from amiclient.tests.functional import upload


class SignCase(upload.UploadCase):
    """A member of a project has a key and a certificate."""

    options = base.WITH_ALL
    size, data = 2**20, 2**16

    def setUp(self) -> None:
        super().setUp()
        self.set_headroom('0')
        self.key = signing.ecc_key()
        self.signed = self.pair('sign', self.key)
        self.addCleanup(self.remove_secrets)

    def pair(self, stem: str, key: Any = None, **more: Any) -> tuple[Any, ...]:
        """Make a key and a certificate; tell the options with them."""
        key_path, path = signing.pair(self.directory, key, stem=stem, **more)
        return '--sign-key-path', key_path, '--sign-cert-id', path

    def remove_secrets(self) -> None:
        for user in ('demo', 'other'):
            for id in self.secrets(user):
                keys = self.embedded.connection(user).key_manager
                keys.delete(f'/secrets/{id}')

    def secrets(self, user: str = 'demo') -> list[str]:
        """List the certificates of a project, by their ids."""
        keys = self.embedded.connection(user).key_manager
        found = keys.get('/secrets').json()['secrets']
        return [each['secret_ref'].rpartition('/')[2] for each in found]

    def rules(self, ami: str, *words: object, **more: Any) -> dict[str, str]:
        """Verify an AMI; tell what is said of signatures."""
        finished = self.run_openstack(
            *('ami', 'verify', ami, *words, '-f', 'value'),
            *('-c', 'severity', '-c', 'rule', '-c', 'message'),
            **more,
        )
        rows = [line.split(' ', 2) for line in finished.stdout.splitlines()]
        found = [row for row in rows if row[1].startswith('signature-')]
        self.assertEqual('', finished.stderr)
        return {rule: f'{bad}: {text}' for bad, rule, text in found}

    def check(self, image_id: str, key: Any = None) -> dict[str, Any]:
        """Check the signature of an image, by the bytes that Glance has."""
        image = self.get(image_id)
        self.assertEqual('active', image['status'])
        data = self.download(image_id).read_bytes()
        signature = base64.b64decode(image['img_signature'])
        (key or self.key).public_key().verify(
            signature, data, ec.ECDSA(hashes.SHA512())
        )
        self.assertEqual('SHA-512', image['img_signature_hash_method'])
        self.assertEqual('ECC_SECP384R1', image['img_signature_key_type'])
        return image


class TestSign(SignCase):
    def test_the_whole_life(self) -> None:
        told = self.upload(*self.signed, stderr=None)
        root = self.check(told['id'])
        (id,) = self.secrets()
        for image_id in (root['kernel_id'], root['ramdisk_id']):
            image = self.check(image_id)
            self.assertEqual(id, image['img_signature_certificate_uuid'])
        self.assertEqual({}, self.rules(told['id']))
        # Once more, by the id of the certificate: all is there.
        again = self.upload(*self.signed[:3], id)
        self.assertEqual(0, again['uploaded'])
        self.assertEqual(told['id'], again['id'])
        # Another project has it, and a certificate of its own.
        self.openstack(
            'ami', 'copy', told['id'], '--to-cloud', 'other', stderr=None
        )
        (theirs,) = self.secrets('other')
        glance = self.embedded.connection('other').image
        copies = glance.get(
            f'/images?img_signature_certificate_uuid={theirs}'
        ).json()['images']
        self.assertEqual(['active'] * 3, [each['status'] for each in copies])
        (ami,) = (each for each in copies if each['disk_format'] == 'ami')
        self.assertEqual(root['img_signature'], ami['img_signature'])
        self.assertEqual({}, self.rules(ami['id'], user='other'))
        found = self.openstack_json(
            'ami', 'copy', told['id'], '--to-cloud', 'other', stderr=None
        )
        self.assertEqual('present', found[0]['status'])
        self.assertEqual([theirs], self.secrets('other'))
        # What is shared is of no use before its certificate is.
        project = self.embedded.connection('other').current_project_id
        user = self.embedded.connection('other').current_user_id
        words = ('ami', 'add', 'project', told['id'], project)
        self.openstack(*words, stderr=None)
        text = self.rules(told['id'], user='other')['signature-certificate']
        self.assertIn('cannot be read', text)
        finished = self.run_openstack(*words)
        self.assertIn('openstack acl user add --user USER', finished.stderr)
        finished = self.run_openstack(*words, '--user', user)
        self.assertNotIn('acl', finished.stderr)
        self.assertEqual({}, self.rules(told['id'], user='other'))

    def test_declared(self) -> None:
        project = self.embedded.connection('other').current_project_id
        lines = [
            'amis:',
            '- name: declared',
            f'  source: {self.root.name}',
            f'  kernel: {self.kernel.name}',
            f'  ramdisk: {self.ramdisk.name}',
        ]
        apply = 'ami', 'apply', self.directory / 'images.yaml'
        signed = [
            '  sign_key_path: sign.key',
            '  sign_cert_id: sign.crt',
            f'  projects: [{project}]',
        ]
        for text in ([], signed):
            apply[2].write_text('\n'.join([*lines, *text]))
            finished = self.run_openstack(*apply, '-f', 'json')
            self.assertEqual(0, finished.status, finished)
        self.assertIn('openstack acl user add --user USER', finished.stderr)
        found = self.image.get('/images?name=declared').json()['images']
        self.assertEqual(2, len(found))
        (image,) = (i['id'] for i in found if 'img_signature' in i)
        root = self.check(image)
        self.check(root['kernel_id'])
        self.check(root['ramdisk_id'])
        told = 'nothing to change: all AMIs are as declared\n'
        self.assertEqual([], self.openstack_json(*apply, stderr=told))

    def test_what_is_not_as_it_was_signed(self) -> None:
        told = self.upload(*self.signed, stderr=None)
        kernel = self.get(told['id'])['kernel_id']
        value = self.get(kernel)['img_signature']
        save = ('ami', 'save', told['id'], '--directory')

        def change(name: str, text: str | None) -> None:
            op = 'remove' if text is None else 'replace'
            path = {'op': op, 'path': f'/{name}'}
            body = [path if text is None else {**path, 'value': text}]
            kind = 'application/openstack-images-v2.1-json-patch'
            answer = self.image.patch(
                f'/images/{kernel}', json=body, headers={'Content-Type': kind}
            )
            self.assertEqual(200, answer.status_code, answer.text)

        late = self.pair('late', self.key, days=(-9, -1))
        id = self.get(kernel)['img_signature_certificate_uuid']
        for other, rules in (
            (self.store(late[3].read_bytes()), ['signature-expired']),
            (id, []),
        ):
            change('img_signature_certificate_uuid', other)
            self.assertEqual(rules, [*self.rules(told['id'])])
        # One bit is another. Glance looks at it no more.
        raw = bytearray(base64.b64decode(value))
        raw[-1] ^= 1
        change('img_signature', base64.b64encode(raw).decode())
        found = self.rules(told['id'])
        self.assertEqual(['signature-false'], [*found])
        self.assertIn('error: The kernel', found['signature-false'])
        text = self.refused(*save, self.directory / 'bad')
        self.assertIn('is not that of its data', text)
        self.assertFalse((self.directory / 'bad').exists())
        self.openstack_json(
            *save, self.directory / 'bad', '--no-verify-signature'
        )
        # As many sign who follow the documentation of Glance: then Glance has
        # another hash, and the data has to be read.
        data = self.kernel.read_bytes()
        right = self.key.sign(data, ec.ECDSA(hashes.SHA256()))
        wrong = self.key.sign(data + b'x', ec.ECDSA(hashes.SHA256()))
        change('img_signature_hash_method', 'SHA-256')
        for signature, rules, status in (
            (wrong, ['signature-false'], 1),
            (right, [], 0),
        ):
            text = base64.b64encode(signature).decode()
            change('img_signature', text)
            self.assertEqual(rules, [*self.rules(told['id'], '--deep')])
            place = self.directory / f'saved-{status}'
            finished = self.run_openstack(*save, place)
            self.assertEqual(status, finished.status, finished)
            there = list(place.glob('*-vmlinuz'))
            self.assertEqual(1 - status, len(there))
        change('img_signature_key_type', None)
        found = self.rules(told['id'])
        self.assertEqual(['signature-incomplete'], [*found])
        self.refused(*save, self.directory / 'part')
        for name in signatures.PROPERTIES:
            if name in self.get(kernel):
                change(name, None)
        self.assertEqual(['signature-missing'], [*self.rules(told['id'])])
        self.remove_secrets()
        text = self.rules(told['id'])['signature-certificate']
        self.assertIn('is gone', text)
        self.assertIn('is gone', self.refused(*save, self.directory / 'gone'))

    def test_relinked(self) -> None:
        told = self.upload(stderr=None)
        other = self.directory / 'other-kernel'
        other.write_bytes(self.kernel.read_bytes() + b'\0')
        finished = self.run_openstack(
            *('ami', 'set', told['id'], '--kernel', other, *self.signed),
        )
        self.assertEqual(0, finished.status, finished)
        self.assertIn('and the AMI is not', finished.stderr)
        kernel = self.check(self.get(told['id'])['kernel_id'])
        before = self.get(told['id'])
        text = self.refused(
            *('ami', 'upload', self.root, '--kernel', kernel['id']),
            *('--ramdisk', before['ramdisk_id'], *self.signed),
        )
        self.assertIn('it is not signed', text)

    def test_imported(self) -> None:
        """Glance checks it, too, if it takes the data from a stage."""
        words = ('ami', 'kernel', 'upload', self.kernel, *self.signed)
        finished = self.run_openstack(*words, '--dry-run')
        self.assertIn('certificate would be stored', finished.stderr)
        self.assertEqual([], self.secrets())
        told = self.openstack_json(*words, '--import', 'always', stderr=None)
        self.check(told['id'])

    def test_rsa(self) -> None:
        key, path = signing.pair(
            self.directory, signing.rsa_key(), passphrase=b'secret'
        )
        phrase = self.directory / 'passphrase'
        phrase.write_text('secret\n')
        told = self.openstack_json(
            *('ami', 'ramdisk', 'upload', self.ramdisk),
            *('--sign-key-path', key, '--sign-cert-id', path),
            *('--sign-key-passphrase-file', phrase),
            stderr=None,
        )
        image = self.get(told['id'])
        self.assertEqual('RSA-PSS', image['img_signature_key_type'])
        self.assertEqual('active', image['status'])

    def test_refused(self) -> None:
        other = self.pair('other')
        late = self.pair('late', days=(-9, -1))
        words = ('ami', 'upload', self.root, *self.parts)
        nothing = '11111111-1111-4111-8111-111111111111'
        text = self.directory / 'text'
        text.write_text('BEGIN')
        unfit = self.store(b'secret')
        for given, expected in (
            ((*self.signed[:3], other[3]), 'is not that of the certificate'),
            (late, 'expired on'),
            ((*self.signed[:3], nothing), 'has no certificate'),
            ((*self.signed[:3], text), 'holds no certificate'),
            (('--sign-key-path', text, *self.signed[2:]), 'no private key'),
            ((*self.signed[:3], unfit), 'is not in PEM'),
            (self.signed[2:], 'it needs --sign-key-path'),
            ((*self.signed, '--allow-conversion'), 'contradict each other'),
            (
                (*self.signed, '--property', 'img_signature=x'),
                'contradict each other',
            ),
        ):
            self.assertIn(expected, self.refused(*words, *given))
        self.assertEqual([unfit], self.secrets())

    def store(self, data: bytes) -> str:
        """Store something as a certificate that is none."""
        keys = self.embedded.connection().key_manager
        made = keys.create_secret(
            name='none',
            secret_type='certificate',
            payload=base64.b64encode(data).decode(),
            payload_content_type='application/octet-stream',
            payload_content_encoding='base64',
        )
        return made.secret_ref.rpartition('/')[2]


class TestAltered(faulty.FaultCase):
    """One bit is another when it comes to Glance."""

    options = base.WITH_ALL

    def test_altered(self) -> None:
        words = signing.pair(self.directory)
        self.disturb('kernel', acts.alter, times=None)
        line = self.refuse(
            'kernel', '--sign-key-path', words[0], '--sign-cert-id', words[1]
        )
        self.assertIn('Signature verification failed', line)
        keys = self.embedded.connection().key_manager
        self.assertEqual([], keys.get('/secrets').json()['secrets'])


class TestRunbook(test_runbooks.RunbookCase):
    options = base.WITH_ALL

    def test_signed(self) -> None:
        self.run_page('howto/signed')
