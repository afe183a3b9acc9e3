# SPDX-License-Identifier: Apache-2.0

"""What the data of an image must come to, and whether a file holds it."""

import dataclasses
import hashlib
import pathlib

from amiclient import errors
from amiclient.glance import model
from amiclient.glance import retry
from amiclient import progress
from amiclient import sparse


@dataclasses.dataclass(frozen=True)
class Digest:
    """What an image's data must come to.

    :param algorithm: a name that hashlib knows.
    :param value: in hex.
    """

    algorithm: str
    value: str


def expected(record: model.ImageRecord) -> Digest | None:
    """Tell what an image's data must come to.

    :returns: its hash if we can compute it, else its checksum; None if the
        operator has turned off both.
    """
    algorithm, value = record.hash_algo or '', record.hash_value
    # Those of SHAKE have no length of their own.
    known = algorithm in hashlib.algorithms_available and not (
        algorithm.startswith('shake')
    )
    if known and value:
        return Digest(algorithm, value.lower())
    return Digest('md5', record.checksum.lower()) if record.checksum else None


def check(record: model.ImageRecord) -> int:
    """Make sure that an image has data to fetch.

    :returns: how many bytes.
    :raises CloudError: if it is not active. Glance would answer, with
        nothing, if it is queued.
    """
    if record.status != 'active':
        raise errors.CloudError(
            f'image {record.id} is {record.status}, not active: '
            'it cannot be downloaded'
        )
    if record.size is None:
        raise errors.CloudError(
            f'image {record.id}: the cloud does not say how large it is'
        )
    return record.size


def matches(
    path: pathlib.Path,
    record: model.ImageRecord,
    *,
    task: progress.Task,
    clock: retry.Clock,
) -> bool:
    """Tell whether a file holds an image's data, by its hash.

    :returns: false also where the cloud gives no hash.
    """
    digest = expected(record)
    if digest is None or not path.is_file() or path.is_symlink():
        return False
    if path.stat().st_size != record.size:
        return False
    hasher = hashlib.new(digest.algorithm, usedforsecurity=False)
    with path.open('rb') as file:
        while chunk := file.read(sparse.CHUNK):
            clock.check()
            hasher.update(chunk)
            task.advance(len(chunk))
    return hasher.hexdigest() == digest.value
