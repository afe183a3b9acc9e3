# SPDX-License-Identifier: Apache-2.0

"""OpenPGP signatures of what vendors publish.

``gpgv`` of GnuPG verifies them: the program for those who have the keys, and
trust them. It knows no key but those that the user gives. What it reports is
described in doc/DETAILS of GnuPG.
"""

import base64
import binascii
import pathlib
import re

from amiclient import confinement
from amiclient import errors
from amiclient import process

#: A file in ASCII (RFC 9580, section 6.2): headers, base64 and a checksum.
_ARMOR = re.compile(
    rb'-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+\r?\n)*\r?\n'
    rb'([0-9A-Za-z+/=\s]*?)(?:\r?\n=[0-9A-Za-z+/]{4}\s*)?'
    rb'-----END PGP PUBLIC KEY BLOCK-----'
)

#: What the beginning of a text with its signature around it is.
CLEARSIGNED = b'-----BEGIN PGP SIGNED MESSAGE-----'

#: Bytes that keys may have.
_KEYS = 16 << 20

_TRUE = 'GOODSIG'

#: What keeps a signature from being a proof, the worst first.
_FALSE = {
    'BADSIG': 'its signature is false: one of the two was changed',
    'REVKEYSIG': 'the key of its signature was revoked',
    'EXPKEYSIG': 'the key of its signature has expired',
    'EXPSIG': 'its signature has expired',
}


def verify(
    path: pathlib.Path,
    signature: bytes | None,
    keyring: pathlib.Path,
    *,
    room: pathlib.Path,
    name: str,
) -> pathlib.Path:
    """Make sure that somebody whose key we have has signed a file.

    :param signature: of it; None if it is around the text in it.
    :param keyring: a file with public keys, binary or ASCII.
    :param room: a private directory.
    :param name: what to call the file.
    :returns: a file with what was signed, and nothing else.
    :raises SourceError: if there is no such signature, or a false one.
    :raises UsageError: if the keys cannot be read.
    :raises ProgramError: if gpgv is missing.
    """
    keys, signed = room / 'keys', path
    keys.write_bytes(_keys(keyring))
    argv: list[str | pathlib.Path] = [
        'gpgv',
        '--homedir',
        room,
        '--keyring',
        keys,
        '--status-fd',
        '1',
        '--weak-digest',
        'SHA1',
    ]
    reads = [keys, path]
    writes = []
    if signature is None:
        signed = room / 'signed'
        argv += ['--output', signed, '--', path]
        writes = [signed]
    else:
        detached = room / 'signature'
        detached.write_bytes(signature)
        argv += ['--', detached, path]
        reads.append(detached)
    said = process.run(
        argv,
        access=confinement.Access(reads=reads, writes=writes),
        # Also if one of several is of a key that we do not have.
        ok=range(3),
    )
    _judge(said, name, keyring)
    return signed


def _judge(said: process.Result, name: str, keyring: pathlib.Path) -> None:
    words = [line.split() for line in said.text.splitlines()]
    status = {word[1]: word for word in words if len(word) > 2}
    wrong = next((why for key, why in _FALSE.items() if key in status), None)
    if _TRUE in status and 'BADSIG' not in status:
        return
    if wrong is None and 'NO_PUBKEY' in status:
        key = status['NO_PUBKEY'][2]
        wrong = f'it is signed with the key {key}, which is not in {keyring}'
    if wrong is None:
        wrong = f'its signature cannot be verified: {said.tail()}'
    raise errors.SourceError(
        wrong,
        subject=name,
        hint='check the signature, and the keys, with the vendor',
    )


def _keys(keyring: pathlib.Path) -> bytes:
    """Read public keys; gpgv takes no ASCII."""
    try:
        with keyring.open('rb') as file:
            data = file.read(_KEYS + 1)
    except OSError as error:
        raise errors.UsageError(
            f'{keyring} cannot be read: {error.strerror}'
        ) from error
    try:
        blocks = [
            base64.b64decode(b''.join(block.split()), validate=True)
            for block in _ARMOR.findall(data)
        ]
    except binascii.Error:
        blocks = []
    keys = b''.join(blocks) or data
    # The tag of a public key, old or new (RFC 9580, section 4.2); or that of
    # a keybox (kbx/keybox-blob.c of GnuPG).
    if keys[:1] not in (b'\x98', b'\x99', b'\xc6') and keys[8:12] != b'KBXf':
        raise errors.UsageError(
            f'{keyring} has no OpenPGP public keys',
            hint='export them: gpg --export KEY',
        )
    return keys
