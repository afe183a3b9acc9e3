# SPDX-License-Identifier: Apache-2.0

"""Systems of ostree and bootc: the one that boots becomes the root.

They are in directories of the root filesystem: a deployment in
``/ostree/deploy/NAME/deploy/CHECKSUM.SERIAL``, and what all deployments of
that name have on /var in ``/ostree/deploy/NAME/var``. Which one is to be
booted say the entries of the boot loader, with ``ostree=`` for the ramdisk
(ostree-prepare-root(1); "Deployments" in the documentation of ostree). Nova
does not pass that on, so that the root filesystem has to be the deployment.
"""

from collections.abc import Iterable, Iterator, Mapping
import configparser
import contextlib
import dataclasses
import logging
import os
import posixpath
import re
import stat
from typing import Any, Protocol

from amiclient import errors
from amiclient.ext.writer import nodes
from amiclient.files import Files
from amiclient.source import attributes
from amiclient.source import file_tree
from amiclient.source import uki

_LOG = logging.getLogger(__name__)

_TOP = '/ostree/deploy'

#: Where bootc keeps systems of which there are no files, but objects.
_OBJECTS = '/composefs/objects'

#: One of them is in the root filesystem of any of these systems.
MARKS = (_TOP, _OBJECTS)
NAMES = (b'ostree', b'composefs')

#: What the root has of any other system.
_ORDINARY = frozenset(('etc', 'usr'))

ENTRIES = '/boot/loader/entries'
_DEPLOYMENT = re.compile(r'[0-9a-z]+\.\d+')

#: How ostree is told to compose, in a deployment.
_CONFIGURED = 'usr/lib/ostree/prepare-root.conf'
_COMPOSED = '.ostree.cfs'
_OFF = ('', 'no', 'false', '0', 'maybe')

#: Entries of boot loaders that are looked at.
_MOST = 200

#: Where links of the root lead that something may be mounted on.
_LINKS = {
    '/home': '/var/home',
    '/mnt': '/var/mnt',
    '/opt': '/var/opt',
    '/root': '/var/roothome',
    '/srv': '/var/srv',
}


class OstreeFiles(Protocol):
    """Files that may be a system of ostree, with those on /boot.

    Paths are absolute, and symbolic links are followed.
    """

    def names(self, path: str) -> Iterable[str]:
        """List a directory; nothing if it is none."""

    def head(self, path: str, count: int) -> bytes:
        """Read what a file begins with; nothing if there is none."""

    def real(self, path: str) -> str | None:
        """Resolve a path; None if it leads nowhere."""

    def changed(self, path: str) -> int:
        """Tell when the content of a file was changed; 0 if it is gone."""


@dataclasses.dataclass(frozen=True)
class Deployment:
    """The system that is to be booted.

    :param path: of its root.
    :param var: what it has on /var.
    :param boot: where its kernel and ramdisk are; None if there is no entry
        of a boot loader that says so.
    :param others: how many there are besides.
    :param links: where links of its root lead that something may be mounted
        on.
    :param composed: whether composefs would show its files.
    """

    path: str
    var: str
    boot: str | None
    others: int
    links: Mapping[str, str]
    composed: bool

    def place(self, path: str) -> str:
        """Tell where in the root filesystem something is to be mounted.

        :param path: where its fstab says.
        """
        for link, target in self.links.items():
            if f'{path}/'.startswith(f'{link}/'):
                path = target + path.removeprefix(link)
        if path == '/boot':
            return path
        if f'{path}/'.startswith('/var/'):
            return self.var + path.removeprefix('/var')
        return self.path + path


def find(files: OstreeFiles, name: str) -> Deployment | None:
    """Find the deployment that boots: the first one of the boot loader.

    :param name: what to call the source in errors.
    :returns: None if it is no system of ostree.
    :raises SourceError: if it has none, or no files of it.
    """
    if _ORDINARY.intersection(files.names('/')):
        return None
    roots = [f'{_TOP}/{root}' for root in files.names(_TOP)]
    there = [
        f'{root}/deploy/{each}'
        for root in roots
        for each in files.names(f'{root}/deploy')
        if _DEPLOYMENT.fullmatch(each)
    ]
    if not there:
        if roots:
            raise errors.SourceError(
                'a system of ostree without a deployment', subject=name
            )
        if files.names(_OBJECTS):
            raise _no_files(_OBJECTS, name)
        return None
    for booted, kernel in _booted(files):
        # What leads there may have been lost.
        path = there[0] if booted is None and len(there) == 1 else booted
        if path in there:
            boot = posixpath.dirname(kernel) if kernel else None
            break
    else:
        # Its origin is written as it is deployed.
        path = max(there, key=lambda each: files.changed(f'{each}.origin'))
        boot = None
    if not files.names(f'{path}/usr'):
        raise _no_files(path, name)
    composed = _COMPOSED in files.names(path) or _is_composed(
        files.head(f'{path}/{_CONFIGURED}', uki.ENTRY_SIZE)
    )
    var = posixpath.dirname(posixpath.dirname(path)) + '/var'
    links = {
        link: target
        for link, target in _LINKS.items()
        if files.real(path + link) != path + link
    }
    return Deployment(path, var, boot, len(there) - 1, links, composed)


def _no_files(path: str, name: str) -> errors.SourceError:
    return errors.SourceError(
        f'a system of ostree or bootc that only composefs can show: '
        f'{errors.shown(path, 200)} has no files, but objects',
        subject=name,
        hint='give the container image that it was installed from, or an '
        'archive of the running system',
    )


