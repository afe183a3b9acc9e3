# SPDX-License-Identifier: Apache-2.0

"""Will a root filesystem boot in a cloud, and behave there?

Nothing is run or mounted; each rule looks at files. Rules are in the modules
whose names begin with ``rules_``; the users' documentation describes each of
them.
"""

from collections.abc import Collection
import contextlib
import dataclasses
import itertools
import pathlib
import time

from amiclient import errors
from amiclient.ext import reader as ext_reader
from amiclient.ext import superblock
from amiclient import findings
from amiclient.rootfs import boot_extract
from amiclient.rootfs import check_context
from amiclient.rootfs import identify
from amiclient.rootfs import rules_boot
from amiclient.rootfs import rules_cloud
from amiclient.rootfs import rules_disk
from amiclient.source import bundle

#: Says that there are no files, and is found alone then.
_BLANK = 'blank'

#: Says that a rule could not be tried.
_UNREADABLE = 'unreadable'

#: Says that what was taken for a kernel, or its ramdisk, is none.
_BAD_KERNEL = 'bad-kernel'

_RULES: dict[str, check_context.Rule] = {
    **rules_boot.RULES,
    **rules_disk.RULES,
    **rules_cloud.RULES,
}

#: What is tried of a system that ostree deployed: the others look at files.
_NOT_OF_FILES = frozenset(
    {
        'ostree',
        'no-kernel',
        'kernel-format',
        'ramdisk-no-init',
        'ramdisk-unread',
        'virtio-blk',
        'ext4',
        'new-features',
        'boot-sector',
        'not-clean',
    }
)

#: What is told of one rule: /etc/fstab may have thousands of lines.
_MOST = 50

#: The names of all rules.
RULES = frozenset({*_RULES, _BLANK, _UNREADABLE, _BAD_KERNEL})


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckRequest:
    """How a source is to be checked.

    :param name: what the user called it.
    :param kernel: a file, in place of the one that the source brings along
        or has in it; so ``ramdisk``.
    :param version: of the kernel in it, as ``uname -r`` says; None for the
        newest.
    :param work_directory: where to put what is temporary; None for the usual
        places.
    :param now: seconds since 1970; None for the time that it is.
    """

    name: pathlib.Path
    kernel: pathlib.Path | None = None
    ramdisk: pathlib.Path | None = None
    version: str | None = None
    work_directory: pathlib.Path | None = None
    now: float | None = None


def check(
    source: bundle.Source, request: CheckRequest
) -> tuple[findings.Finding, ...]:
    """Apply all rules to a source.

    :param source: what amiclient.source.resolve.opened() made of it.
    :raises SourceError: if there is no ext2, ext3 or ext4 filesystem, no such
        kernel, or what is given is no kernel or no ramdisk.
    :raises DamagedError: if the filesystem makes no sense.
    """
    source.image()
    found: list[findings.Finding] = []
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(_completed(source, request))
        except errors.SourceError as error:
            if request.version is not None:
                raise
            # That one is of no use keeps no other rule from being tried.
            found.append(
                findings.Finding(
                    'error', _BAD_KERNEL, error.sentence, error.hint
                )
            )
        kernel = request.kernel or source.kernel
        ramdisk = request.ramdisk or source.ramdisk
        found += apply(
            source.root,
            kernel,
            ramdisk,
            command_line=source.command_line,
            boot_options=source.boot_options,
            # A filesystem that was made of files has no more room than that.
            tight=source.format == 'files',
            now=request.now,
        )
    if found and found[0].rule == _BAD_KERNEL:
        found = [each for each in found if each.rule != 'no-kernel']
    return findings.ranked(found)


def apply(
    root: pathlib.Path,
    kernel: pathlib.Path | None,
    ramdisk: pathlib.Path | None,
    *,
    command_line: str | None = None,
    boot_options: str = '',
    tight: bool = False,
    now: float | None = None,
) -> list[findings.Finding]:
    """Apply all rules to a root filesystem and what boots it.

    :param root: a file with the filesystem.
    :param command_line: of the kernel, in place of Nova's own.
    :param boot_options: what a boot loader in it tells its kernel.
    :param tight: whether it has no free space because it was made that way.
    :param now: seconds since 1970; None for the time that it is.
    :returns: what was found, in the order of the rules.
    :raises SourceError: if something of it is not what it must be.
    :raises DamagedError: if the filesystem makes no sense.
    """
    if ramdisk is not None:
        identify.identify_ramdisk(ramdisk)
    with ext_reader.opened(root) as reader:
        return examine(
            check_context.Case(
                reader=reader,
                head=_head(root),
                kernel=identify.identify_kernel(kernel) if kernel else None,
                ramdisk=ramdisk,
                now=time.time() if now is None else now,
                command_line=command_line,
                boot_options=boot_options,
                tight=tight,
            )
        )


def _completed(
    source: bundle.Source, request: CheckRequest
) -> contextlib.AbstractContextManager[bundle.Source]:
    wanted = boot_extract.BootSelection(
        kernel=request.kernel is None,
        ramdisk=request.ramdisk is None,
        version=request.version,
        required=False,
    )
    return boot_extract.completed(
        source,
        wanted,
        name=request.name,
        work_directory=request.work_directory,
    )


def _head(path: pathlib.Path) -> bytes:
    with path.open('rb') as file:
        return file.read(superblock.OFFSET)


def examine(
    case: check_context.Case, rules: Collection[str] = RULES
) -> list[findings.Finding]:
    """Apply rules to a root filesystem that is open already.

    :param rules: the names of those that are tried.
    :returns: what was found, in the order of the rules.
    """
    if case.is_blank:
        blank = findings.Finding(
            'note',
            _BLANK,
            'the root filesystem has no files: the ramdisk has to bring '
            'all that there is',
        )
        return [blank] if _BLANK in rules else []
    found: list[findings.Finding] = []
    for name, rule in _RULES.items():
        try:
            if name not in rules or (
                # Its files are not where rules look.
                name not in _NOT_OF_FILES and case.deployments
            ):
                continue
            problems = list(itertools.islice(rule(case), _MOST + 1))
            found.extend(
                findings.Finding(
                    each.severity,
                    name,
                    errors.told(each.message),
                    each.remedy and errors.told(each.remedy),
                )
                for each in problems[:_MOST]
            )
            if len(problems) > _MOST:
                found.append(
                    findings.Finding(
                        problems[0].severity,
                        name,
                        f'there are more than {_MOST} findings of this rule',
                    )
                )
        except errors.DamagedError as error:
            found.append(
                findings.Finding(
                    'error',
                    _UNREADABLE,
                    f'the rule {name} could not be tried, for the filesystem '
                    f'is damaged: {error.message}',
                    'repair a copy with e2fsck -f',
                )
            )
    return found
