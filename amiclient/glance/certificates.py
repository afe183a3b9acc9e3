# SPDX-License-Identifier: Apache-2.0

"""Certificates in the key manager, which is Barbican.

Glance and Nova fetch the certificate of a signature by its id, as whoever
uploads or boots the image. They read it as PEM only, though castellan, by
which they do so, speaks of DER. A certificate that is stored has its
fingerprint for a name, so that it is found again, and stored once.

By default, the members of a project can read what the project has stored, and
so can users that its access control list names (``acl``); other projects as
such cannot.
"""

import base64
from collections.abc import Iterable
import dataclasses
import http
import logging
from typing import Any, Self

from amiclient import errors
from amiclient.glance import answers
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import signatures
from amiclient.glance.signatures import Certificate
from amiclient.glance import steps

LOG = logging.getLogger(__name__)

#: Its type in Keystone's catalog.
_SERVICE = 'key-manager'

#: What a name begins with; the fingerprint follows.
_NAME = 'image signature '

_BINARY = 'application/octet-stream'

_SIGN = '--sign-key-path and --sign-cert-id'

_ADMITTING = 'its project has to put you on its access control list'


class KeyManager:
    """The certificates that a user can see.

    :param url: where the service answers.
    """

    def __init__(self, catalog: client.Catalog, url: str) -> None:
        # Older catalogs have the version in it.
        self.url = f'{url.rstrip("/").removesuffix("/v1")}/v1'
        self._asker = catalog.beside(_SERVICE)
        # Without it, nothing comes of what the user wants.
        self._asker.patience = catalog.patience
        self._asker.clock = catalog.clock

    @classmethod
    def of(cls, catalog: client.Catalog) -> Self | None:
        """Find the key manager beside a Glance; None if there is none."""
        url = catalog.endpoint(_SERVICE)
        return cls(catalog, url) if url else None

    def href(self, id: str) -> str:
        """Write a reference to a secret."""
        return f'{self.url}/secrets/{id}'

    def get(self, id: str) -> Certificate:
        """Fetch a certificate.

        :raises NotFoundError: if there is no such secret.
        :raises CloudError: if it is none that Glance can use, or cannot be
            read.
        """
        doing = f'getting the certificate {id}'
        secret = self._asker.ask(self.href(id), 'a secret', doing)
        kinds = secret.within('content_types')
        answer = self._asker.once(
            'GET',
            f'{self.href(id)}/payload',
            doing,
            headers={'Accept': kinds.text('default') or _BINARY},
        )
        kind = secret.text('secret_type')
        try:
            if kind != 'certificate' or b'-----BEGIN' not in answer.content:
                raise ValueError(kind)
            found, *_ = Certificate.parse(answer.content)
        except ValueError as error:
            what = 'not a certificate'
            if kind == 'certificate':
                what = 'not in PEM, as Glance needs it'
            raise errors.CloudError(
                f'the secret {id} of the key manager is {what}',
                hint='give --sign-cert-id the file of the certificate, which '
                'is stored then',
            ) from error
        return dataclasses.replace(found, id=id)

    def find(self, certificate: Certificate) -> str | None:
        """Look for a certificate that was stored before; tell its id."""
        doing = 'listing the certificates of the key manager'
        # Barbican pages, but nobody has many of one name.
        secrets = self._asker.ask(
            f'{self.url}/secrets',
            'a list of secrets',
            doing,
            params={'name': f'{_NAME}{certificate.fingerprint}'},
        ).objects('secrets', 'a secret')
        for secret in secrets:
            id = _id(secret.word('secret_ref'))
            try:
                if self.get(id).x509 == certificate.x509:
                    return id
            except errors.CloudError as error:
                LOG.debug('%s', error)
        return None

    def store(self, certificate: Certificate) -> str:
        """Store a certificate; tell its id."""
        doing = 'storing the certificate in the key manager'
        body = {
            'name': f'{_NAME}{certificate.fingerprint}',
            'secret_type': 'certificate',
            'payload': base64.b64encode(certificate.pem).decode(),
            'payload_content_type': _BINARY,
            'payload_content_encoding': 'base64',
        }
        # Sent twice, it would be stored twice.
        answer = self._asker.once(
            'POST', f'{self.url}/secrets', doing, json=body
        )
        stored = answers.read(answer, 'a secret', doing)
        return _id(stored.word('secret_ref'))

    def delete(self, id: str) -> None:
        """Delete a certificate."""
        doing = f'deleting the certificate {id}'
        self._asker.once('DELETE', self.href(id), doing)

    def admit(self, id: str, users: Iterable[str]) -> None:
        """Let users of other projects read a certificate, beside the others.

        :param users: their ids.
        """
        doing = f'letting others read the certificate {id}'
        url = f'{self.href(id)}/acl'
        read = self._asker.ask(url, 'a list of users', doing).within('read')
        before = read.texts('users')
        after = [*dict.fromkeys((*before, *users))]
        if len(after) == len(before):
            return
        # The rest of it is what it was; where there was nothing, members of
        # the project can read it.
        private = read.members.get('project-access') is False
        body = {'read': {'users': after, 'project-access': not private}}
        self._asker.ask(url, 'a list of users', doing, 'PUT', json=body)


