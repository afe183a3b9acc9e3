# SPDX-License-Identifier: Apache-2.0

"""The programs of e2fsprogs, each as one function.

Every one of them gets ``E2FSPROGS_FAKE_TIME``, and e2fsck its ``E2FSCK_TIME``,
so that what it writes depends on its input only and not on when it ran.
"""

from collections.abc import Iterable, Sequence
import contextlib
import dataclasses
import os
import pathlib
import re
import textwrap
import threading
from typing import Self

from amiclient import confinement
from amiclient import errors
from amiclient.ext import busy
from amiclient.ext import superblock
from amiclient import process
from amiclient import sparse

#: Older ones know too few features, and resize2fs has bugs that lose data
#: (1.45 came with 64-bit and metadata_csum fixes to off-line shrinking).
_OLDEST = (1, 45)

#: e2fsck(8), EXIT CODE: a bit mask. 1 corrected, 2 corrected and wants a
#: reboot, 4 left uncorrected, 8 operational error, which is also what it
#: calls a filesystem that is too damaged to be opened. The others (16 usage,
#: 32 cancelled, 128 library) say nothing of the filesystem.
_FSCK_VERDICTS = range(16)
_CORRECTED = 1

#: How often e2fsck is run on what it has mended, but not to the end.
_RUNS = 3

#: resize2fs(8), -d: print "Inode moved OLD->NEW" (RESIZE_DEBUG_INODEMAP in
#: resize2fs.h; compiled in by default).
_DEBUG_INODE_MAP = '4'
_INODE_MOVED = re.compile(rb'^Inode moved (\d+)->(\d+)$', re.MULTILINE)
_VERSION = re.compile(r'(\d+)\.(\d+)')

#: How e2fsck says that the superblock or the descriptors cannot be used. That
#: alone does not make its exit status anything but 0.
_BACKUP = 'trying backup blocks'

#: What e2fsck would mend, but takes no offence at (PR_NO_OK): preening stops
#: at some of it. What could only be better is not meant.
_UNMENDED = re.compile(r'(?<!Optimize)\? no$', re.MULTILINE)

#: What a program may take: these seconds, and one for so many bytes of the
#: filesystem. The slowest that was seen is several times as fast; something
#: that hangs must still come to an end.
_PATIENCE = 300.0
_PACE = 4 << 20

#: Of processor time, likewise: twenty seconds are hundreds of times as much as
#: the smallest take.
_CPU = 20
_CPU_PACE = 8 << 20

#: What it may take of memory: these bytes, and one for so many bytes of the
#: filesystem. e2fsck takes less than a tenth of that for a sound one.
_MEMORY = 512 << 20
_BYTES_A_BYTE = 256

#: The bytes in which e2fsck may say what it objects to, if it changes nothing.
_OBJECTIONS = 1 << 20


#: What says when the present is, as it does for whatever else makes files that
#: shall be the same each time (reproducible-builds.org, SOURCE_DATE_EPOCH).
EPOCH = 'SOURCE_DATE_EPOCH'

#: Seconds that a superblock has room for: 40 bits.
_LATEST = 1 << 40

#: As ``date +%s`` writes it, says the specification; not before the epoch.
_SECONDS = re.compile(r'[0-9]{1,13}', re.ASCII)


