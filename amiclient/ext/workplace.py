# SPDX-License-Identifier: Apache-2.0

"""Where a copy of a filesystem can be made."""

from collections.abc import Iterator
import contextlib
import os
import pathlib

from amiclient import errors
from amiclient import scratch

#: file-hierarchy(7): what is large goes to /var/tmp, for /tmp is in memory on
#: many systems.
_LARGE = pathlib.Path('/var/tmp')  # noqa: S108 - temporary.py makes files
_SMALL = pathlib.Path('/tmp')  # noqa: S108


def candidates(
    chosen: pathlib.Path | None, source: pathlib.Path | None
) -> tuple[pathlib.Path, ...]:
    """Tell the folders that a copy may be made in, the best one first.

    What the user chose is the only one. Else it is ``$TMPDIR``, /var/tmp,
    the folder of the source and /tmp, as far as they can be written to.

    :param chosen: what the user chose; None for the usual ones.
    :param source: the file or device that is copied; None if it is not a
        local one.
    :raises UsageError: if the one that was chosen cannot be written to.
    """
    if chosen is not None:
        if not chosen.is_dir():
            raise errors.UsageError(
                f'{chosen} is no folder',
                hint='create it, or name another by --work-directory',
            )
        if not _is_writable(chosen):
            raise errors.UsageError(
                f'{chosen} cannot be written to',
                hint='name another by --work-directory',
            )
        return (chosen,)
    places = [_LARGE, _SMALL]
    if source is not None and source.is_file():
        # Not beside a device: /dev is in memory.
        places.insert(1, source.resolve().parent)
    wanted = os.environ.get('TMPDIR')
    if wanted:
        places.insert(0, pathlib.Path(wanted).absolute())
    return tuple(place for place in dict.fromkeys(places) if _usable(place))


def roomiest(
    chosen: pathlib.Path | None, source: pathlib.Path | None, lack: str
) -> pathlib.Path:
    """Choose the one of :func:`candidates` that has the most room.

    :param lack: what to say if there is none.
    :raises NoSpaceError: if there is none.
    :raises UsageError: if the one that was chosen cannot be written to.
    """
    places = candidates(chosen, source)
    if not places:
        raise errors.NoSpaceError(lack, hint='name one with --work-directory')
    return max(places, key=scratch.room)


@contextlib.contextmanager
def folder(
    chosen: pathlib.Path | None, source: pathlib.Path | None, lack: str
) -> Iterator[pathlib.Path]:
    """Provide a private folder where there is most room.

    What runs that were killed have left there is removed first. The
    parameters and errors are those of :func:`roomiest`.
    """
    place = roomiest(chosen, source, lack)
    scratch.sweep(place)
    with scratch.Folder(place) as made, named(made.path, place):
        yield made.path


@contextlib.contextmanager
def named(private: pathlib.Path, place: pathlib.Path) -> Iterator[None]:
    """Say which folder has no room, rather than a private one in it.

    :raises NoSpaceError: with what the user can do about it.
    :raises TooLargeError: likewise.
    """
    try:
        yield
    except (errors.NoSpaceError, errors.TooLargeError) as error:
        names = str(private), str(private.resolve())
        if error.subject in names:
            error.subject = str(place)
            if isinstance(error, errors.NoSpaceError):
                error.hint = (
                    'make room there, or name another directory by '
                    '--work-directory'
                )
        raise


def _usable(place: pathlib.Path) -> bool:
    return place.is_dir() and _is_writable(place)


def _is_writable(place: pathlib.Path) -> bool:
    # This knows of read-only filesystems, too, and of access control lists.
    return os.access(place, os.W_OK | os.X_OK)
