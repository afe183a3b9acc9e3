# SPDX-License-Identifier: Apache-2.0

"""What the tests of shrinking have in common."""

import atexit
from collections.abc import Callable, Iterator, Sequence
import contextlib
import errno
import functools
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from typing import Any, TypeVar

import fixtures

import amiclient

from amiclient.ext import shrink
from amiclient import process
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient.progress import Task
from amiclient.source import probe
from amiclient.tests import base
from amiclient.tests.oracle import disk
from amiclient.tests.oracle import exttree
from amiclient.tests.shapes import shapes
from amiclient.tests.shapes import tree

#: What tests plant, and look for.
SECRET = b'the-combination-of-the-vault'

#: Makes mke2fs and debugfs do the same each time.
ENVIRONMENT = {'E2FSPROGS_FAKE_TIME': '1700000000'}

_CHUNK = 1 << 20
_ZEROS = bytes(_CHUNK)
_ROOT = pathlib.Path(amiclient.__file__).parents[1]
_MIB = 1 << 20
_MEMORY = '/dev/shm'

_T = TypeVar('_T', bound=type)


def for_each(*names: str) -> Callable[[_T], _T]:
    """Make each method ``check_x(name)`` of a class one test for each name."""

    def decorate(cls: _T) -> _T:
        for check in [n for n in dir(cls) if n.startswith('check_')]:
            for name in names:
                about = check.removeprefix('check_')
                words = re.sub('[^a-z0-9]', '_', name.lower())
                title = f'test_{about}_{words}'
                setattr(cls, title, _bound(check, name, title))
        return cls

    return decorate


def _bound(check: str, name: str, title: str) -> Callable[[Any], None]:
    def test(self: Any) -> None:
        getattr(self, check)(name)

    test.__name__ = title
    return test


def request(image: pathlib.Path, **rest: Any) -> shrink.ShrinkRequest:
    """Ask for an image to be shrunk.

    No result of a test has to survive a power failure, unless it says so.
    """
    return shrink.ShrinkRequest(
        image=probe.open_root(image),
        **{'durable': False, **base.with_options(rest)},
    )


def shrunk(
    image: pathlib.Path,
    *,
    progress: Progress = QUIET,
    cancel: threading.Event | None = None,
    **rest: Any,
) -> shrink.Shrunk:
    """Plan, and execute."""
    planned = shrink.plan(request(image, **rest))
    return shrink.execute(planned, progress=progress, cancel=cancel)


def shape(name: str, directory: pathlib.Path) -> pathlib.Path:
    """Make one of the shapes, or copy it where it was made before."""
    image = directory / f'{name}.img'
    process.run(['cp', '--sparse=always', _made(name), image], access=None)
    return image


@functools.cache
def _made(name: str) -> pathlib.Path:
    return shapes.make(name, _directory())


@functools.cache
def _directory() -> pathlib.Path:
    directory = tempfile.mkdtemp(prefix='amiclient-shapes-', dir=memory())
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return pathlib.Path(directory)


def memory() -> str | None:
    """Tell where there is a disk in memory, if it is large enough.

    What makes many files is twice as quick there.
    """
    try:
        status = os.statvfs(_MEMORY)
    except FileNotFoundError:
        return None
    large = status.f_bavail * status.f_frsize > 4 << 30
    return _MEMORY if large and os.access(_MEMORY, os.W_OK) else None


def small(
    directory: pathlib.Path,
    *,
    size: int = 24 * _MIB,
    features: str = 'has_journal',
    name: str = 'small.img',
    data: int = 0,
    options: Sequence[str] = (),
) -> pathlib.Path:
    """Make a small filesystem with a bit of everything in it, quickly.

    It is made once, and copied from then on.

    :param features: to add to those that every ext4 has.
    :param data: bytes of random data in one more file.
    """
    made = _small(size, features, data, tuple(options))
    image = directory / name
    process.run(['cp', '--sparse=always', made, image], access=None)
    return image