@dataclasses.dataclass(frozen=True)
class Toolbox:
    """How to run e2fsprogs for one piece of work.

    :param time: what they take for the present, seconds since the epoch.
    :param cancel: when set, the program that runs is ended.
    :param interruptible: whether a program that writes may be ended before
        it is through; false where it works on the only copy.
    :param limit: the seconds that one program may take, unless it writes and
        is not interruptible; None for as long as it likes.
    :param memory: the bytes that one program may take, likewise.
    :param cpu: the seconds of processor time, likewise.
    """

    time: int
    cancel: threading.Event | None = None
    interruptible: bool = True
    limit: float | None = None
    memory: int | None = None
    cpu: int | None = None

    @classmethod
    def of(
        cls,
        found: superblock.Superblock,
        cancel: threading.Event | None = None,
    ) -> Self:
        """Choose what suits a filesystem: its time, and what it may take."""
        return cls(
            present(found.written),
            cancel,
            limit=_PATIENCE + busy.patience(found) + found.size / _PACE,
            memory=_MEMORY + found.size // _BYTES_A_BYTE,
            cpu=_CPU + found.size // _CPU_PACE,
        )

    def check(self, path: pathlib.Path) -> bool:
        """Check a filesystem without writing to it.

        :returns: whether e2fsck has nothing to object to.
        :raises ProgramError: if e2fsck could not do its work.
        """
        try:
            result = self._fsck(path)
        except process.TooTalkative:
            # It has much to object to; with some damage, without end.
            return False
        # What it checked then was a backup; the first one is of no use.
        return (
            result.status == 0
            and _BACKUP not in result.text
            and not _UNMENDED.search(result.text)
        )

    def verify(self, path: pathlib.Path, what: str) -> None:
        """Make sure that e2fsck has nothing to object to in our own work.

        :raises DamagedError: if it has.
        """
        if not self.check(path):
            raise errors.DamagedError(
                f'e2fsck finds errors in {what}: {self.objections(path)}',
                hint='please report this as a bug',
            )

    def objections(self, path: pathlib.Path) -> str:
        """Return what e2fsck has to object to, as one line."""
        try:
            result = self._fsck(path)
        except process.TooTalkative as error:
            result = error.result
        # What keeps it from looking at all, it says on stderr.
        words = result.text + result.stderr
        # That may be a copy, of which the user knows nothing.
        words = words.replace(str(path.absolute()), 'it')
        lines = [line.strip() for line in words.splitlines()]
        wanted = [
            line
            for line in lines
            if line
            and not line.startswith(('Pass ', 'e2fsck '))
            and ' files (' not in line
        ]
        return textwrap.shorten(' '.join(wanted), 200, placeholder=' ...')

    def _fsck(self, path: pathlib.Path) -> process.Result:
        return self._run(
            ['e2fsck', '-f', '-n', path], ok=_FSCK_VERDICTS, most=_OBJECTIONS
        )

    def preen(self, path: pathlib.Path) -> bool:
        """Replay the journal and mend what is safe to mend.

        :returns: whether the filesystem is in order now.
        """
        return self._mend(path, '-p')

    def repair(self, path: pathlib.Path) -> bool:
        """Mend whatever e2fsck can mend.

        :returns: whether the filesystem is in order now.
        """
        return self._mend(path, '-y')

    def settle(self, path: pathlib.Path, how: str = '-y') -> bool:
        """Mend whatever e2fsck can mend, and leave the judgement to later.

        :returns: whether there was anything that it has mended.
        """
        # Without that option it would also rewrite what is in order, but
        # could be better.
        options = ('-f', how, '-E', 'fixes_only')
        result = self._run(
            ['e2fsck', *options, path],
            ok=_FSCK_VERDICTS,
            writes=True,
            most=_OBJECTIONS,
        )
        return bool(result.status & _CORRECTED)

    def resize(self, path: pathlib.Path, blocks: int) -> dict[int, int]:
        """Resize a filesystem, whatever resize2fs thinks its minimum is.

        :param blocks: the new size, in blocks of the filesystem.
        :returns: the inodes that got another number: old to new.
        :raises ProgramFailed: if that did not work.
        """
        result = self._run(
            ['resize2fs', '-f', '-d', _DEBUG_INODE_MAP, path, str(blocks)],
            writes=True,
        )
        return {
            int(old): int(new)
            for old, new in _INODE_MOVED.findall(result.stdout)
        }

    def minimum(self, path: pathlib.Path) -> int:
        """Return to how many blocks ``resize2fs -M`` would shrink."""
        result = self._run(['resize2fs', '-f', '-P', path])
        return int(result.text.rpartition(':')[2])

    def drop_journal(self, path: pathlib.Path) -> None:
        self._tune(path, '-O', '^has_journal')

    def add_journal(self, path: pathlib.Path, mib: int, block: int) -> None:
        """Make a journal.

        :param mib: its size in MiB.
        :param block: where to look first for room.
        """
        self._tune(path, '-J', f'size={mib},location={block}')

    def drop_orphan_file(self, path: pathlib.Path) -> None:
        """Remove the file of orphans; it cannot be without a journal."""
        self._tune(path, '-O', '^orphan_file')

    def add_orphan_file(self, path: pathlib.Path, blocks: int) -> None:
        size = f'orphan_file_size={blocks}'
        self._tune(path, '-O', 'orphan_file', '-E', size)

    def drop_mmp(self, path: pathlib.Path) -> None:
        """Remove multiple mount protection, without a look at it.

        Of a file that nobody else can have mounted.
        """
        self._tune(path, '-O', '^mmp')

    def add_mmp(self, path: pathlib.Path, interval: int) -> None:
        """Protect it from being mounted twice; that takes a free block.

        :param interval: seconds between two updates; 0 for the usual ones.
        """
        often = ['-E', f'mmp_update_interval={interval}'] if interval else []
        self._tune(path, '-O', 'mmp', *often)

    def copy_metadata(self, path: pathlib.Path, target: pathlib.Path) -> None:
        """Copy a filesystem without the content of its files, sparsely."""
        self._run(['e2image', '-r', path], target=target)

    def forgive(self, path: pathlib.Path) -> None:
        """Mark a filesystem as clean, such as every unmounted one is."""
        self.edit(path, [f'ssv state {superblock.STATE_CLEAN}'])

    def edit(self, path: pathlib.Path, commands: Iterable[str]) -> None:
        """Have debugfs change a filesystem.

        :param commands: debugfs commands, one a line. They must not contain
            anything that comes from a filesystem but numbers.
        """
        script = ''.join(f'{command}\n' for command in commands)
        self._run(
            ['debugfs', '-w', '-f', '-', path],
            writes=True,
            input=script.encode('ascii'),
        )

    def _tune(self, path: pathlib.Path, *options: str) -> None:
        self._run(['tune2fs', '-f', *options, path], writes=True)

    def _mend(self, path: pathlib.Path, how: str) -> bool:
        # What one run mends may show the next what else is wrong. Only a run
        # that changes nothing proves that it is in order.
        for _ in range(_RUNS):
            corrected = self.settle(path, how)
            if self.check(path):
                return True
            if not corrected:
                break
        return False

    def _run(
        self,
        argv: Sequence[str | pathlib.Path],
        *,
        ok: Iterable[int] = (0,),
        writes: bool = False,
        target: pathlib.Path | None = None,
        input: bytes | None = None,
        most: int = process.MOST,
    ) -> process.Result:
        # All paths in argv are those of filesystems, to which it writes or
        # not; the target is a file that it makes, its last argument.
        with contextlib.ExitStack() as stack:
            paths = {
                word: _opened(word, stack)
                for word in (*argv, target)
                if isinstance(word, pathlib.Path)
            }
            words = [
                paths[word] if isinstance(word, pathlib.Path) else word
                for word in argv
            ]
            made = [paths.pop(target)] if target else []
            # Only a file that it makes itself does e2image leave holes in
            # (E2IMAGE_CHECK_ZERO_FLAG in misc/e2image.c).
            places = [target.absolute().parent] if target else []
            given = tuple(paths.values())
            result = process.run(
                [*words, *made],
                access=confinement.Access(
                    reads=() if writes else given,
                    writes=given if writes else places,
                    mounts=True,
                ),
                ok=frozenset(ok),
                env={
                    'E2FSPROGS_FAKE_TIME': str(self.time),
                    'E2FSCK_TIME': str(self.time),
                },
                input=input,
                interruptible=self.interruptible or not writes,
                cancel=self.cancel,
                limit=self.limit,
                memory=self.memory,
                cpu=self.cpu,
                most=most,
                # Nobody reads all that e2fsck says of what it mends.
                drop=writes and most < process.MOST,
            )
        if writes:
            for path in paths:
                self._written_to(path)
        return result

    def _written_to(self, path: pathlib.Path) -> None:
        """Learn that a program has written to a filesystem."""


