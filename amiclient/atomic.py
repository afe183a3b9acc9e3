# SPDX-License-Identifier: Apache-2.0

"""Files that are there completely or not at all."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import pathlib
import stat
import struct
import sys
import threading

from amiclient import errors
from amiclient import locks
from amiclient import scratch

#: linux/fs.h: FS_IOC_GETFLAGS, _IOR('f', 1, long), on most machines; and
#: what chattr(1) calls FS_IMMUTABLE_FL and FS_APPEND_FL.
_GETFLAGS = 0x80006601 | struct.calcsize('l') << 16
_FIXED = ((0x10, 'immutable', 'i'), (0x20, 'append-only', 'a'))

_STATUS = pathlib.Path('/proc/self/status')
_UMASK = threading.Lock()

#: What the user's umask was, while ours is another one.
_users: list[int] = []


class Output:
    """A file in the making: beside its target, and private, until kept.

    Used as a context manager, it is removed at the end unless it was kept.

    :param target: the path that it is to have. What is there already is
        replaced, not written to; if it is a symbolic link, it is the link.
    :raises AmiError: if its directory is missing or cannot be written to.
    :raises UsageError: if something else than a file has the name.
    :raises BusyError: if another process reads or changes what has it.
    """

    def __init__(self, target: pathlib.Path) -> None:
        refuse_special(target)
        refuse_fixed(target, target.parent)
        self.target = target
        with contextlib.ExitStack() as stack:
            stack.enter_context(replacing(target))
            with scratch.explained(target.parent):
                self._temporary = scratch.File(target.parent, target.name)
            self._stack = stack.pop_all()
        #: How to get at it; its name may be another.
        self.path = self._temporary.path

    def __enter__(self) -> 'Output':
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self._temporary.__exit__()

    def adopt(self, path: pathlib.Path) -> bool:
        """Take a temporary file, all of whose data is there, for it.

        :returns: false if it has to be copied, because it is on another
            filesystem. Else nothing is there afterwards.
        """
        try:
            self._temporary.adopt(path)
        except OSError as error:
            # As between two mounts of one filesystem.
            if error.errno != errno.EXDEV:
                raise
            return False
        return True

    def empty(self) -> None:
        os.truncate(self.path, 0)

    def keep(
        self, like: pathlib.Path | None = None, *, durable: bool = True
    ) -> None:
        """Give the file its name, once all of its data is there.

        :param durable: false if it is for this process alone: it need not
            survive a power failure, and nobody else gets at it.
        :param like: a file whose owner, mode and extended attributes (and
            so its access control list) it gets; else it gets the mode of the
            file that it replaces, if that is the user's own, or what the
            umask leaves.
        :raises AmiError: if somebody put another file in its place.
        :raises BusyError: if another process reads or changes what it is to
            replace.
        """
        with _synced(self.path, durable=durable):
            if like is not None:
                _imitate(like, self.path)
            elif durable:
                os.chmod(self.path, _mode(self.target))
        # Another process may have put one there since.
        with replacing(self.target), scratch.explained(self.target.parent):
            self._temporary.rename(self.target.name)
        if durable:
            # A directory may take files, and yet not let itself be read.
            with contextlib.suppress(PermissionError):
                sync(self.target.parent)


def replacing(
    target: pathlib.Path,
) -> contextlib.AbstractContextManager[object]:
    """Let nobody read or change what a file is going to take the place of.

    :raises BusyError: if another process does.
    """
    if target.is_symlink():
        # What it leads to stays as it is.
        return contextlib.nullcontext()
    return locks.changing(target)


def refuse_special(target: pathlib.Path) -> None:
    """Make sure that a file may have a name.

    A file would take the place of a device's node: of /dev/null for all
    programs, of a disk without a byte on it. What a symbolic link leads to
    counts as well, for /dev/stdout is one; and where that leads to a file, it
    would be the link that is gone, for all programs.

    :raises UsageError: if a directory, a device or the like has it.
    """
    place = pathlib.Path(os.path.realpath(target.parent))
    if (
        target == pathlib.Path('-')
        or place == pathlib.Path('/dev')
        or place.is_relative_to('/proc')
    ) and not target.is_block_device():
        raise errors.UsageError(
            'not a regular file',
            subject=target,
            hint='name a file; what is written has to be verified',
        )
    if target.is_dir():
        raise errors.UsageError(
            'is a directory', subject=target, hint='name a file in it'
        )
    if target.exists() and not target.is_file():
        raise errors.UsageError(
            'not a regular file',
            subject=target,
            hint='name a file, and copy that to the device',
        )


def refuse_within(
    target: pathlib.Path, source: pathlib.Path, *, hint: str
) -> None:
    """Make sure that nothing is written over or into what is read.

    It would become part of what is read, or change what is to stay as it is.

    :param target: what is to be written: a file or directory, which need not
        be there.
    :raises UsageError: if it is the source, or within it, by whatever name.
    """
    if not source.is_dir():
        # "-" is no file: stdin.
        both = target.exists() and source.exists()
        if both and target.samefile(source):
            raise errors.UsageError(
                'the same file as the source', subject=target, hint=hint
            )
        return
    place = pathlib.Path(os.path.realpath(target))
    for each in (place, *place.parents):
        if os.path.exists(each) and os.path.samefile(each, source):
            raise errors.UsageError(
                f'{target} is within the source', hint=hint
            )


def refuse_fixed(*paths: pathlib.Path) -> None:
    """Make sure that chattr(1) lets files, and what is in directories, change.

    Not even root may change what is immutable. In a directory that one may
    only add to, a temporary file would have to stay.

    :raises UsageError: if one of them is immutable or append-only.
    """
    for path in paths:
        for bit, word, letter in _FIXED:
            if _flags(path) & bit:
                raise errors.UsageError(
                    f'{path} is {word} (see lsattr)',
                    hint=f'run: chattr -{letter} {path}, or choose another '
                    'file',
                )


def _flags(path: pathlib.Path) -> int:
    # A link is replaced itself, and has none.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if stat.S_IFMT(path.lstat().st_mode) not in (
            stat.S_IFREG,
            stat.S_IFDIR,
        ):
            return 0
        descriptor = os.open(path, flags)
    except OSError:
        # Whoever opens it says what is wrong with it.
        return 0
    try:
        answer = fcntl.ioctl(descriptor, _GETFLAGS, bytes(8))
    except OSError:
        # Not every filesystem knows of them.
        return 0
    finally:
        os.close(descriptor)
    return int.from_bytes(answer[:4], sys.byteorder)


@contextlib.contextmanager
def directory_for(directory: pathlib.Path) -> Iterator[None]:
    """Make a directory for results if it is not there.

    It is removed again if nothing got there before something failed.

    :raises AmiError: if it cannot be made, something else has its name, or
        somebody else may have put it there to get at what comes into it.
    """
    made = _make_directory(directory)
    try:
        yield
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                directory.rmdir()
        raise


def _make_directory(directory: pathlib.Path) -> bool:
    with scratch.explained(directory.parent):
        try:
            directory.mkdir()
        except FileExistsError:
            pass
        else:
            return True
    hint = 'choose another --directory'
    refuse_fixed(directory)
    if not directory.is_dir():
        raise errors.AmiError(f'{directory} is not a directory', hint=hint)
    # As the kernel does with fs.protected_symlinks: proc_sys_fs(5). What is
    # in such a place, /tmp for one, may have been made there for us to find.
    place, owner = directory.parent.stat(), directory.lstat().st_uid
    shared = stat.S_ISVTX | stat.S_IWOTH
    trusted = owner in (os.geteuid(), place.st_uid)
    if place.st_mode & shared == shared and not trusted:
        raise errors.AmiError(
            f'{directory} belongs to another user, in a directory that '
            'everybody may write to',
            hint=hint,
        )
    return False


def _mode(target: pathlib.Path) -> int:
    try:
        status = target.lstat()
    except FileNotFoundError:
        pass
    else:
        # What others planted there decides nothing.
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            return stat.S_IMODE(status.st_mode) & 0o777
    return 0o666 & ~umask()


@contextlib.contextmanager
def usable() -> Iterator[None]:
    """Have what is made be of use to us, whatever the user's umask.

    With one like 777, we could not enter a directory that we have made.
    Results get what the user's umask leaves all the same.
    """
    mask = umask()
    if not mask & stat.S_IRWXU:
        yield
        return
    _users.append(mask)
    os.umask(mask & ~stat.S_IRWXU)
    try:
        yield
    finally:
        os.umask(_users.pop())


def umask() -> int:
    """Read the user's umask, from any thread.

    umask(2) cannot read it without setting it, for all threads at that; the
    kernel also shows it in /proc/self/status, since Linux 4.7.
    """
    if _users:
        return _users[-1]
    with contextlib.suppress(OSError, ValueError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith('Umask:'):
                return int(line.split()[1], 8)
    with _UMASK:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask


def refuse_foreign(path: pathlib.Path) -> None:
    """Make sure that a file can be replaced by one of the same owner.

    :raises UsageError: if only root could make one: chown(2).
    """
    user = os.geteuid()
    status = path.stat()
    groups = {os.getegid(), *os.getgroups()}
    if user and (status.st_uid != user or status.st_gid not in groups):
        raise _not_ours(path)


def _not_ours(path: pathlib.Path) -> errors.UsageError:
    return errors.UsageError(
        'it belongs to another user or group, and only root can '
        'create a file that belongs to them',
        subject=path,
        hint='use --output, or run this as root',
    )


def _imitate(like: pathlib.Path, path: pathlib.Path) -> None:
    status = like.stat()
    current = path.stat()
    if (status.st_uid, status.st_gid) != (current.st_uid, current.st_gid):
        try:
            os.chown(path, status.st_uid, status.st_gid)
        except PermissionError as error:
            raise _not_ours(like) from error
    os.chmod(path, status.st_mode & 0o7777)
    try:
        names = os.listxattr(like)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return
        raise
    for name in names:
        os.setxattr(path, name, os.getxattr(like, name))


def sync(path: pathlib.Path) -> None:
    """Wait until a file or directory is on disk."""
    with _synced(path):
        pass


@contextlib.contextmanager
def _synced(path: pathlib.Path, *, durable: bool = True) -> Iterator[None]:
    """Wait for it after the block, in which its mode may shut us out."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