def _id(reference: str) -> str:
    """Take the id out of a reference to a secret."""
    id = reference.rpartition('/')[2]
    if not model.UUID.fullmatch(id):
        raise errors.CloudError(
            f'the key manager answered with {reference!r}, which is no '
            'reference to a secret',
            hint='check that the endpoint is that of Barbican',
        )
    return id


def settle(
    catalog: client.Catalog, signer: signatures.Signer
) -> signatures.Signer:
    """Make sure that images can be signed as the user wants.

    :returns: a signer with its certificate, which has an id if the key
        manager has it.
    :raises CloudError: if there is no key manager, or it has no such
        certificate.
    :raises SourceError: if the key is not that of the certificate.
    """
    keys = KeyManager.of(catalog)
    if keys is None:
        raise errors.CloudError(
            'this cloud has no key manager (Barbican), from which Glance '
            'would get the certificate of the signature',
            hint=f'leave out {_SIGN}: then the images are not signed',
        )
    certificate = signer.certificate
    if certificate is not None:
        found = dataclasses.replace(certificate, id=keys.find(certificate))
        return dataclasses.replace(signer, certificate=found)
    try:
        return signer.proven(keys.get(signer.id))
    except errors.NotFoundError as error:
        raise errors.NotFoundError(
            f'the key manager has no certificate {signer.id}',
            hint='see `openstack secret list`; or give --sign-cert-id the '
            'file of the certificate, which is stored then',
        ) from error
    except errors.CloudError as error:
        if error.status == http.HTTPStatus.FORBIDDEN:
            error.hint = _ADMITTING
        raise


@dataclasses.dataclass(eq=False)
class _Stored(steps.Undoable):
    """A certificate that goes again if what it was stored for fails."""

    undone = 'nothing was left behind'

    certificate: Certificate
    href: str = ''

    @property
    def title(self) -> str:
        return f'certificate {self.href}'

    def undo(self, catalog: client.Catalog) -> None:
        keys = KeyManager.of(catalog)
        # There is no telling the id if the answer was lost.
        id = None if keys is None else keys.find(self.certificate)
        if keys is None or id is None:
            return
        for hidden in (False, True):
            query: dict[str, Any] = {signatures.CERTIFICATE: id, **client.ALL}
            if any(catalog.images(limit=1, os_hidden=hidden, **query)):
                # Another run has found it meanwhile, and signs with it.
                return
        keys.delete(id)

    def undoing(self) -> list[tuple[str, ...]]:
        return [('openstack', 'secret', 'delete', self.href)]


def stored(
    catalog: client.Catalog, certificate: Certificate, changes: steps.Changes
) -> Certificate:
    """Have a certificate in the key manager.

    :param changes: removes it again if they fail.
    :returns: it, with its id.
    """
    if certificate.id is not None:
        return certificate
    keys = KeyManager.of(catalog)
    if keys is None:
        raise errors.CloudError('this cloud has no key manager (Barbican)')
    id = keys.find(certificate)
    if id is None:
        made = _Stored(certificate)
        id = changes.attempt(made, lambda: keys.store(certificate))
        made.href = keys.href(id)
        made.lasting = f'the certificate was stored: {made.href}'
    return dataclasses.replace(certificate, id=id)