@functools.cache
def _small(
    size: int, features: str, data: int, options: tuple[str, ...]
) -> pathlib.Path:
    image = _directory() / f'small-{_small.cache_info().misses}.img'
    with tempfile.TemporaryDirectory(dir=_directory()) as directory:
        source = pathlib.Path(directory, 'tree')
        source.mkdir()
        tree.sample(source, random.Random(1))
        if data:
            rng = random.Random(2)
            with (source / 'data').open('wb') as file:
                for start in range(0, data, _CHUNK):
                    file.write(rng.randbytes(min(_CHUNK, data - start)))
        process.run(
            [
                'mke2fs', '-q', '-F', '-t', 'ext4', '-b', '1024', '-m', '0',
                '-O', 'none,sparse_super,large_file,filetype,resize_inode,'
                'dir_index,ext_attr,extent,huge_file,flex_bg,metadata_csum,'
                f'64bit,dir_nlink,extra_isize,{features}',
                '-U', 'f0a1c3de-5b77-4c1e-9a60-2d1e8b7c9f10',
                '-E', 'hash_seed=f0a1c3de-5b77-4c1e-9a60-2d1e8b7c9f10,'
                'root_owner=0:0',
                *options, '-d', source, image, f'{size // 1024}k',
            ],
            env=ENVIRONMENT,
            access=None,
        )  # fmt: skip
    return image


def pieces(path: pathlib.Path) -> Iterator[tuple[int, bytes]]:
    """Read what is not zeros of a file.

    :returns: offsets and data, the same however holes are laid out.
    """
    with path.open('rb') as file:
        size = file.seek(0, os.SEEK_END)
        position = 0
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                # A block device.
                start = position
            position = max(position, start - start % _CHUNK)
            data = os.pread(file.fileno(), _CHUNK, position)
            if data != _ZEROS[: len(data)]:
                yield position, data
            position += len(data)


def digest(path: pathlib.Path) -> str:
    """Tell a digest of a file's content and size, holes being zeros."""
    found = hashlib.sha256(str(path.stat().st_size).encode())
    for offset, data in pieces(path):
        found.update(f'{offset} {len(data)} '.encode())
        found.update(data)
    return found.hexdigest()


def holds(path: pathlib.Path, secret: bytes = SECRET) -> bool:
    """Tell whether something is anywhere in a file."""
    end, last = 0, b''
    for offset, data in pieces(path):
        before = last if offset == end else b''
        if secret in before + data:
            return True
        end, last = offset + len(data), data[1 - len(secret) :]
    return False


def is_sound(image: pathlib.Path) -> bool:
    """Tell whether e2fsck has nothing to object to."""
    result = process.run(
        ['e2fsck', '-f', '-n', image], ok=range(256), access=None
    )
    return result.status == 0


def header(image: pathlib.Path) -> dict[str, str]:
    """Tell what dumpe2fs says of a whole filesystem, by name."""
    text = process.run(['dumpe2fs', '-h', image], access=None).text
    pairs = (line.split(':', 1) for line in text.splitlines() if ':' in line)
    return {name.strip(): value.strip() for name, value in pairs}


def free_runs(image: pathlib.Path) -> list[tuple[int, int]]:
    """Tell the free blocks as dumpe2fs does, in runs."""
    text = process.run(['dumpe2fs', image], access=None).text
    block, cluster = (
        re.search(rf'^{unit} size: +(\d+)', text, re.MULTILINE)
        for unit in ('Block', 'Cluster')
    )
    # Of a run of clusters it tells the first block of the last one.
    ratio = int(cluster[1]) // int(block[1]) if cluster and block else 1
    runs: list[tuple[int, int]] = []
    for line in re.findall(r'^  Free blocks: (.+)$', text, re.MULTILINE):
        for first, last in re.findall(r'(\d+)(?:-(\d+))?', line):
            start, end = int(first), int(last or first) + ratio
            if runs and runs[-1][1] == start:
                runs[-1] = runs[-1][0], end
            else:
                runs.append((start, end))
    return runs


