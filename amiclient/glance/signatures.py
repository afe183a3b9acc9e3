# SPDX-License-Identifier: Apache-2.0

"""Signatures of images: how they are made, and what they prove.

A signature is four properties of an image. Glance checks it against the data
that is sent, if all four are there by then, and Nova against the data that a
host fetches, kernel and ramdisk included, where the operator wants that
(``verify_glance_signatures``). Both leave that to cursive, whose
signature_utils.py is where the names here come from. The public key is in a
certificate, which the key manager has: see
:mod:`amiclient.glance.certificates`.

What is signed is the hash of the data (``Prehashed``), so that a hash that is
known is enough.
"""

import base64
from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import datetime
import pathlib
import re
from typing import Any, Self, TYPE_CHECKING

from amiclient import errors
from amiclient.glance import model

if TYPE_CHECKING:
    # It takes long to import, and few commands need it.
    from cryptography import x509

#: The four properties; the last one is the id of a certificate.
PROPERTIES = (
    'img_signature',
    'img_signature_hash_method',
    'img_signature_key_type',
    'img_signature_certificate_uuid',
)
CERTIFICATE = PROPERTIES[-1]

#: Glance's names of hashes, and those of hashlib.
METHODS = {
    'SHA-224': 'sha224',
    'SHA-256': 'sha256',
    'SHA-384': 'sha384',
    'SHA-512': 'sha512',
}

#: The hash that is computed anyway.
_METHOD = 'SHA-512'

_RSA = 'RSA-PSS'

#: Curves whose signatures Glance takes.
_CURVES = (
    'secp384r1',
    'secp521r1',
    'sect409k1',
    'sect409r1',
    'sect571k1',
    'sect571r1',
)

#: Bytes of a file with a key, a certificate or a passphrase. None is larger.
_LARGEST = 1 << 20

#: One of several certificates in a file (RFC 7468).
_PEM = re.compile(
    rb'-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----', re.DOTALL
)

#: Tells the passphrase of a key, if it needs one.
Passphrase = Callable[[], bytes]


@dataclasses.dataclass(frozen=True)
class Signature:
    """The four properties of an image."""

    value: str
    method: str
    key_type: str
    certificate: str

    @classmethod
    def of(cls, record: model.ImageRecord) -> Self | None:
        """Take it from an image; None if it has none, or not all of it."""
        found = [record.properties.get(name) for name in PROPERTIES]
        texts = [text for text in found if text]
        return cls(*texts) if len(texts) == len(PROPERTIES) else None

    @property
    def algorithm(self) -> str | None:
        """The hash that was signed, by hashlib's name; None if unknown."""
        return METHODS.get(self.method)

    def known(self, record: model.ImageRecord) -> str | None:
        """Take the hash that was signed from what Glance says of the data.

        :returns: None if that is another hash, or none.
        """
        if record.hash_algo != self.algorithm or not record.hash_value:
            return None
        return record.hash_value.lower()


def missing(record: model.ImageRecord) -> tuple[str, ...]:
    """Name the properties that an image lacks for its signature.

    :returns: none if it has all of them, or none at all.
    """
    lacking = tuple(n for n in PROPERTIES if not record.properties.get(n))
    return lacking if len(lacking) < len(PROPERTIES) else ()