def _booted(files: OstreeFiles) -> Iterator[tuple[str | None, str | None]]:
    """Tell what is booted by default, and next: its root, and its kernel."""
    found = []
    for each in list(files.names(ENTRIES))[:_MOST]:
        if each.endswith('.conf'):
            data = files.head(f'{ENTRIES}/{each}', uki.ENTRY_SIZE)
            fields = uki.parse_entry(data)
            version = ''.join(fields.get('version', [])[:1])
            number = int(version) if version.isdecimal() else 0
            found.append((number, each, fields))
    for _, _, fields in sorted(found, key=lambda f: f[:2], reverse=True):
        for word in fields.get('options', ()):
            if word.startswith('ostree='):
                kernel = ''.join(fields.get('linux', [])[:1])
                yield (
                    files.real(word.removeprefix('ostree=')),
                    # The path is that on the partition, if /boot is one.
                    files.real(f'/boot/{kernel}') or files.real(f'/{kernel}'),
                )


def _is_composed(data: bytes) -> bool:
    parser = configparser.RawConfigParser(strict=False)
    with contextlib.suppress(configparser.Error):
        parser.read_string(data.decode('utf-8', 'replace'))
    value = parser.get('composefs', 'enabled', fallback='')
    return value.strip().lower() not in _OFF


def is_one(root: Files[Any]) -> bool:
    """Tell whether a filesystem has systems of ostree, and no other."""
    return not _ORDINARY.intersection(root.names('/')) and any(
        any(root.names(mark)) for mark in MARKS
    )


class BlockFiles:
    """Files of a filesystem, and of another one on its /boot."""

    def __init__(
        self, root: Files[Any], boot: Files[Any] | None = None
    ) -> None:
        self._root = root
        self._boot = boot

    def names(self, path: str) -> Iterable[str]:
        """List a directory; nothing if it is none."""
        files, _, path = self._at(path)
        return files.names(path)

    def head(self, path: str, count: int) -> bytes:
        """Read what a file begins with; nothing if there is none."""
        files, _, path = self._at(path)
        return files.head(path, count) or b''

    def real(self, path: str) -> str | None:
        """Resolve a path; None if it leads nowhere."""
        files, top, path = self._at(path)
        found = files.find(path)
        return None if found is None else top + found.path

    def changed(self, path: str) -> int:
        """Tell when the content of a file was changed; 0 if it is gone."""
        files, _, path = self._at(path)
        found = files.find(path)
        return 0 if found is None else int(found.exact_times[2])

    def _at(self, path: str) -> tuple[Files[Any], str, str]:
        if self._boot is not None and path.startswith('/boot/'):
            return self._boot, '/boot', path.removeprefix('/boot')
        return self._root, '', path


class _TreeFiles:
    """Files of a tree in the making."""

    def __init__(self, tree: file_tree.FileTree) -> None:
        self._tree = tree

    def names(self, path: str) -> Iterable[str]:
        node = self._find(path)
        return () if node is None else sorted(map(os.fsdecode, node.children))

    def head(self, path: str, count: int) -> bytes:
        real = self.real(path)
        if real is None:
            return b''
        return self._tree.kept(os.fsencode(real).strip(b'/'))[:count]

    def real(self, path: str) -> str | None:
        with contextlib.suppress(nodes.PathError):
            # What is the last name is not followed.
            found = self._tree.nodes.resolved(os.fsencode(path) + b'/-')[:-1]
            if self._tree.nodes.find(found) is not None:
                return '/' + os.fsdecode(found.rstrip(b'/'))
        return None

    def changed(self, path: str) -> int:
        node = self._find(path)
        return 0 if node is None else node.mtime or 0

    def _find(self, path: str) -> nodes.Node | None:
        real = self.real(path)
        return None if real is None else self._tree.nodes.find(_bytes(real))


def _bytes(path: str) -> bytes:
    return os.fsencode(path).strip(b'/')


def settle(tree: file_tree.FileTree) -> None:
    """Make the deployment in a tree its root, if there is one.

    :raises SourceError: as :func:`find` does.
    """
    found = find(_TreeFiles(tree), tree.name)
    if found is None:
        return
    path = _bytes(found.path)
    if found.boot is not None:
        boot = _bytes(found.boot)
        directory = tree.nodes.find(boot)
        for name in list(directory.children if directory else ()):
            tree.move(boot + b'/' + name, path + b'/boot/' + name)
    if tree.nodes.find(_bytes(found.var)) is not None:
        tree.move(_bytes(found.var), path + b'/var')
    tree.reroot(path)
    # That of a deployment is sealed: only ostree was to change it.
    tree.nodes.root.flags &= ~attributes.IMMUTABLE
    link = tree.nodes.find(b'tmp')
    if link is not None and link.target == b'sysroot/tmp':
        tree.add(b'sysroot/tmp', nodes.Node(stat.S_IFDIR | 0o1777))
    bootc = tree.nodes.find(b'usr/lib/bootc') is not None
    shown = errors.shown(posixpath.basename(found.path))
    kind = 'bootc' if bootc else 'ostree'
    words = [f'its root filesystem is the deployment {shown} of {kind}']
    if found.others:
        words.append(f'other deployments are left out: {found.others}')
    if found.composed:
        words.append(
            'composefs, which keeps a running system from being changed, is '
            'not used'
        )
    _LOG.warning('%s: %s', tree.name, '; '.join(words))
