# SPDX-License-Identifier: Apache-2.0

"""The manifest of a saved triple: what its three files are.

It is JSON, and lies beside them. It holds what a new triple of the same kind
is given, in whatever cloud: see "The manifest" in the users' documentation.
What belongs to the cloud that a triple came from is left out.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from typing import Any

from amiclient import errors
from amiclient import locks
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient.source import opening
from amiclient import sparse

#: The name of the file.
NAME = 'manifest.json'

#: What tells it from other JSON, and by what version it is written.
_FORMAT = 'amiclient-triple'
_VERSION = 1

#: No manifest is larger, in bytes: properties are 128 of 255 characters, or
#: what an operator allows instead.
LIMIT = 4 * 2**20

#: Properties that name things of the cloud which an image is in, that the
#: cloud sets itself, or that are signatures it could not check any more.
_STAY = frozenset(
    {
        'base_image_ref',
        'bdm_v2',
        'block_device_mapping',
        'boot_roles',
        'cinder_encryption_key_deletion_policy',
        'cinder_encryption_key_id',
        'clean_attempts',
        'image_location',
        'image_state',
        'image_type',
        'instance_uuid',
        'kernel_id',
        'owner_id',
        'owner_project_name',
        'owner_user_name',
        'ramdisk_id',
        'user_id',
    }
)
_STAY_BEGINNINGS = (
    'amiclient_',
    'img_signature',
    'os_glance_',
    'os_hash_',
    'owner_specified.',
)

_SHA512 = re.compile(r'[0-9a-f]{128}')

#: In the names of files: what separates directories, or moves a cursor.
_UNSAFE = re.compile(r'[/\\]|[^\S ]')

_ZEROS = bytes(sparse.CHUNK)

#: Bytes of a name that go into names of files, to which more is added.
_STEM = 150


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestPart:
    """One file, and what the image was that it holds the data of.

    :param file: its name, in the manifest's directory.
    :param size: bytes.
    :param sha512: in hex.
    :param id: the image's, where it came from; None if from no cloud.
    :param min_disk: GiB.
    :param min_ram: MiB.
    """

    file: str
    size: int
    sha512: str
    disk_format: str
    container_format: str
    id: str | None = None
    name: str | None = None
    min_disk: int = 0
    min_ram: int = 0
    visibility: str | None = None
    protected: bool = False
    hidden: bool = False
    tags: tuple[str, ...] = ()
    properties: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A triple; what is None, there is none of."""

    image: ManifestPart
    kernel: ManifestPart | None = None
    ramdisk: ManifestPart | None = None

    @property
    def parts(self) -> Mapping[str, ManifestPart]:
        """The parts that there are, by their nouns."""
        found = {
            'image': self.image,
            'kernel': self.kernel,
            'ramdisk': self.ramdisk,
        }
        return {noun: part for noun, part in found.items() if part}


def stem(name: str | None) -> str:
    """Make what the names of a triple's files begin with.

    :param name: the AMI's, which may be anything, and long.
    :returns: a name for a file, that neither hides nor looks like an option.
    """
    # Newlines, escape sequences and what turns the direction of writing.
    text = ''.join(
        '_' if _UNSAFE.match(c) or not c.isprintable() else c
        for c in name or ''
    )
    short = text.lstrip('.-~ ').encode()[:_STEM].decode(errors='ignore')
    return short.rstrip() or 'ami'


def travelling(properties: Mapping[str, Any]) -> dict[str, str]:
    """Pick the properties that mean the same in another cloud."""
    return {
        name: str(value)
        for name, value in sorted(properties.items())
        if name not in _STAY
        and not name.startswith(_STAY_BEGINNINGS)
        and value is not None
    }


def dump(manifest: Manifest) -> bytes:
    """Write a manifest; the same one always gives the same bytes."""
    content: dict[str, Any] = {'format': _FORMAT, 'version': _VERSION}
    for noun, part in manifest.parts.items():
        content[noun] = dataclasses.asdict(part)
    text = json.dumps(content, indent=2, ensure_ascii=False) + '\n'
    return text.encode('utf-8', 'surrogateescape')


def read(path: pathlib.Path) -> Manifest:
    """Read a manifest.

    :raises SourceError: if it is not there, or is not one.
    """
    with opening.opened(path, wanted='a manifest') as file:
        return parse(file.read(LIMIT + 1), errors.shown(path))


def is_one(head: bytes) -> bool:
    """Tell whether a file is meant to be a manifest.

    :param head: what it begins with; a few hundred bytes are enough.
    """
    return head.lstrip().startswith(b'{') and _FORMAT.encode() in head[:512]