def is_signed(record: model.ImageRecord) -> bool:
    """Tell whether an image has a signature, or some of one."""
    return any(record.properties.get(name) for name in PROPERTIES)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A certificate (RFC 5280).

    :param id: by which the key manager knows it; None if it is not there.
    """

    x509: 'x509.Certificate'
    id: str | None = None

    @classmethod
    def parse(cls, data: bytes) -> tuple[Self, ...]:
        """Read certificates: PEM, of which there may be several, or DER.

        :raises ValueError: if there are none.
        """
        from cryptography import x509

        if b'-----BEGIN' not in data:
            return (cls(x509.load_der_x509_certificate(data)),)
        texts = _PEM.findall(data)
        if not texts:
            raise ValueError('something else in PEM')
        return tuple(cls(x509.load_pem_x509_certificate(t)) for t in texts)

    @property
    def pem(self) -> bytes:
        """It as a text."""
        from cryptography.hazmat.primitives import serialization

        return self.x509.public_bytes(serialization.Encoding.PEM)

    @property
    def fingerprint(self) -> str:
        """Its SHA-256, in hex, as ``openssl x509 -fingerprint`` has it."""
        from cryptography.hazmat.primitives import hashes

        return self.x509.fingerprint(hashes.SHA256()).hex()

    @property
    def lapse(self) -> str | None:
        """Why it is not valid today, as a clause; None if it is."""
        now = datetime.datetime.now(datetime.UTC)
        begin, end = _utc(self.x509, 'before'), _utc(self.x509, 'after')
        if now > end:
            return f'expired on {end:%F}'
        return f'is not valid before {begin:%F}' if now < begin else None

    def objection(self, signature: Signature, digest: str) -> str | None:
        """Compare a signature with the hash of the data.

        :param digest: in hex, by the signature's algorithm.
        :returns: what is wrong, as a clause; None if it matches.
        """
        key = self.x509.public_key()
        if not _is_of(key, signature.key_type):
            return (
                f'its img_signature_key_type is {signature.key_type}, which '
                'is not that of the key in its certificate'
            )
        try:
            value = base64.b64decode(signature.value)
        except ValueError:
            return 'its img_signature is not base64'
        if _matches(key, value, digest, signature.method):
            return None
        return (
            'its signature is not that of its data: the data, the signature '
            'or the certificate is another one'
        )


def judge(
    signature: Signature,
    certificate: Certificate | str,
    digest: str | None,
) -> str | None:
    """Tell what is wrong with a signature.

    :param certificate: the signature's; or why it cannot be had, as a clause.
    :param digest: the hash of the data; None if that is not known.
    :returns: a clause; None if nothing is, as far as that can be known.
    """
    if signature.algorithm is None:
        return f'its img_signature_hash_method {signature.method} is unknown'
    if isinstance(certificate, str):
        return f'its certificate {signature.certificate} {certificate}'
    return certificate.objection(signature, digest) if digest else None


def unlike(record: model.ImageRecord, certificate: Certificate) -> str | None:
    """Tell why an image will not do where those of a certificate are wanted.

    :returns: a clause about the image; None if it will.
    """
    signature = Signature.of(record)
    if signature is None:
        return 'is not signed'
    if signature.certificate.lower() != certificate.id:
        return f'is signed with the certificate {signature.certificate}'
    digest = signature.known(record)
    if digest is None:
        return f'its signature is of its {signature.method}'
    return certificate.objection(signature, digest)


@dataclasses.dataclass(frozen=True)
class Signer:
    """A private key, and the certificate with its public key.

    :param key: as cryptography has it.
    :param path: the file that the key is from.
    :param given: the certificate, as the user named it.
    :param certificate: in a plan, it is known, and the key fits.
    """

    key: Any = dataclasses.field(repr=False)
    path: pathlib.Path
    given: str
    certificate: Certificate | None = None

    @classmethod
    def load(
        cls, path: pathlib.Path, given: str, passphrase: Passphrase
    ) -> Self:
        """Read a key, and the certificate if it is a file.

        :param given: a file, or the id of a certificate in the key manager.
        :raises SourceError: if they are not what they must be.
        :raises UsageError: if the passphrase is wrong.
        """
        signer = cls(_load_key(path, passphrase), path, given)
        file = pathlib.Path(given)
        if not (file.exists() or file.is_symlink()):
            if model.UUID.fullmatch(given.rpartition('/')[2]):
                return signer
            raise errors.SourceError(
                f'{given!r} is neither a file nor the id of a certificate',
                hint='give a certificate in PEM, or the UUID of one in the '
                'key manager: openstack secret list',
            )
        try:
            found = Certificate.parse(read(file))
        except ValueError as error:
            raise errors.SourceError(
                f'{file} holds no certificate',
                hint='give a certificate (X.509) in PEM',
            ) from error
        # There may be those of its issuers, before or after it.
        fitting = [each for each in found if signer._fits(each)]
        return signer.proven((fitting or found)[0])

    @property
    def id(self) -> str:
        """The id of a certificate in the key manager.

        A reference to it, as ``openstack secret store`` prints it, ends in it.
        """
        if self.certificate is not None and self.certificate.id is not None:
            return self.certificate.id
        return self.given.rpartition('/')[2].lower()

    def proven(self, certificate: Certificate) -> Self:
        """Take a certificate, if it is valid and has the key.

        :raises SourceError: if not.
        """
        lapse = certificate.lapse
        if lapse is not None:
            raise errors.SourceError(
                f'the certificate {self.given} {lapse}',
                hint='get another for the same key',
            )
        if not self._fits(certificate):
            raise errors.SourceError(
                f'the key {self.path} is not that of the certificate '
                f'{self.given}',
                hint='give the key that the certificate was made for',
            )
        return dataclasses.replace(self, certificate=certificate)

    def _fits(self, certificate: Certificate) -> bool:
        """Sign something, and see whether the certificate has the key."""
        digest = bytes(64)
        return _matches(
            certificate.x509.public_key(),
            self._signed(digest),
            digest.hex(),
            _METHOD,
        )

    def properties(self, sha512: str) -> dict[str, str]:
        """Sign data.

        :param sha512: its hash, in hex.
        :returns: the four properties.
        """
        value = base64.b64encode(self._signed(bytes.fromhex(sha512)))
        kind = _key_type(self.key) or ''
        texts = value.decode(), _METHOD, kind, self.id
        return dict(zip(PROPERTIES, texts, strict=True))

    def _signed(self, digest: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric import padding
        from cryptography.hazmat.primitives.asymmetric import rsa
        from cryptography.hazmat.primitives.asymmetric import utils
        from cryptography.hazmat.primitives import hashes

        method = hashes.SHA512()
        hashed = utils.Prehashed(method)
        if isinstance(self.key, rsa.RSAPrivateKey):
            # As Glance expects it: create_verifier_for_pss() in cursive.
            pss = padding.PSS(padding.MGF1(method), padding.PSS.MAX_LENGTH)
            return self.key.sign(digest, pss, hashed)
        signed: bytes = self.key.sign(digest, ec.ECDSA(hashed))
        return signed


def read(path: pathlib.Path) -> bytes:
    """Read a small file.

    :raises SourceError: if it cannot be read, or is none.
    """
    try:
        with path.open('rb') as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise errors.SourceError(
            f'{path} cannot be read: {error.strerror}'
        ) from error
    if len(data) > _LARGEST:
        raise errors.SourceError(
            f'{path} is too large for a key, a certificate or a passphrase'
        )
    return data


def _load_key(path: pathlib.Path, passphrase: Passphrase) -> Any:
    from cryptography.hazmat.primitives import serialization

    data = read(path)
    if b'PRIVATE KEY-----' not in data:
        raise errors.SourceError(
            f'{path} holds no private key', hint='give a private key in PEM'
        )
    load = serialization.load_pem_private_key
    with _key_errors(path):
        try:
            key = load(data, None)
        except TypeError:
            # It is encrypted.
            key = None
    if key is None:
        secret = passphrase()
        try:
            with _key_errors(path):
                key = load(data, secret)
        except (errors.SourceError, TypeError) as error:
            # TypeError is for none at all.
            raise errors.UsageError(
                f'the key {path} does not open with this passphrase'
            ) from error
    if _key_type(key) is None:
        raise errors.SourceError(
            f'{path} is a key of the type {_named(key)}, whose signatures '
            'Glance does not accept',
            hint='use an RSA key, or one of the curve secp384r1 or secp521r1',
        )
    return key


@contextlib.contextmanager
def _key_errors(path: pathlib.Path) -> Iterator[None]:
    from cryptography import exceptions

    try:
        yield
    except (ValueError, exceptions.UnsupportedAlgorithm) as error:
        raise errors.SourceError(
            f'{path} holds no private key that can be read'
        ) from error


def _key_type(key: Any) -> str | None:
    """Tell what Glance calls the signatures of a key.

    :param key: private or public.
    :returns: None if it does not take them.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric import rsa

    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        # One that is smaller has no room for the hash.
        return _RSA if key.key_size >= 1024 else None
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        name = key.curve.name
        return f'ECC_{name.upper()}' if name in _CURVES else None
    return None


