# SPDX-License-Identifier: Apache-2.0

"""Downloads that are kept for the next run, by their hashes.

Each has a directory, named by its hash, in which it has the name that it had
on its server. A run that uses one holds a lock of the directory, shared with
others; to remove it takes the lock for oneself (flock(2)). It ends with its
process, however that ends.

Nobody else may write there, for what is opened must be what was verified.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import time

from amiclient import errors
from amiclient.glance.transfer import image_data
from amiclient import scratch
from amiclient import staging
from amiclient import units

#: The variable with the bytes that are kept, and what that is without it.
SIZE = 'AMICLIENT_CACHE_SIZE'
_SIZE = '10G'

#: Seconds until what another run is just removing is looked at again.
_PAUSE = 0.05

#: Digits of a hash in the name of its directory: the whole is compared.
_DIGITS = 40

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def directory() -> pathlib.Path:
    """Find the directory (XDG Base Directory Specification), and make it.

    :raises AmiError: if it cannot be made, or others can write to it.
    """
    given = os.environ.get('XDG_CACHE_HOME', '')
    home = pathlib.Path(given)
    try:
        # Such a path has no effect, says the specification.
        if not home.is_absolute():
            home = pathlib.Path.home() / '.cache'
        made = home / 'amiclient' / 'downloads'
        made.parent.mkdir(0o700, parents=True, exist_ok=True)
        made.mkdir(0o700, exist_ok=True)
        objection = staging.distrusted(made.lstat())
    except (OSError, RuntimeError) as error:
        why = getattr(error, 'strerror', None) or str(error)
        raise errors.AmiError(
            f'the directory for downloads cannot be created: {why}',
            subject=home,
            hint='choose another with the variable XDG_CACHE_HOME',
        ) from error
    if objection is not None:
        raise errors.AmiError(
            f'{made}, the directory for downloads, {objection}',
            hint='choose another with the variable XDG_CACHE_HOME',
        )
    return made


def limit() -> int:
    """Return the bytes that are kept, as the user says.

    :raises UsageError: if that is no size.
    """
    try:
        return units.parse_size(os.environ.get(SIZE) or _SIZE)
    except errors.UsageError as error:
        error.subject = SIZE
        raise


@contextlib.contextmanager
def entry(
    place: pathlib.Path, digest: image_data.Digest, name: str
) -> Iterator[pathlib.Path]:
    """Use what is, or will be, kept under a hash.

    :param name: what it is to be called.
    :returns: its path, which nobody removes meanwhile.
    """
    made = place / f'{digest.algorithm}-{digest.value[:_DIGITS]}'
    while True:
        made.mkdir(0o700, exist_ok=True)
        try:
            descriptor = os.open(made, _DIRECTORY)
        except FileNotFoundError:
            # Another run has just removed it.
            continue
        try:
            if scratch.locked(descriptor):
                _name(made, name)
            shared = scratch.locked(descriptor, shared=True)
            if shared is not False and scratch.is_named(made, descriptor):
                # The one that was not used for the longest time goes first.
                os.utime(descriptor)
                yield made / name
                return
        finally:
            os.close(descriptor)
        time.sleep(_PAUSE)


def _name(made: pathlib.Path, name: str) -> None:
    """Have what another address had under another name called like this."""
    found = [each for each in made.iterdir() if not each.name.startswith('.')]
    if found and made / name not in found:
        found[0].rename(made / name)


def trim(place: pathlib.Path, room: int = 0) -> None:
    """Remove what was not used for the longest time, as far as it takes.

    :param room: bytes that are going to be kept, too.
    """
    sizes = {made: _size(made) for made in place.iterdir()}
    too_much = sum(sizes.values()) + room - limit()
    for made in sorted(sizes, key=_used):
        if too_much <= 0:
            return
        if _remove(made):
            too_much -= sizes[made]


def _remove(made: pathlib.Path) -> bool:
    """Remove one, unless it is in use."""
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        descriptor = os.open(made, _DIRECTORY)
        stack.callback(os.close, descriptor)
        if scratch.locked(descriptor) is not False:
            shutil.rmtree(made)
            return True
    return False


def _used(made: pathlib.Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return made.stat().st_mtime
    return 0.0


def _size(made: pathlib.Path) -> int:
    size = 0
    with contextlib.suppress(OSError):
        for each in made.iterdir():
            size += each.lstat().st_blocks * 512
    return size
