# SPDX-License-Identifier: Apache-2.0

"""Keys that images are signed with, and their certificates."""

import datetime
import functools
import pathlib
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography import x509


@functools.cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """Make a key; this takes long, so there is one of each size."""
    return rsa.generate_private_key(65537, bits)


def ecc_key(curve: ec.EllipticCurve | None = None) -> Any:
    """Make a key, of a curve that Glance takes."""
    return ec.generate_private_key(curve or ec.SECP384R1())


def write_key(
    path: pathlib.Path, key: Any, passphrase: bytes | None = None
) -> pathlib.Path:
    """Write a key as openssl does, encrypted if there is a passphrase."""
    how: serialization.KeySerializationEncryption
    how = serialization.NoEncryption()
    if passphrase is not None:
        how = serialization.BestAvailableEncryption(passphrase)
    data = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how
    )
    path.write_bytes(data)
    return path


def certificate(
    key: Any, days: tuple[int, int] = (-1, 365), name: str = 'images'
) -> x509.Certificate:
    """Make a certificate that its own key has signed.

    :param days: from now, when it begins and ends to be valid.
    """
    now = datetime.datetime.now(datetime.UTC)
    begin, end = (now + datetime.timedelta(days=each) for each in days)
    title = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    return (
        x509.CertificateBuilder()
        .subject_name(title)
        .issuer_name(title)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .sign(key, hashes.SHA256())
    )


def pem(found: x509.Certificate) -> bytes:
    """Write a certificate as a text."""
    return found.public_bytes(serialization.Encoding.PEM)


def pair(
    directory: pathlib.Path,
    key: Any = None,
    *,
    stem: str = 'sign',
    passphrase: bytes | None = None,
    days: tuple[int, int] = (-1, 365),
) -> tuple[pathlib.Path, pathlib.Path]:
    """Write a key and its certificate; tell their paths.

    :param key: None for one of ECC.
    """
    key = key or ecc_key()
    path = directory / f'{stem}.crt'
    path.write_bytes(pem(certificate(key, days)))
    written = write_key(directory / f'{stem}.key', key, passphrase)
    return written, path
