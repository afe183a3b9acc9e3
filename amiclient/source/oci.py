# SPDX-License-Identifier: Apache-2.0

"""Images of containers: which layers they have, in which order.

What ``docker save`` writes, and the layout of the Open Container Initiative
(OCI), in an archive or a directory. Layers are found by the digests of what
names them, from the index to the manifest to the layer, and each digest is
verified; so nothing in there leads anywhere else.

Sources: the OCI image specification 1.1 (image-layout.md, image-index.md,
manifest.md, config.md, descriptor.md, annotations.md); for docker save,
image/spec/v1.2.md of https://github.com/moby/moby; for a directory, "dir:" in
containers-transports(5).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import posixpath
import re
from typing import Any, Protocol

from amiclient import errors
from amiclient import scratch
from amiclient.source import contents
from amiclient.source import manifest
from amiclient.source import opening
from amiclient.source import streams
from amiclient import sparse

#: The files that begin it all: of OCI's layout, and of docker save.
_INDEX = 'index.json'
_MANIFEST = 'manifest.json'

#: Bytes of a text in it: what registries take (the distribution
#: specification, "Pushing Manifests").
_TEXT = 4 << 20

#: Indexes within indexes, images in all of them, layers of an image. Docker
#: has 127 layers at most.
_DEPTH = 4
_IMAGES = 256
_LAYERS = 512

_DIGEST = re.compile(r'(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})', re.ASCII)

#: Media types, by how they begin: of indexes, of what images say of
#: themselves, and of layers; the rest is about the compression, which is told
#: by content.
_INDEXES = (
    'application/vnd.oci.image.index.v1+json',
    'application/vnd.docker.distribution.manifest.list.v2+json',
)
_CONFIGS = (
    'application/vnd.oci.image.config.v1+json',
    'application/vnd.docker.container.image.v1+json',
)
_LAYER = re.compile(
    r'application/vnd\.(oci\.image\.layer\.(nondistributable\.)?v1\.tar'
    r'|docker\.image\.rootfs\.(foreign\.)?diff\.tar)([.+](gzip|zstd))?'
)
_ENCRYPTED = '+encrypted'

#: Architectures as Nova calls them, and as Go does, with a variant.
_ARCHITECTURES = {
    'aarch64': 'arm64',
    'armv6l': 'arm/v6',
    'armv7l': 'arm/v7',
    'i386': '386',
    'i486': '386',
    'i586': '386',
    'i686': '386',
    'x86_64': 'amd64',
}

#: The annotation that names an image in a layout; and the one, of BuildKit,
#: that tells what is about an image from images.
_REFERENCE = 'org.opencontainers.image.ref.name'
_ABOUT = 'vnd.docker.reference.type'

#: Bytes by which a manifest of container images is told from ours.
_HEAD = 4096

_DAMAGED = 'get it again from where it came'

#: Pieces of what follows the archive in a layer that are read.
_REST = 64


class Store(Protocol):
    """Where the parts of container images are."""

    @property
    def name(self) -> str:
        """What to call it in errors."""

    def find(self, name: str) -> opening.Slice | None:
        """Find a file by its name; None if it is not there.

        :raises SourceError: if the name leads out of it.
        """


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a container image.

    :param name: of its file.
    :param digest: of that; '' if nobody says.
    :param diff_id: the digest of the archive in it; '' if nobody says.
    """

    name: str
    slice: opening.Slice
    digest: str
    diff_id: str


@dataclasses.dataclass(frozen=True)
class ContainerImage:
    """A container image, as what names it describes it.

    :param name: '' if it has none.
    :param platform: as Docker writes it: ``linux/arm/v7``.
    :param annotations: what whoever made it says of it.
    """

    name: str
    platform: str
    layers: tuple[Layer, ...]
    annotations: Mapping[str, str]

    def fits(self, architecture: str) -> bool:
        """Tell whether it is for an architecture, by any of its names."""
        wanted = _ARCHITECTURES.get(architecture, architecture)
        system, _, found = self.platform.partition('/')
        if system not in ('linux', ''):
            return False
        # A variant that nobody asks for is any: arm64 is arm64/v8.
        return found == wanted or found.startswith(wanted + '/')

    def __str__(self) -> str:
        words = [errors.shown(self.name, 100)] if self.name else []
        platform = errors.shown(self.platform, 40)
        return ' '.join([*words, f'({platform})'])

    @property
    def note(self) -> str:
        """Tell the user what it is."""
        count = len(self.layers)
        layers = 'one layer' if count == 1 else f'{count} layers'
        told = [
            f'{errors.shown(key, 100)}={errors.shown(value, 100)}'
            for key, value in sorted(self.annotations.items())
            if key != _REFERENCE
        ]
        words = f'container image {self}, {layers}'
        return f'{words}; {errors.some(told)}' if told else words


