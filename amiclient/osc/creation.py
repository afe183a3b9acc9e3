# SPDX-License-Identifier: Apache-2.0

"""Options that decide what a new image is, and what is made of them."""

from __future__ import annotations

import argparse
import os
import typing

from amiclient import errors
from amiclient.osc import options
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.glance.upload import request


def add_new_image(parser: argparse.ArgumentParser) -> None:
    """Add what a new image, of whatever kind, can be given."""
    options.add_visibility(parser, default='shared')
    options.add_protected(parser, default=' (default)')
    parser.add_argument(
        '--hidden',
        action='store_true',
        help='Leave it out of lists by default',
    )
    options.add_property(
        parser, 'Property to set, in place of a computed one too'
    )
    options.add_tag(parser, 'Tag to set')
    parser.add_argument(
        '--architecture',
        metavar='<architecture>',
        type=values.some,
        help='Architecture, such as x86_64 (default: that of the kernel, or '
        'else of the programs in the root filesystem)',
    )
    parser.add_argument(
        '--id',
        metavar='<uuid>',
        type=values.uuid,
        help='Id of the new image (default: a random one)',
    )
    options.add_project(parser)
    parser.add_argument(
        '--store',
        metavar='<store>',
        type=values.some,
        help='Store that is to hold the data (default: up to the cloud)',
    )
    parser.add_argument(
        '--no-reuse',
        dest='reuse',
        action='store_false',
        help='Create new images even if the cloud holds the same bytes '
        'already',
    )
    parser.add_argument(
        '--keep-failed',
        action='store_true',
        help='If the upload fails, leave what it created in the cloud',
    )


def add_linked(parser: argparse.ArgumentParser) -> None:
    """Add ``--linked``, for an upload."""
    parser.add_argument(
        '--linked',
        action='store_true',
        help='Make a kernel or ramdisk that is in the cloud already as '
        'visible as the new image',
    )


def add_minimums(parser: argparse.ArgumentParser) -> None:
    """Add ``--min-disk`` and ``--min-ram``."""
    parser.add_argument(
        '--min-disk',
        metavar='<GiB>',
        type=values.count,
        help='Disk that a flavor must have (default: what the root '
        'filesystem takes, rounded up)',
    )
    parser.add_argument(
        '--min-ram',
        metavar='<MiB>',
        type=values.count,
        help='Memory that a flavor must have (default: that of a saved AMI, '
        'or 0)',
    )


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Add what says which kernel and ramdisk an AMI boots with."""
    for noun, what, none in (
        ('kernel', 'boot', 'kernel, and so to no ramdisk'),
        ('ramdisk', 'boot with', 'ramdisk'),
    ):
        group = parser.add_mutually_exclusive_group()
        group.add_argument(
            f'--{noun}',
            metavar='<file>|<image>',
            type=values.some,
            help=f'The {noun} to {what}: a file, or the id or name of an '
            'image that the cloud holds already (default: what comes with '
            'the source, or is found in its root filesystem)',
        )
        group.add_argument(
            f'--no-{noun}',
            action='store_true',
            help=f'Link to no {none}',
        )
        parser.add_argument(
            f'--{noun}-name',
            metavar='<name>',
            type=values.some,
            help=f'Name of the new {noun} image (default: that of the file)',
        )


def chosen_part(
    parsed_args: argparse.Namespace,
    noun: str,
    found: os.PathLike[str] | None = None,
    *,
    complete: bool = False,
) -> str | None:
    """Tell which kernel or ramdisk the user wants.

    :param noun: ``kernel`` or ``ramdisk``.
    :param found: the file that the source brings along, if it does.
    :param complete: whether what it brings along is all that there is.
    :returns: what was given, a file or an image; None if none is wanted.
    :raises UsageError: if the user has not said.
    """
    given: str | None = getattr(parsed_args, noun)
    # Without a kernel, a ramdisk does nothing.
    refused = parsed_args.no_kernel or getattr(parsed_args, f'no_{noun}')
    if given is None and not refused:
        if found is not None or complete:
            return None if found is None else os.fspath(found)
        raise errors.UsageError(
            f'no {noun} was named',
            hint=f'give --{noun} FILE or IMAGE, or --no-{noun}',
        )
    return given


def shrinks(parsed_args: argparse.Namespace, *, finished: bool) -> bool:
    """Tell whether the filesystem is to be shrunk.

    :param finished: whether it is as it should be already: then it is left
        as it is, unless an option says how to shrink it.
    """
    if not parsed_args.shrink and parsed_args.headroom is not None:
        raise errors.UsageError(
            'a filesystem that is sent as it is gets no headroom',
            hint='leave out --no-shrink, or --headroom',
        )
    asked = parsed_args.headroom is not None or parsed_args.repair
    if finished and not asked and parsed_args.journal == 'keep':
        return False
    return bool(parsed_args.shrink)


def traits(parsed_args: argparse.Namespace) -> request.Traits:
    """Gather what one new image is given.

    :raises UsageError: if an option and a property contradict each other.
    """
    # Not at the top: see amiclient.osc.
    from amiclient.glance.upload import request

    options.refuse_contrary(parsed_args, 'architecture')
    return request.Traits(
        name=parsed_args.name,
        id=parsed_args.id,
        architecture=parsed_args.architecture,
        tags=tuple(dict.fromkeys(parsed_args.tags)),
        properties=parsed_args.properties or {},
    )


def settings(
    parsed_args: argparse.Namespace, project_id: str | None
) -> request.Settings:
    """Gather what applies to all new images.

    :param project_id: of the project that ``--project`` names.
    """
    # Not at the top: see amiclient.osc.
    from amiclient.glance.upload import request

    return request.Settings(
        visibility=parsed_args.visibility,
        protected=parsed_args.protected,
        hidden=parsed_args.hidden,
        owner=project_id,
        store=parsed_args.store,
        reuse=parsed_args.reuse,
        keep_failed=parsed_args.keep_failed,
        linked=getattr(parsed_args, 'linked', False),
        patience=options.patience(parsed_args),
    )