def journal_blocks(image: pathlib.Path) -> list[int]:
    """Tell the blocks of a journal, but for its superblock."""
    with disk.Filesystem(image) as filesystem:
        return [
            run.physical + index
            for run in filesystem.runs(filesystem.inode(8))
            for index in range(run.count)
            if run.logical + index
        ]


def inode_size(image: pathlib.Path, number: int) -> int:
    """Tell the bytes of a file by its inode; 0 if there is no such inode."""
    with disk.Filesystem(image) as filesystem:
        return filesystem.inode(number).size if number else 0


def overwrite(image: pathlib.Path, offset: int, data: bytes) -> None:
    """Write into the middle of a file."""
    with image.open('r+b') as file:
        file.seek(offset)
        file.write(data)


def differences(
    before: pathlib.Path, after: pathlib.Path, ignore: Sequence[str] = ()
) -> list[str]:
    """Tell how two images differ in what they hold."""
    return exttree.diff_trees(
        exttree.read_tree(before), exttree.read_tree(after), ignore=ignore
    )


def variable(name: str, value: str) -> fixtures.Fixture:
    """Set a variable of the environment."""
    return fixtures.EnvironmentVariable(name, value)


class Watch:
    """Someone who watches, and may do something at the beginning of tasks."""

    def begun(self, description: str) -> None:
        """A task has begun."""

    @contextlib.contextmanager
    def task(
        self, description: str, total: int | None = None
    ) -> Iterator[Task]:
        self.begun(description)
        with QUIET.task(description, total) as task:
            task.task = self.task
            yield task


#: Shrinks an image in a process of its own, and tells what it is about. Its
#: arguments: image, and what to call shrink.ShrinkRequest with, as JSON.
_CHILD = """
import contextlib, json, pathlib, resource, signal, sys
from amiclient import errors, interrupts, progress, units
from amiclient.ext import shrink
from amiclient.source import probe

class Loud:
    @contextlib.contextmanager
    def task(self, description, total=None):
        global stays
        print(description, flush=True)
        with progress.QUIET.task(description, total) as task:
            task.task = self.task
            yield task
        if description == stays:
            stays = ''
            sys.stdin.readline()

def peak():
    for line in open('/proc/self/status'):
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) * 1024

# What nohup and shells in the background leave ignored is not ignored here.
signal.signal(signal.SIGINT, signal.default_int_handler)
rest = json.loads(sys.argv[2])
for key in ('output', 'work_directory'):
    if key in rest:
        rest[key] = pathlib.Path(rest[key])
limit, stays = rest.pop('limit'), rest.pop('stays')
journal = rest.pop('journal', units.KEEP)
rest['options'] = units.FilesystemOptions(journal=journal)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
before = peak()
try:
    with interrupts.raised():
        image = probe.open_root(pathlib.Path(sys.argv[1]))
        planned = shrink.plan(shrink.ShrinkRequest(image=image, **rest))
        print('Planned', flush=True)
        sys.stdin.readline()
        done = shrink.execute(planned, progress=Loud())
except interrupts.Interrupted as error:
    print('Interrupted', flush=True)
    sys.exit(error.status)
except errors.AmiError as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(1)
print('Done', done.size, before, peak(), flush=True)
"""


def child(
    image: pathlib.Path,
    *,
    waits: bool = False,
    stays: str = '',
    limit: int = 0,
    **rest: Any,
) -> subprocess.Popen[str]:
    """Shrink an image in another process.

    :param waits: whether it waits for a line, once it has its plan.
    :param stays: a task; at its end, it waits for a line, too.
    :param limit: bytes above which it can write no file, unless 0.
    """
    words: dict[str, Any] = {
        key: str(value) if isinstance(value, pathlib.Path) else value
        for key, value in rest.items()
    }
    words |= {'limit': limit, 'stays': stays}
    started = subprocess.Popen(
        [sys.executable, '-c', _CHILD, str(image), json.dumps(words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(_ROOT)},
    )
    if not waits and started.stdin:
        started.stdin.write('\n')
        started.stdin.flush()
    return started