def parse(data: bytes, name: str) -> Manifest:
    """Read the text of a manifest.

    :param name: what to call it in errors.
    :raises SourceError: if it is not one, or one that is not known here.
    """
    if len(data) > LIMIT:
        raise errors.SourceError(
            f'longer than the {LIMIT} bytes that a manifest may have',
            subject=name,
        )
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise errors.SourceError(
            f'not JSON: {errors.shown(str(error))}',
            subject=name,
            hint='save the triple again, or name its files one by one',
        ) from error
    if not isinstance(content, dict) or content.get('format') != _FORMAT:
        raise errors.SourceError(
            'not the manifest of a saved triple',
            subject=name,
            hint=f'its "format" has to be "{_FORMAT}"',
        )
    if content.get('version') != _VERSION:
        raise errors.SourceError(
            'written by another version of this program',
            subject=name,
            hint='use that version, or a newer one',
        )
    parts = {
        noun: _PartReader(name, noun, content[noun]).part()
        for noun in ('image', 'kernel', 'ramdisk')
        if content.get(noun) is not None
    }
    if 'image' not in parts:
        raise _wrong(name, 'image is missing')
    files = [part.file for part in parts.values()]
    if len({*files, NAME}) <= len(files):
        raise _wrong(name, 'file is the same twice')
    return Manifest(**parts)


def _wrong(name: str, what: str) -> errors.SourceError:
    return errors.SourceError(
        f'damaged: {what}', subject=name, hint='save the triple again'
    )


class _PartReader:
    def __init__(self, name: str, noun: str, content: Any) -> None:
        self._name = name
        self._noun = noun
        if not isinstance(content, dict):
            raise _wrong(name, f'{noun} is not an object')
        self._content = content

    def part(self) -> ManifestPart:
        content = self._content
        file, digest = self._text('file'), self._text('sha512')
        if file in ('.', '..') or '/' in file or '\0' in file:
            raise self._wrong('file', 'is not the name of a file beside it')
        if not _SHA512.fullmatch(digest):
            raise self._wrong('sha512', 'is not a SHA-512')
        tags = content.get('tags') or []
        if not isinstance(tags, list) or not _are_texts(tags):
            raise self._wrong('tags', 'is not a list of strings')
        properties = content.get('properties') or {}
        if not isinstance(properties, dict) or not _are_texts(
            properties.values()
        ):
            raise self._wrong('properties', 'are not all strings')
        return ManifestPart(
            file=file,
            size=self._number('size'),
            sha512=digest,
            disk_format=self._text('disk_format'),
            container_format=self._text('container_format'),
            id=self._optional('id'),
            name=self._optional('name'),
            min_disk=self._number('min_disk', 0),
            min_ram=self._number('min_ram', 0),
            visibility=self._optional('visibility'),
            protected=content.get('protected') is True,
            hidden=content.get('hidden') is True,
            tags=tuple(tags),
            properties=travelling(properties),
        )

    def _text(self, field: str) -> str:
        value = self._content.get(field)
        if not isinstance(value, str) or not value:
            raise self._wrong(field, 'is not a text')
        return value

    def _optional(self, field: str) -> str | None:
        known = self._content.get(field) is not None
        return self._text(field) if known else None

    def _number(self, field: str, default: int | None = None) -> int:
        value = self._content.get(field, default)
        if type(value) is not int or not 0 <= value < 2**63:
            raise self._wrong(field, 'is not a valid number')
        return value

    def _wrong(self, field: str, what: str) -> errors.SourceError:
        return _wrong(self._name, f'{self._noun}.{field} {what}')


def _are_texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def sha512(
    path: pathlib.Path,
    *,
    wanted: str = 'a file',
    description: str = 'Hashing',
    progress: Progress = QUIET,
) -> str:
    """Hash a file; its holes are not read, for that takes as long as data.

    :param wanted: what it should be, for the text of errors.
    :raises SourceError: if it cannot be read, or is no file.
    :raises BusyError: if it was changed meanwhile.
    """
    hasher = hashlib.sha512()
    with opening.opened(path, wanted=wanted) as file:
        descriptor = file.fileno()
        before = locks.state(descriptor)
        size = os.fstat(descriptor).st_size
        with progress.task(description, size) as task:
            position = 0
            for start, end in sparse.data_in(descriptor, 0, size):
                _add_zeros(hasher, start - position)
                task.advance(start - position)
                for offset in range(start, end, sparse.CHUNK):
                    count = min(sparse.CHUNK, end - offset)
                    hasher.update(sparse.read_at(descriptor, count, offset))
                    task.advance(count)
                position = end
            _add_zeros(hasher, size - position)
        locks.refuse_changed(path, before, locks.state(descriptor))
    return hasher.hexdigest()


def _add_zeros(hasher: 'hashlib._Hash', count: int) -> None:
    while count > 0:
        hasher.update(_ZEROS[:count])
        count -= len(_ZEROS)
