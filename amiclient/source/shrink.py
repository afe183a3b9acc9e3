# SPDX-License-Identifier: Apache-2.0

"""Shrinking the root filesystem of any source into a file of its own."""

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib

from amiclient import atomic
from amiclient import errors
from amiclient.ext import layout
from amiclient.ext import shrink
from amiclient import locks
from amiclient.progress import Progress
from amiclient import scratch
from amiclient.source import bundle
from amiclient.source import probe
from amiclient.source import resolve
from amiclient import sparse


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShrinkSourceRequest:
    """What a user wants; see :class:`amiclient.ext.shrink.ShrinkRequest`.

    :param output: where the result shall go; None to replace the source,
        which must be a filesystem then.
    """

    source: pathlib.Path
    choice: resolve.Choice
    output: pathlib.Path | None = None
    in_place: bool = False


@dataclasses.dataclass(frozen=True)
class Planned:
    """What will be done.

    :param plan: how; its paths may be those of temporary files.
    :param request: what was asked for.
    :param source: what the source has come to.
    """

    plan: shrink.ShrinkPlan
    request: ShrinkSourceRequest
    source: resolve.Source

    @property
    def shown(self) -> shrink.ShrinkPlan:
        """The plan with the names that the user knows."""
        image = dataclasses.replace(self.plan.image, path=self.request.source)
        output = self.request.output or self.plan.output
        return dataclasses.replace(self.plan, image=image, output=output)


@contextlib.contextmanager
def planned(
    request: ShrinkSourceRequest, *, exact: bool, progress: Progress
) -> Iterator[Planned]:
    """Take a source, and plan how to shrink its root filesystem.

    What was made for it goes away at the end of the block.

    :param exact: find out the size of the result, and change nothing.
    :raises BusyError: if another process reads or changes what is going to
        be changed or replaced.
    :raises AmiError: as :func:`amiclient.source.resolve.opened` and
        :func:`amiclient.ext.shrink.plan` do.
    """
    choice = request.choice
    with contextlib.ExitStack() as stack:
        held = None
        if request.output is None:
            lock = locks.reading if exact else locks.changing
            held = stack.enter_context(lock(request.source))
        elif not exact:
            stack.enter_context(atomic.replacing(request.output))
        if request.output is None:
            found = probe.look(request.source, held)
            source = resolve.Source(root=request.source, probe=found)
        else:
            bundle.refuse_within(
                request.output,
                request.source,
                hint='choose an output outside of it'
                if request.source.is_dir()
                else 'choose another output, or leave out --output to '
                'replace a filesystem',
            )
            # Where it can get its name without being copied.
            beside = choice.work_directory or request.output.absolute().parent
            with scratch.explained(beside):
                beside.stat()
            source = stack.enter_context(
                resolve.opened(
                    request.source,
                    dataclasses.replace(choice, work_directory=beside),
                    progress=progress,
                )
            )
        wanted = shrink.ShrinkRequest(
            image=_root(source, request),
            output=request.output,
            options=choice.options,
            in_place=request.in_place,
            work_directory=choice.work_directory,
        )
        if source.own and not request.in_place:
            # The checks of where the result goes are those of any shrink.
            shrink.plan(wanted)
            wanted = dataclasses.replace(
                wanted,
                output=None,
                in_place=True,
                own=True,
                work_directory=source.root.parent,
            )
        plan = shrink.plan(wanted, exact=exact, progress=progress)
        yield Planned(plan, request, source)


def _root(
    source: resolve.Source, request: ShrinkSourceRequest
) -> layout.RootImage:
    try:
        return source.image()
    except errors.SourceError as error:
        found = source.probe
        if request.output is not None or not (found and found.is_container):
            raise
        error.hint = (
            'give --output FILE: the root filesystem in it can be taken out '
            'and shrunk, but not replaced within'
        )
        raise


def execute(planned: Planned, *, progress: Progress) -> shrink.Shrunk:
    """Do what was planned.

    :raises AmiError: as :func:`amiclient.ext.shrink.execute` does.
    """
    done = shrink.execute(planned.plan, progress=progress)
    output = planned.request.output
    if output is None or not planned.plan.request.own:
        return dataclasses.replace(done, image=planned.request.source)
    with (
        scratch.full_disk(output.absolute().parent),
        atomic.Output(output) as made,
    ):
        if not made.adopt(done.output):
            sparse.copy(done.output, made.path)
        made.keep()
    return dataclasses.replace(
        done, image=planned.request.source, output=output
    )
