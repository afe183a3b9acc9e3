# SPDX-License-Identifier: Apache-2.0

"""Filesystems in order: finding out whether one is, and making it one."""

from collections.abc import Iterator
from concurrent import futures
import contextlib
import dataclasses
import logging
import os
import pathlib
import threading

from amiclient import errors
from amiclient.ext.e2fsprogs import Toolbox
from amiclient.ext.layout import Layout
from amiclient.ext.layout import RootImage
from amiclient.ext.plan import ShrinkPlan
from amiclient.ext.reader import Reader
from amiclient.ext import superblock
from amiclient import jobs
from amiclient import locks
from amiclient import process
from amiclient.progress import Progress
from amiclient import scratch
from amiclient import sparse

_LOG = logging.getLogger(__name__)

_BEYOND_PREENING = 'use --repair to repair a copy with e2fsck -y'


class UncleanError(Exception):
    """What was copied turned out not to be in order."""


@dataclasses.dataclass(frozen=True)
class CleanSource:
    """A filesystem in order, to be copied from; it is never written to.

    :param layout: the filesystem, which is open.
    :param path: where it lies.
    :param verdict: whether it is in order, as soon as e2fsck is through; None
        if that is known.
    """

    layout: Layout
    path: pathlib.Path
    tools: Toolbox
    verdict: 'futures.Future[bool] | None' = None

    def wait(self) -> None:
        """Wait for the verdict.

        :raises UncleanError: if it is not in order.
        """
        if self.verdict is not None and not self.verdict.result():
            raise UncleanError

    def copy_to(self, target: pathlib.Path, progress: Progress) -> None:
        """Copy what is in use, but for the journal's old transactions.

        :param target: an empty file.
        """
        self.layout.copy_in_use(
            target,
            Reader(self.layout).journal(),
            progress=progress,
            cancel=self.tools.cancel,
        )


@contextlib.contextmanager
def clean_source(
    planned: ShrinkPlan, tools: Toolbox, progress: Progress
) -> Iterator[CleanSource]:
    """Provide a filesystem that is in order, or seems to be.

    That is the source itself; whether e2fsck has something to object to is
    found out beside the copying. Where the journal must be replayed or
    something be mended, it is a full copy on which that was done: by its
    bitmaps alone, data would be lost whose allocation is only in the journal
    yet.

    :raises DamagedError: if it is damaged beyond what e2fsck may repair.
    """
    image = planned.image
    if planned.recover:
        with scratch.workshop(planned.directory) as room:
            mended = room / 'full'
            _copy_everything(image, mended, tools.cancel, progress)
            with progress.task('Repairing'):
                mend(
                    mended,
                    tools,
                    recover=True,
                    repair=planned.request.options.repair,
                    name=image.path,
                )
            with Layout.opened(mended) as layout:
                yield CleanSource(layout, mended, tools)
        return
    with (
        sparse.opened(image.path, os.O_RDONLY) as descriptor,
        contextlib.ExitStack() as stack,
    ):
        image.refuse_changed(locks.state(descriptor))
        layout = Layout(descriptor, image.superblock)
        verdict = None
        if not planned.checked:

            def check(stop: threading.Event) -> bool:
                return dataclasses.replace(tools, cancel=stop).check(
                    image.path
                )

            verdict = stack.enter_context(
                jobs.beside(check, threading.Event())
            )
        yield CleanSource(layout, image.path, tools, verdict)


def mend(
    path: pathlib.Path,
    tools: Toolbox,
    *,
    recover: bool,
    repair: bool,
    name: pathlib.Path | None = None,
) -> None:
    """Bring a filesystem in order, itself.

    :param recover: whether it is known to need that.
    :param repair: whether e2fsck may mend more than preening does.
    :param name: what to call it in errors.
    :raises DamagedError: if it is damaged beyond what it may mend.
    """
    if not recover and tools.check(path):
        return
    # Never one after the other: what preening has given up on, it leaves in a
    # state in which e2fsck -y throws away what it could have saved.
    before = superblock.read(path).used_inodes
    if tools.repair(path) if repair else tools.preen(path):
        left = superblock.read(path).used_inodes
        if repair and left < before:
            _LOG.warning(
                '%s: after the repair, %d of %d inodes are left; look for '
                'files in lost+found',
                name or path,
                left,
                before,
            )
        return
    objections = tools.objections(path)
    if 'unsupported feature' in objections:
        raise errors.UnsupportedError(
            objections,
            subject=name or path,
            hint='try a newer version of e2fsprogs',
        )
    raise errors.DamagedError(
        f'the filesystem is damaged: {objections}',
        subject=name or path,
        hint='e2fsck cannot repair it' if repair else _BEYOND_PREENING,
    )


def refuse_damaged(
    path: pathlib.Path, copied: pathlib.Path, tools: Toolbox
) -> None:
    """Make sure that preening will do, before it is done to the only copy.

    :param copied: where a copy of the metadata, to try it on, is made.
    :raises DamagedError: if it will not.
    """
    try:
        tools.copy_metadata(path, copied)
    except process.ProgramFailed as error:
        if error.result.status < 0:
            raise
        raise errors.DamagedError(
            f'the filesystem is damaged: {tools.objections(path)}',
            subject=path,
            hint=_BEYOND_PREENING,
        ) from error
    mend(copied, tools, recover=True, repair=False, name=path)


def refuse_unclean(image: RootImage) -> None:
    """Make sure that a filesystem is in order as it is.

    :raises DamagedError: if it is not.
    """
    found = image.superblock
    tools = Toolbox.of(found)
    if found.needs_recovery or found.orphans or not tools.check(image.path):
        raise errors.DamagedError(
            'the filesystem was not unmounted cleanly, or is damaged',
            subject=image.path,
            hint='shrink it, which repairs a copy, or run e2fsck on it',
        )


def _copy_everything(
    image: RootImage,
    target: pathlib.Path,
    cancel: threading.Event | None,
    progress: Progress,
) -> None:
    size = image.superblock.size
    with (
        sparse.opened(image.path, os.O_RDONLY) as reader,
        sparse.opened(target, os.O_RDWR | os.O_CREAT | os.O_EXCL) as writer,
        progress.task('Copying', size) as task,
    ):
        image.refuse_changed(locks.state(reader))
        if not sparse.clone(reader, writer):
            sparse.copy_runs(
                reader, writer, [(0, size)], task=task, cancel=cancel
            )
        os.truncate(writer, size)
