# SPDX-License-Identifier: Apache-2.0

"""Images of containers, as the tools that write them do."""

import gzip
import hashlib
import io
import json
import pathlib
import subprocess
import tarfile

from amiclient.tests.disks import archives

_OCI = 'application/vnd.oci.image'
INDEX = f'{_OCI}.index.v1+json'
MANIFEST = f'{_OCI}.manifest.v1+json'
CONFIG = f'{_OCI}.config.v1+json'
LAYER = f'{_OCI}.layer.v1.tar'


def layer(members) -> bytes:
    """Make the archive of a layer."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w', format=tarfile.PAX_FORMAT) as it:
        for each in members:
            header, content = each if isinstance(each, tuple) else (each, b'')
            header.size = len(content)
            it.addfile(header, io.BytesIO(content))
    return data.getvalue()


def packed(data: bytes, kind: str) -> bytes:
    """Compress a layer."""
    if kind == 'gzip':
        return gzip.compress(data, mtime=0)
    if kind == 'zstd':
        words = ['zstd', '--quiet', '--stdout']
        return subprocess.run(
            words, input=data, check=True, stdout=subprocess.PIPE
        ).stdout
    return data


def digest(data: bytes) -> str:
    """Tell how a blob is called."""
    return 'sha256:' + hashlib.sha256(data).hexdigest()


class Layout:
    """A layout of the Open Container Initiative in a directory."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        (path / 'blobs' / 'sha256').mkdir(parents=True)
        self.write('oci-layout', {'imageLayoutVersion': '1.0.0'})

    def write(self, name: str, content) -> None:
        """Write a text."""
        (self.path / name).write_text(json.dumps(content))

    def blob(self, data: bytes, kind: str, **fields) -> dict:
        """Add a blob; return its descriptor."""
        name = digest(data)
        path = self.path / 'blobs' / name.replace(':', '/')
        path.write_bytes(data)
        return {
            'mediaType': kind,
            'digest': name,
            'size': len(data),
            **fields,
        }

    def text(self, content, kind: str, **fields) -> dict:
        """Add a text as a blob; return its descriptor."""
        return self.blob(json.dumps(content).encode(), kind, **fields)

    def image(
        self,
        layers: list[bytes],
        *,
        compression: str = 'gzip',
        architecture: str = 'amd64',
        config=None,
        manifest=None,
        **fields,
    ) -> dict:
        """Add an image of layers; return its descriptor."""
        described = {
            'os': 'linux',
            'architecture': architecture,
            'rootfs': {
                'type': 'layers',
                'diff_ids': [digest(data) for data in layers],
            },
            **(config or {}),
        }
        kind = LAYER + (f'+{compression}' if compression else '')
        content = {
            'schemaVersion': 2,
            'mediaType': MANIFEST,
            'config': self.text(described, CONFIG),
            'layers': [
                self.blob(packed(data, compression), kind) for data in layers
            ],
            **(manifest or {}),
        }
        return self.text(content, MANIFEST, **fields)

    def index(self, *descriptors: dict) -> pathlib.Path:
        """Write the index; return the directory."""
        self.write(
            'index.json', {'schemaVersion': 2, 'manifests': descriptors}
        )
        return self.path

    def archive(self, path: pathlib.Path, *, mode: str = 'w') -> pathlib.Path:
        """Put all of it into an archive."""
        with tarfile.open(path, mode) as it:
            for each in sorted(self.path.rglob('*')):
                name = str(each.relative_to(self.path))
                it.add(each, name, recursive=False)
        return path


def saved(
    path: pathlib.Path, layers: list[bytes], *, mode: str = 'w', manifest=None
) -> pathlib.Path:
    """Write what docker save did until version 25."""
    ids = [digest(data) for data in layers]
    config = json.dumps(
        {
            'os': 'linux',
            'architecture': 'amd64',
            'rootfs': {'type': 'layers', 'diff_ids': ids},
        }
    ).encode()
    name = digest(config).partition(':')[2] + '.json'
    names = [f'{i:064x}/layer.tar' for i in range(len(layers))]
    entry = {
        'Config': name,
        'RepoTags': ['debian:12'],
        'Layers': names,
        **(manifest or {}),
    }
    members = []
    for layer_name, data in zip(names, layers, strict=True):
        directory = layer_name.rpartition('/')[0]
        members.append(archives.member(directory + '/', tarfile.DIRTYPE))
        members.append((archives.member(f'{directory}/VERSION'), b'1.0'))
        members.append((archives.member(f'{directory}/json'), b'{}'))
        members.append((archives.member(layer_name), data))
    members.append((archives.member(name), config))
    text = json.dumps([entry]).encode()
    members.append((archives.member('manifest.json'), text))
    members.append((archives.member('repositories'), b'{}'))
    return archives.archive(path, members, mode=mode)