class ArchiveStore:
    """The store that an archive is."""

    def __init__(self, held: contents.Held) -> None:
        self._held = held
        self.name = held.name

    def find(self, name: str) -> opening.Slice | None:
        """Find a member, by way of a link at most."""
        plain = posixpath.normpath(name)
        plain = self._held.links.get(plain, plain)
        return self._held.blobs.get(plain)


class DirectoryStore:
    """The store that a directory is."""

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self.name = errors.shown(path)

    def find(self, name: str) -> opening.Slice | None:
        """Find a file that is within the directory, by all its links."""
        path = self._path / name
        if not path.is_file():
            return None
        if not path.resolve().is_relative_to(self._path.resolve()):
            raise errors.SourceError(
                f'{errors.shown(name, 200)} leads out of it',
                subject=self.name,
                hint='it must be damaged, or meant to do harm',
            )
        return opening.Slice(path, 0, path.stat().st_size)


def is_one(store: Store) -> bool:
    """Tell whether there are container images, by the files that name them."""
    if store.find('oci-layout') and store.find(_INDEX):
        return True
    found = store.find(_MANIFEST)
    if found is None:
        return False
    with opening.opened(found.path, wanted='a manifest') as file:
        head = found.within(file).read(_HEAD)
    if manifest.is_one(head):
        return False
    return head.lstrip()[:1] == b'[' or b'"schemaVersion"' in head


def choose(store: Store, architecture: str | None) -> ContainerImage:
    """Choose a container image.

    :param architecture: the one that is wanted, as Nova calls it, or Docker;
        None for any.
    :raises SourceError: if there is none, several may be meant, or what names
        it is damaged.
    """
    found = {image.layers: image for image in _Images(store).all()}
    images = list(found.values())
    fitting = [
        image
        for image in images
        if architecture is None or image.fits(architecture)
    ]
    if len(fitting) == 1:
        return fitting[0]
    listed = errors.some([str(image) for image in images], 8)
    if not images:
        raise errors.SourceError(
            'no container image of Linux is in it', subject=store.name
        )
    if not fitting:
        raise errors.SourceError(
            f'no container image in it is for {architecture}, but {listed}',
            subject=store.name,
            hint='choose one with --architecture',
        )
    several = len({image.platform for image in fitting}) > 1
    raise errors.SourceError(
        f'several container images are in it: {listed}',
        subject=store.name,
        hint='choose one with --architecture'
        if several
        else 'copy the one that is meant, with skopeo copy or docker save',
    )


