# SPDX-License-Identifier: Apache-2.0

"""The files that a filesystem is made of, whatever they are in."""

from collections.abc import Callable
import contextlib
import dataclasses
import pathlib
from typing import Protocol

from amiclient import errors
from amiclient.progress import Task
from amiclient.source import directory
from amiclient.source import file_tree
from amiclient.source import live
from amiclient.source import oci
from amiclient.source import opening
from amiclient.source import probe
from amiclient.source import streams
from amiclient.source import tar

_DIRECTORY = 'a directory'

Reopen = Callable[[], contextlib.AbstractContextManager[streams.Stream]]


class Origin(Protocol):
    """Files that a filesystem can be made of."""

    @property
    def kind(self) -> str:
        """What they are in, with an article."""

    @property
    def format(self) -> str:
        """What that is, as inspect calls it."""

    @property
    def size(self) -> int:
        """Bytes that are read of it."""

    def fill(self, tree: file_tree.FileTree, task: Task) -> None:
        """Take all of them.

        :raises SourceError: if they cannot be read, or be in a filesystem.
        """


def found(path: pathlib.Path) -> Origin:
    """Take a path for the directory, or the archive, that it is.

    :raises SourceError: if it is neither.
    """
    kind = opening.special(path)
    if kind == _DIRECTORY:
        return DirectoryOrigin(path)
    if kind is not None:
        raise errors.SourceError(
            f'{kind}: a directory or tar archive is needed',
            subject=errors.shown(path),
        )
    return ArchiveOrigin(path)


@dataclasses.dataclass(frozen=True)
class DirectoryOrigin:
    """A directory."""

    path: pathlib.Path
    kind: str = _DIRECTORY
    format: str = 'files'

    @property
    def size(self) -> int:
        """Bytes of the files in it."""
        return directory.size(self.path)

    def fill(self, tree: file_tree.FileTree, task: Task) -> None:
        """Take all that is in it."""
        directory.fill(self.path, tree, task)


@dataclasses.dataclass(frozen=True)
class ArchiveOrigin:
    """A tar archive.

    :param strip: how many directories names lose at their beginning.
    :param stream: of it, if it is open already.
    :param reopen: opens it, if it is not.
    """

    path: pathlib.Path
    strip: int = 0
    stream: streams.Stream | None = None
    reopen: Reopen | None = None
    format: str = 'files'
    kind: str = 'an archive'

    @property
    def size(self) -> int:
        """Bytes of its file."""
        return self.path.stat().st_size

    def fill(self, tree: file_tree.FileTree, task: Task) -> None:
        """Take all that is in it."""
        with contextlib.ExitStack() as stack:
            stream = self.stream
            if stream is None:
                stream = stack.enter_context(
                    self.reopen()
                    if self.reopen
                    else streams.opened(self.path, wanted='a tar archive')
                )
            if not probe.is_tar(stream.peek(probe.TAR_BLOCK)):
                raise errors.SourceError(
                    f'{probe.identify(self.path)}: a directory or tar '
                    'archive is needed',
                    subject=tree.name,
                    hint='openstack ami upload takes filesystems and disks',
                )
            # sqfs2tar knows no holes.
            punch = self.format == 'squashfs'
            tar.fill(stream, tree, task, strip=self.strip, punch=punch)


@dataclasses.dataclass(frozen=True)
class OverlayOrigin:
    """Filesystems of a live medium, over each other as overlayfs has them.

    :param layers: where they are, the lowest first.
    :param directory: private, for one at a time.
    :param name: what to call it in errors.
    """

    layers: tuple[opening.Slice, ...]
    directory: pathlib.Path
    name: str
    kind: str = 'a live medium'
    format: str = 'squashfs'

    @property
    def size(self) -> int:
        """Bytes of the layers, as they are stored."""
        return sum(layer.size or 0 for layer in self.layers)

    def fill(self, tree: file_tree.FileTree, task: Task) -> None:
        """Apply one layer after the other."""
        for layer in self.layers:
            path = self.directory / 'layer.squashfs'
            layer.copy(path)
            with live.opened(path, self.name) as stream:
                tar.fill(stream, tree, task, overlay=True, punch=True)
            path.unlink()


@dataclasses.dataclass(frozen=True)
class LayersOrigin:
    """The layers of a container image, over each other.

    :param directory: private, for one layer at a time.
    :param name: what to call it in errors.
    """

    image: oci.ContainerImage
    directory: pathlib.Path
    name: str
    kind: str = 'a container image'
    format: str = 'container image'

    @property
    def size(self) -> int:
        """Bytes of the layers, as they are stored."""
        return sum(layer.slice.size or 0 for layer in self.image.layers)

    def fill(self, tree: file_tree.FileTree, task: Task) -> None:
        """Apply one layer after the other."""
        for layer in self.image.layers:
            path = self.directory / 'layer'
            oci.copy(layer, path, self.name)
            with oci.opened(layer, path, self.name) as stream:
                tar.fill(stream, tree, task, layer=True)
            path.unlink()