def carried(
    record: model.ImageRecord, certificate: Certificate | None
) -> dict[str, str]:
    """Tell the properties of the signature of an image's copy.

    :param certificate: as the cloud of the copy has it; if it is not there
        yet, the id is still that of the other one.
    """
    if certificate is None:
        return {}
    found = {name: record.properties[name] for name in signatures.PROPERTIES}
    id = certificate.id or found[signatures.CERTIFICATE]
    texts = {name: text or '' for name, text in found.items()}
    return {**texts, signatures.CERTIFICATE: id or ''}


class Checker:
    """Looks at signatures, and fetches each certificate once.

    :param catalog: of the cloud that the images are in.
    """

    def __init__(self, catalog: client.Catalog) -> None:
        self._catalog = catalog
        self._known: dict[str, Certificate | str] = {}

    def certificate(self, id: str) -> Certificate | str:
        """Get a certificate.

        :returns: it; or why it cannot be had, as a clause about it.
        """
        if id not in self._known:
            self._known[id] = self._get(id)
        return self._known[id]

    def _get(self, id: str) -> Certificate | str:
        # Whoever may change an image chooses it.
        if not model.UUID.fullmatch(id):
            return 'cannot be had: this is not an id'
        keys = KeyManager.of(self._catalog)
        if keys is None:
            return 'cannot be had: this cloud has no key manager (Barbican)'
        try:
            return keys.get(id)
        except errors.NotFoundError:
            return 'is gone: the key manager does not have it'
        except errors.CloudError as error:
            if error.status == http.HTTPStatus.FORBIDDEN:
                return f'cannot be read with your role: {_ADMITTING}'
            return f'cannot be had: {error.message}'

    def all(
        self, images: Iterable[model.ImageRecord]
    ) -> dict[str, Certificate | str]:
        """Get the certificates of some images, by their ids."""
        found = filter(None, map(signatures.Signature.of, images))
        ids = dict.fromkeys(signature.certificate for signature in found)
        return {id: self.certificate(id) for id in ids}

    def find(self, certificate: Certificate) -> Certificate | None:
        """Look for a certificate of another cloud in this one.

        :returns: it, with its id if it is here; None without a key manager.
        """
        keys = KeyManager.of(self._catalog)
        if keys is None:
            return None
        # Several regions may share one.
        same = self.certificate(certificate.id or '')
        if isinstance(same, Certificate) and same.x509 == certificate.x509:
            return same
        return dataclasses.replace(certificate, id=keys.find(certificate))

    def problem(
        self, record: model.ImageRecord, digest: str | None = None
    ) -> str | None:
        """Tell what is wrong with the signature of an image.

        :param digest: the hash of its data that was signed, in hex; None for
            what Glance says of it.
        :returns: a clause about the image; None if it has no signature, or
            nothing is wrong as far as that can be known.
        """
        lacking = signatures.missing(record)
        if lacking:
            return (
                f'its signature is not complete: it has no '
                f'{" and no ".join(lacking)}'
            )
        signature = signatures.Signature.of(record)
        if signature is None:
            return None
        return signatures.judge(
            signature,
            self.certificate(signature.certificate),
            digest or signature.known(record),
        )


def refuse_unsigned(
    catalog: client.Catalog, record: model.ImageRecord, noun: str
) -> None:
    """Refuse a kernel or ramdisk that is to be linked, but is not signed.

    :raises CloudError: if it is not, or if its signature is not valid.
    """
    why = Checker(catalog).problem(record)
    if not signatures.is_signed(record):
        why = 'it is not signed'
    if why is not None:
        raise errors.CloudError(
            f'the {noun} {record.title} does not do for an image that is '
            f'signed: {why}',
            hint=f'where Nova checks signatures, no server would boot; give '
            f'--{noun} a file, which is signed, too',
        )