def _named(key: Any) -> str:
    curve = getattr(key, 'curve', None)
    name = getattr(curve, 'name', None) or type(key).__name__.strip('_')
    size = f' ({key.key_size} bits)' if name.startswith('RSA') else ''
    return f'{name.removesuffix("PrivateKey")}{size}'


def _is_of(key: Any, key_type: str) -> bool:
    """Tell whether a public key can be of a type; Glance asks no more."""
    from cryptography.hazmat.primitives.asymmetric import dsa
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric import rsa

    curves = [f'ECC_{name.upper()}' for name in _CURVES]
    kinds: dict[str, type] = {
        **dict.fromkeys(curves, ec.EllipticCurvePublicKey),
        _RSA: rsa.RSAPublicKey,
        'DSA': dsa.DSAPublicKey,
    }
    return key_type in kinds and isinstance(key, kinds[key_type])


def _matches(key: Any, value: bytes, digest: str, method: str) -> bool:
    """Check a signature with a public key.

    :param digest: of the data, in hex, by Glance's name of the hash.
    """
    from cryptography import exceptions
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.asymmetric import utils
    from cryptography.hazmat.primitives import hashes

    chosen = getattr(hashes, METHODS[method].upper())()
    hashed, data = utils.Prehashed(chosen), bytes.fromhex(digest)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            # Whoever signed may have chosen another length of the salt.
            pss = padding.PSS(padding.MGF1(chosen), padding.PSS.AUTO)
            key.verify(value, data, pss, hashed)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(value, data, ec.ECDSA(hashed))
        else:
            key.verify(value, data, hashed)
    except (exceptions.InvalidSignature, ValueError):
        return False
    return True


def _utc(certificate: 'x509.Certificate', which: str) -> datetime.datetime:
    """Tell when a certificate begins, or ends, to be valid."""
    name = f'not_valid_{which}'
    # Those with a zone came with cryptography 42, and the others are to go.
    found: datetime.datetime | None = getattr(certificate, f'{name}_utc', None)
    if found is None:
        found = getattr(certificate, name).replace(tzinfo=datetime.UTC)
    return found
