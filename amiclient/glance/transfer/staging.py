# SPDX-License-Identifier: Apache-2.0

"""A hidden folder for what is on its way into an archive.

It lies where the archive will be, under a name that a second run finds again,
to go on with what is in it. Others who may write there can foresee that name.
So nothing is put into a folder, or taken from one, unless it is the user's
own, and nobody else can write to it; and where others could rename it later,
the path is one that leads to the open folder itself, below ``/proc``
(proc(5)), as in :mod:`amiclient.scratch`.

One run at a time has it: what it packs, and then removes, must not be what
another has just found. A lock in the folder says so. It is a file, for over
NFS a lock takes the right to write, which nobody has to a folder; and it ends
with its process, however that ends.
"""

import contextlib
import os
import pathlib
import stat
import types
from typing import Self

from amiclient import errors
from amiclient import files
from amiclient import interrupts
from amiclient import scratch

#: Is in the folder while a run has it.
LOCK = '.lock'

#: As it is, whatever it is: to look at it takes no rights, and blocks never.
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_WRITE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC

#: How often a folder that vanishes while it is being opened is tried again.
_TRIES = 5

_HINT = 'remove it, or choose another --directory'


class Folder:
    """A folder that only we may look into, and that may have been before.

    Used as a context manager, it stays at the end unless it is empty: see
    :meth:`clear`. Errors that pass by tell its name, not the path.

    :param folder: the folder that it is in.
    :param name: the name that it has there.
    :raises AmiError: if it cannot be made, what has its name is not to be
        trusted, or another process has it.
    """

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self._name = name
        self._shown = folder / name
        self._lock = -1
        try:
            # A signal in the middle would leave something nobody knows of.
            with files.told(folder), interrupts.held():
                exposed = scratch.is_exposed(folder)
                self._parent = os.open(
                    folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                )
                try:
                    self._descriptor, self._lock = self._open()
                except BaseException:
                    os.close(self._parent)
                    raise
        except BaseException:
            if self._lock >= 0:
                self.__exit__()
            raise
        #: How to get at it.
        self.path = self._shown
        itself = pathlib.Path(f'/proc/{os.getpid()}/fd/{self._descriptor}')
        if exposed and itself.exists():
            self.path = itself

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: types.TracebackType | None = None,
    ) -> None:
        with interrupts.held():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(LOCK, dir_fd=self._descriptor)
            self._remove_empty()
            for descriptor in (self._lock, self._descriptor, self._parent):
                os.close(descriptor)
        if isinstance(error, errors.AmiError):
            error.rename(self.path, self._shown)

    def clear(self) -> None:
        """Remove all files in it, so that it goes as well at the end."""
        # Btrfs lists, by a descriptor, what was there when it was opened.
        current = os.open('.', _READ, dir_fd=self._descriptor)
        try:
            for name in {*os.listdir(current)} - {LOCK}:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=current)
        finally:
            os.close(current)

    def _remove_empty(self) -> None:
        # If there is something to go on with, it stays; and so does whatever
        # others may have given its name by now.
        with contextlib.suppress(OSError):
            os.rmdir(self._name, dir_fd=self._parent)

    def _open(self) -> tuple[int, int]:
        """Open it, and make it if it is not there; lock it.

        :returns: descriptors of the folder, and of the lock.
        """
        for _ in range(_TRIES):
            try:
                os.mkdir(self._name, 0o700, dir_fd=self._parent)
                made = True
            except FileExistsError:
                made = False
            try:
                found = os.open(self._name, _LOOK, dir_fd=self._parent)
            except FileNotFoundError:
                # Another run has finished, and removed it.
                continue
            try:
                descriptor = self._judged(found)
            except errors.AmiError:
                if made:
                    # On a filesystem that knows no owners, or no modes.
                    self._remove_empty()
                raise
            finally:
                os.close(found)
            try:
                lock = self._locked(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            if lock is not None:
                return descriptor, lock
            os.close(descriptor)
        raise errors.AmiError(
            f'{self._shown} is changed by others all the time',
            hint='choose another --directory',
        )

    def _judged(self, found: int) -> int:
        """Open what was found for reading, if it is to be trusted.

        :raises AmiError: if it is not.
        """
        objection = _objection(os.fstat(found))
        if objection is not None:
            raise errors.AmiError(
                f'{self._shown}, where what is fetched would be kept, '
                f'{objection}',
                hint=_HINT,
            )
        # The same one, whatever has its name by now.
        descriptor = os.open('.', _READ, dir_fd=found)
        # One of a former version may be read by others.
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, 0o700)
        return descriptor

    def _locked(self, descriptor: int) -> int | None:
        """Lock it.

        :returns: a descriptor that holds the lock; None if the run that had
            it has finished just now, and removed it.
        :raises AmiError: if another process has it.
        """
        try:
            lock = os.open(LOCK, _WRITE, 0o600, dir_fd=descriptor)
        except FileNotFoundError:
            return None
        try:
            if scratch.locked(lock) is False:
                raise errors.AmiError(
                    f'{self._shown.parent}: another process is saving the '
                    'same there',
                    hint='wait for it, or end it',
                )
            found = os.stat(LOCK, dir_fd=descriptor, follow_symlinks=False)
            if os.path.samestat(found, os.fstat(lock)):
                return lock
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        return None


def _objection(status: os.stat_result) -> str | None:
    """Tell why something is not to be trusted: a clause; None if it is."""
    if stat.S_ISLNK(status.st_mode):
        return 'is a symbolic link'
    if not stat.S_ISDIR(status.st_mode):
        return 'is no directory'
    if status.st_uid != os.geteuid():
        return 'belongs to another user'
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return 'can be written to by others'
    return None