@dataclasses.dataclass
class _Images:
    """What is named in a store, while it is read."""

    store: Store
    count: int = 0

    def all(self) -> Iterator[ContainerImage]:
        """Find all container images."""
        if self.store.find('oci-layout') and self.store.find(_INDEX):
            yield from self._index(self._named(_INDEX), '', 0)
            return
        content = self._named(_MANIFEST)
        if isinstance(content, dict):
            yield from self._manifest(content, {}, '')
            return
        for each in _list(content, self._refused):
            yield self._saved(_dict(each, self._refused))

    def _index(
        self, content: Any, reference: str, depth: int
    ) -> Iterator[ContainerImage]:
        """Go through an index, and those in it."""
        index = _dict(content, self._refused)
        if depth > _DEPTH:
            raise self._refused('its indexes have no end')
        for each in _list(index.get('manifests'), self._refused):
            descriptor = _dict(each, self._refused)
            annotations = _texts(descriptor.get('annotations'))
            self.count += 1
            if self.count > _IMAGES:
                raise self._refused(f'more than {_IMAGES} images are in it')
            if _ABOUT in annotations or self._blob(descriptor) is None:
                # About another one; or of another platform, and left out.
                continue
            name = annotations.get(_REFERENCE, reference)
            text = self._described(descriptor)
            if descriptor.get('mediaType') in _INDEXES or 'manifests' in text:
                yield from self._index(text, name, depth + 1)
            else:
                yield from self._manifest(text, annotations, name)

    def _manifest(
        self, content: dict[str, Any], outer: Mapping[str, str], name: str
    ) -> Iterator[ContainerImage]:
        """Read a manifest, if it is that of an image."""
        config = _dict(content.get('config'), self._refused)
        if config.get('mediaType') not in _CONFIGS:
            return
        described = self._described(config)
        layers = _list(content.get('layers'), self._refused)
        ids = self._diff_ids(described, len(layers))
        yield ContainerImage(
            name,
            _platform(described),
            tuple(
                self._layer(_dict(layer, self._refused), diff_id)
                for layer, diff_id in zip(layers, ids, strict=True)
            ),
            {**outer, **_texts(content.get('annotations'))},
        )

    def _layer(self, descriptor: dict[str, Any], diff_id: str) -> Layer:
        kind = str(descriptor.get('mediaType'))
        digest = self._digest(descriptor)
        if kind.endswith(_ENCRYPTED):
            raise errors.SourceError(
                f'the layer {digest} is encrypted',
                subject=self.store.name,
                hint='decrypt it with skopeo copy --decryption-key',
            )
        if not _LAYER.fullmatch(kind):
            raise self._refused(
                f'the layer {digest} is of the unknown type '
                f'{errors.shown(kind, 100)}'
            )
        found = self._blob(descriptor)
        if found is None:
            raise self._refused(f'the layer {digest} is not in it')
        return Layer(digest, found, digest, diff_id)

    def _saved(self, entry: dict[str, Any]) -> ContainerImage:
        """Read what docker save says of an image."""
        config = entry.get('Config')
        described = _dict(self._named(config), self._refused)
        names = _list(entry.get('Layers'), self._refused)
        ids = self._diff_ids(described, len(names))
        layers = []
        for name, diff_id in zip(names, ids, strict=True):
            found = self._find(name)
            if found is None:
                shown = errors.shown(str(name), 200)
                raise self._refused(f'the layer {shown} is not in it')
            layers.append(Layer(str(name), found, '', diff_id))
        tags = map(str, _list(entry.get('RepoTags') or [], self._refused))
        return ContainerImage(
            ', '.join(tags), _platform(described), tuple(layers), {}
        )

    def _diff_ids(self, config: dict[str, Any], count: int) -> Sequence[str]:
        """Tell the digests of the archives in layers."""
        root = _dict(config.get('rootfs', {}), self._refused)
        ids = _list(root.get('diff_ids', []), self._refused)
        if len(ids) != count or count > _LAYERS:
            raise self._refused(
                f'it has {count} layers, and its configuration tells of '
                f'{len(ids)}'
                if count <= _LAYERS
                else f'it has {count} layers; {_LAYERS} are the most'
            )
        for each in ids:
            if not isinstance(each, str) or not _DIGEST.fullmatch(each):
                raise self._refused('the digest of a layer makes no sense')
        return ids

    def _digest(self, descriptor: dict[str, Any]) -> str:
        digest = descriptor.get('digest')
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise self._refused(
                f'{errors.shown(str(digest), 100)} is no digest that is known'
            )
        return digest

    def _blob(self, descriptor: dict[str, Any]) -> opening.Slice | None:
        """Find what a descriptor describes."""
        digest = self._digest(descriptor)
        kind, _, value = digest.partition(':')
        found = self.store.find(f'blobs/{kind}/{value}')
        # That of "dir:".
        found = found or self.store.find(value)
        size = descriptor.get('size')
        if found is not None and found.size != size:
            raise self._refused(
                f'{digest} has {found.size} bytes, not '
                f'{errors.shown(str(size), 40)}'
            )
        return found

    def _described(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        """Read a text that a descriptor describes, and verify it."""
        found = self._blob(descriptor)
        digest = self._digest(descriptor)
        if found is None:
            raise self._refused(f'{digest} is not in it')
        data = self._read(found, digest)
        kind, _, value = digest.partition(':')
        if hashlib.new(kind, data).hexdigest() != value:
            raise self._refused(f'the content of {digest} is another one')
        return _dict(self._parsed(data, digest), self._refused)

    def _find(self, name: Any) -> opening.Slice | None:
        """Find a file whose name is in a text."""
        if not isinstance(name, str) or '\0' in name:
            raise self._refused('a name in it makes no sense')
        if name.startswith('/') or '..' in name.split('/'):
            raise self._refused(
                f'the name {errors.shown(name, 200)} leads out of it'
            )
        return self.store.find(name)

    def _named(self, name: Any) -> Any:
        """Read a text by its name."""
        found = self._find(name)
        if found is None:
            raise self._refused(f'{errors.shown(str(name), 200)} is missing')
        return self._parsed(self._read(found, name), name)

    def _read(self, found: opening.Slice, name: str) -> bytes:
        with opening.opened(found.path, wanted='a text') as file:
            data = found.within(file).read(_TEXT + 1)
        if len(data) > _TEXT:
            raise self._refused(f'{errors.shown(name, 200)} is too long')
        return data

    def _parsed(self, data: bytes, name: str) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._refused(
                f'{errors.shown(name, 200)} is no JSON text that makes sense'
            ) from error

    def _refused(self, why: str) -> errors.SourceError:
        return errors.SourceError(
            f'a damaged container image: {why}',
            subject=self.store.name,
            hint=_DAMAGED,
        )


def copy(layer: Layer, target: pathlib.Path, name: str) -> None:
    """Copy the file of a layer, and verify it.

    :param target: the file that is made.
    :param name: what to call the image in errors.
    :raises SourceError: if it is not what its digest says.
    """
    kind, _, wanted = layer.digest.partition(':')
    hasher = hashlib.new(kind or 'sha256')
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    size = 0
    with (
        opening.opened(layer.slice.path, wanted='a layer') as file,
        scratch.full_disk(target.parent),
        sparse.opened(target, flags) as descriptor,
    ):
        source = layer.slice.within(file)
        while data := source.read(sparse.CHUNK):
            hasher.update(data)
            sparse.append(descriptor, data, size)
            size += len(data)
    if wanted and hasher.hexdigest() != wanted:
        raise _changed(layer, name)


@contextlib.contextmanager
def opened(
    layer: Layer, path: pathlib.Path, name: str
) -> Iterator[streams.Stream]:
    """Read the archive in a layer, and verify it at the end.

    :param path: the file of the layer.
    :param name: what to call the image in errors.
    :raises SourceError: if it is not what its digest says.
    """
    kind, _, wanted = layer.diff_id.partition(':')
    hasher = hashlib.new(kind)
    with streams.opened(path, wanted='a layer', name=name) as stream:
        watched = contents.PartStream(stream, _Hashed(stream, hasher))
        yield watched
        for _ in range(_REST):
            if not watched.read(sparse.CHUNK):
                break
    if hasher.hexdigest() != wanted:
        raise _changed(layer, name)


class _Hashed:
    def __init__(
        self, stream: streams.Stream, hasher: 'hashlib._Hash'
    ) -> None:
        self._stream = stream
        self._hasher = hasher

    def read(self, count: int, /) -> bytes:
        data = self._stream.read(count)
        self._hasher.update(data)
        return data


def _changed(layer: Layer, name: str) -> errors.SourceError:
    return errors.SourceError(
        'a damaged container image: the layer '
        f'{errors.shown(layer.name, 200)} has another content than its digest '
        'says',
        subject=name,
        hint=_DAMAGED,
    )


def _platform(config: dict[str, Any]) -> str:
    names = (config.get(key) for key in ('os', 'architecture', 'variant'))
    return '/'.join(str(name) for name in names if name)


def _texts(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {str(key): str(text) for key, text in value.items()}


_Refused = Callable[[str], errors.SourceError]


def _dict(value: Any, refused: _Refused) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise refused('a part of what describes it is missing')
    return value


def _list(value: Any, refused: _Refused) -> list[Any]:
    if not isinstance(value, list):
        raise refused('a list in what describes it is missing')
    return value