@dataclasses.dataclass(frozen=True)
class Recorder(Toolbox):
    """A toolbox that notes where what it writes to has ever had data.

    :ivar written: ranges of bytes.
    """

    written: list[sparse.Run] = dataclasses.field(default_factory=list)

    def _written_to(self, path: pathlib.Path) -> None:
        with sparse.opened(path, os.O_RDONLY) as descriptor:
            size = os.fstat(descriptor).st_size
            found = sparse.data_in(descriptor, 0, size)
            self.written[:] = sparse.merge([*self.written, *found])


def _opened(path: pathlib.Path, stack: contextlib.ExitStack) -> str:
    # e2fsprogs take what follows a question mark in a file name for options
    # of the I/O manager (ext2fs_open2() in lib/ext2fs/openfs.c).
    if '?' not in str(path):
        return str(path.absolute())
    # A target that is to be made has a name of our own, in such a directory.
    if not path.exists():
        path.touch(mode=0o600)
    descriptor = stack.enter_context(sparse.opened(path, os.O_RDONLY))
    return f'/proc/{os.getpid()}/fd/{descriptor}'


def require() -> None:
    """Make sure that e2fsprogs are there and not too old.

    :raises ProgramError: if not.
    """
    for program in ('e2fsck', 'tune2fs', 'debugfs', 'e2image'):
        process.find(program)
    # resize2fs prints its version with its usage, e2fsck with -V.
    process.find('resize2fs')
    result = process.run(
        ['e2fsck', '-V'],
        access=confinement.Access(),
        ok=range(256),
        limit=_PATIENCE,
    )
    match = _VERSION.search(result.stderr)
    if match and (int(match[1]), int(match[2])) < _OLDEST:
        raise errors.ProgramError(
            f'e2fsprogs {match[0]} is too old',
            hint='version {}.{} or newer is needed'.format(*_OLDEST),
        )


def present(written: int) -> int:
    """Choose what e2fsprogs take for the present.

    :param written: when the filesystem was written last.
    :returns: seconds since the epoch; never 0, which e2fsprogs take for no
        choice.
    :raises UsageError: as :func:`epoch` does.
    """
    chosen = epoch()
    return max(1, written if chosen is None else chosen)


def epoch() -> int | None:
    """Read the present that the user has chosen, in seconds since 1970.

    :raises UsageError: if the variable is there, but is no such number.
    """
    text = os.environ.get(EPOCH)
    # An empty one is how some build tools say that there is none.
    if not text:
        return None
    if not _SECONDS.fullmatch(text) or int(text) >= _LATEST:
        raise errors.UsageError(
            f'{EPOCH}={text[:40]!r} is not a number of seconds since 1970',
            hint='unset it, or set it to a number such as 1700000000',
        )
    return int(text)
