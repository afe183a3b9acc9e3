# SPDX-License-Identifier: Apache-2.0

"""Small root filesystems, made by mke2fs of what a test writes."""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
import os
import pathlib
import subprocess
import tempfile

_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclasses.dataclass(frozen=True)
class Program:
    """A file that may be run."""

    content: bytes


#: What a path is: a file with this content, one that may be run, a link, or
#: an empty directory.
Content = bytes | Program | Link | None

Files = Mapping[str, Content]


def image(
    directory: pathlib.Path,
    files: Files,
    *,
    options: Iterable[str] = ('-t', 'ext4'),
    size: int = 16 * _MIB,
    name: str = 'root.img',
    edit: Iterable[str] = (),
) -> pathlib.Path:
    """Make a filesystem.

    :param directory: where to.
    :param files: by their paths.
    :param options: for mke2fs.
    :param size: bytes.
    :param edit: commands for debugfs.
    """
    path = directory / name
    with path.open('wb') as file:
        file.truncate(size)
    with tempfile.TemporaryDirectory(dir=directory) as tree:
        write(pathlib.Path(tree), files)
        subprocess.run(
            ['/usr/sbin/mke2fs', '-q', '-F', '-d', tree, *options, path],
            check=True,
            capture_output=True,
        )
    if os.geteuid():
        # Files of others than root would be a finding.
        there = {'.'}.union(
            *(map(str, pathlib.Path(n).parents) for n in files)
        )
        paths = sorted(f'"/{name}" ' for name in there.union(files))
        edit = (*(f'sif {path} uid 0' for path in paths), *edit)
    if edit:
        subprocess.run(
            ['/usr/sbin/debugfs', '-w', '-f', '-', path],
            input='\n'.join(edit).encode(),
            check=True,
            capture_output=True,
        )
    return path


def write(tree: pathlib.Path, files: Files) -> None:
    """Write files into a directory."""
    for name, content in files.items():
        path = tree / name.lstrip('/')
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.symlink_to(content.target)
        elif content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, Program):
            path.write_bytes(content.content)
            path.chmod(0o755)
        else:
            path.write_bytes(content)
