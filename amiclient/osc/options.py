# SPDX-License-Identifier: Apache-2.0

"""Options, each defined once, in groups that commands pick from."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import dataclasses
import os
import sys
import typing

from osc_lib.cli import identity
from osc_lib.cli import parseractions

from amiclient import errors
from amiclient.osc import values
from amiclient import units

if typing.TYPE_CHECKING:
    from amiclient.glance import retry
    from amiclient.glance.upload import request

Parser = argparse.ArgumentParser

_T = typing.TypeVar('_T')

#: What an upload leaves free for root, so that the guest gets far enough to
#: grow its filesystem.
UPLOAD_HEADROOM = '64M'
DEFAULT_HEADROOM = units.parse_headroom(UPLOAD_HEADROOM)

#: Where work is done if the user has not said, and how much room it takes is
#: not known yet.
MOST_ROOM = (
    'the one of $TMPDIR, /var/tmp, the directory of the source and /tmp with '
    'the most free space'
)

_VISIBILITIES = {
    'public': 'The image is accessible to all users',
    'private': 'The image is accessible to its project only',
    'shared': 'The image can be shared with other projects',
    'community': 'The image is accessible to all users, but is not in their '
    'default image list',
}


def refuse(given: Mapping[str, bool], why: str, *, hint: str) -> None:
    """Refuse options that would have no effect.

    Whoever gives one believes that it has.

    :param given: options, and whether they were given.
    :param why: they would have none, as a clause.
    :param hint: what to do about it.
    :raises UsageError: if there are any.
    """
    names = [name for name, is_given in given.items() if is_given]
    if names:
        raise errors.UsageError(why, subject=', '.join(names), hint=hint)


def refuse_contrary(parsed_args: argparse.Namespace, *names: str) -> None:
    """Refuse a property that an option sets to something else.

    :param names: properties that have an option of their own.
    :raises UsageError: if there is one.
    """
    properties = parsed_args.properties or {}
    for name in names:
        given = getattr(parsed_args, name)
        if given is not None and properties.get(name, given) != given:
            raise errors.UsageError(
                f'--{name.replace("_", "-")} {given} and --property '
                f'{name}={properties[name]} contradict each other',
                hint='remove one of them',
            )


def fill(
    kind: type[_T], parsed_args: argparse.Namespace, **given: typing.Any
) -> _T:
    """Make a request of the options that are named like its fields.

    What was not given, and is None therefore, is up to the request.

    :param kind: a dataclass.
    :param given: fields that have no such option.
    """
    for field in dataclasses.fields(typing.cast('typing.Any', kind)):
        value = getattr(parsed_args, field.name, None)
        if value is not None:
            given.setdefault(field.name, value)
    return kind(**given)


def add_image(
    parser: Parser, what: str, *, dest: str = 'ami', nargs: str | None = None
) -> None:
    """Add an image of the cloud, as an argument."""
    parser.add_argument(
        dest, metavar=f'<{dest}>', nargs=nargs, help=f'{what} (name or ID)'
    )


def add_human_readable(parser: Parser) -> None:
    """Add ``--human-readable``."""
    parser.add_argument(
        '--human-readable',
        action='store_true',
        help='Print sizes in tables with units, for example 664.1 MiB',
    )


def add_room(parser: Parser, *, headroom: str, journal: str) -> None:
    """Add what a filesystem holds besides its files.

    :param headroom: the default of ``--headroom``.
    :param journal: the help of ``--journal``.
    """
    parser.add_argument(
        '--headroom',
        metavar='<size>|<percent>',
        type=values.headroom,
        default=units.parse_headroom(headroom),
        help='Free space to leave in the filesystem, for example 64M or 5%%; '
        f'a percentage is of the space in use (default: {headroom})',
    )
    parser.add_argument(
        '--journal',
        metavar='keep|none|<size>',
        type=values.journal,
        default='keep',
        help=journal,
    )


def add_shrink(parser: Parser, *, headroom: str) -> None:
    """Add what decides how a filesystem is shrunk.

    :param headroom: the default of ``--headroom``.
    """
    add_room(
        parser,
        headroom=headroom,
        journal='Keep, remove or resize the journal (default: keep)',
    )
    parser.add_argument(
        '--repair',
        action='store_true',
        help='Repair a copy with e2fsck -y; this can lose data',
    )


def filesystem(parsed_args: argparse.Namespace) -> units.FilesystemOptions:
    """Gather what :func:`add_room` and :func:`add_shrink` add, where they do.

    What is uploaded unmodified gets no headroom.
    """
    found = fill(units.FilesystemOptions, parsed_args)
    if not getattr(parsed_args, 'shrink', True):
        return dataclasses.replace(found, headroom=units.NO_HEADROOM)
    if 'headroom' in parsed_args and parsed_args.headroom is None:
        return dataclasses.replace(found, headroom=DEFAULT_HEADROOM)
    return found


def add_run(parser: Parser) -> None:
    """Add what decides how a long command behaves."""
    add_dry_run(parser)
    add_progress(parser)


def add_dry_run(parser: Parser) -> None:
    """Add ``--dry-run``, for a command that takes no time."""
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='Check everything and show what would be done, but do nothing',
    )


def add_progress(parser: Parser) -> None:
    """Add ``--no-progress``."""
    parser.add_argument(
        '--no-progress',
        action='store_true',
        help='Show no progress bars (-q does the same; there are none if '
        'stderr is not a terminal)',
    )


def add_work_directory(parser: Parser, what: str, *, default: str) -> None:
    """Add ``--work-directory``.

    :param what: is put there.
    :param default: where that is put otherwise.
    """
    parser.add_argument(
        '--work-directory',
        metavar='<directory>',
        type=values.path,
        help=f'Directory for {what} (default: {default})',
    )


def add_network(parser: Parser) -> None:
    """Add what decides how patient a command is with the network."""
    parser.add_argument(
        '--retries',
        metavar='<number>',
        type=values.count,
        help='Number of retries after a network or server error (default: '
        '4). The delays are 1, 2, 4 ... 30 seconds, or what the cloud asks '
        'for, at most 2 minutes',
    )
    parser.add_argument(
        '--timeout',
        metavar='<seconds>',
        type=values.seconds,
        help='Time without any data from the network after which an attempt '
        'fails (default: 60). It is longer for answers that can take the '
        'cloud a while. Except for image data, an attempt takes at most 3 '
        'times as long, or 10 seconds, including authentication',
    )


def patience(parsed_args: argparse.Namespace) -> retry.Patience:
    """Tell how patient to be with the network, by :func:`add_network`."""
    from amiclient.glance import retry

    given = {
        name: value
        for name in ('retries', 'timeout')
        if (value := getattr(parsed_args, name, None)) is not None
    }
    # At a terminal somebody wonders why nothing happens; the errors of a
    # script stay what they are.
    return retry.Patience.of(**given, aloud=sys.stderr.isatty())


def add_visibility(
    parser: Parser, *, default: str | None = None, chosen: bool = False
) -> None:
    """Add the four visibilities, of which there can be one.

    :param default: what a new image has.
    :param chosen: whether images are chosen by it.
    """
    group = parser.add_mutually_exclusive_group()
    for name, text in _VISIBILITIES.items():
        text += ' (default)' if name == default else ''
        group.add_argument(
            f'--{name}',
            dest='visibility',
            action='store_const',
            const=name,
            help=f'List only {name} images' if chosen else text,
        )


def add_protected(parser: Parser, *, default: str = '') -> None:
    """Add ``--protected`` and its opposite.

    :param default: what is said about that.
    """
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        '--protected',
        action='store_true',
        default=None,
        help='Prevent the image from being deleted',
    )
    group.add_argument(
        '--unprotected',
        dest='protected',
        action='store_false',
        help=f'Allow the image to be deleted{default}',
    )


def add_property(parser: Parser, help: str) -> None:
    """Add ``--property``."""
    parser.add_argument(
        '--property',
        dest='properties',
        metavar='<key=value>',
        action=parseractions.KeyValueAction,
        default=None,
        help=f'{help} (repeat option for several)',
    )


def add_tag(parser: Parser, help: str) -> None:
    """Add ``--tag``."""
    parser.add_argument(
        '--tag',
        dest='tags',
        metavar='<tag>',
        type=values.some,
        action='append',
        default=[],
        help=f'{help} (repeat option for several)',
    )


#: ``--project`` and ``--project-domain``.
add_project = identity.add_project_owner_option_to_parser


def add_new_images(parser: Parser) -> None:
    """Add where the data of new images is put."""
    parser.add_argument(
        '--store',
        metavar='<store>',
        type=values.some,
        help='Store for the data of new images (default: chosen by the cloud)',
    )
    parser.add_argument(
        '--no-reuse',
        dest='reuse',
        action='store_false',
        help='Create new images even if the cloud has images with the same '
        'data',
    )


def add_new_image(parser: Parser) -> None:
    """Add what a new image, of whatever kind, can be given."""
    add_visibility(parser, default='shared')
    add_protected(parser, default=' (default)')
    parser.add_argument(
        '--hidden',
        action='store_true',
        help='Hide the image from the default image list',
    )
    add_property(parser, 'Property to set; it overrides a computed one')
    add_tag(parser, 'Tag to set')
    parser.add_argument(
        '--architecture',
        metavar='<architecture>',
        type=values.some,
        help='Architecture, for example x86_64 (default: that of the kernel, '
        'or of the programs in the root filesystem)',
    )
    parser.add_argument(
        '--id',
        metavar='<uuid>',
        type=values.uuid,
        help='ID of the new image (default: random)',
    )
    add_project(parser)
    add_new_images(parser)
    parser.add_argument(
        '--keep-failed',
        action='store_true',
        help='If the upload fails, keep the images that it created',
    )


def add_minimums(parser: Parser, *, disk: str = '', ram: str = '') -> None:
    """Add ``--min-disk`` and ``--min-ram``.

    :param disk: what is said of the default, as ``ram``.
    """
    for noun, unit, what in (('disk', 'GiB', disk), ('ram', 'MiB', ram)):
        parser.add_argument(
            f'--min-{noun}',
            metavar=f'<{unit}>',
            type=values.count,
            help=f'Minimum {noun.replace("ram", "RAM")} size of a flavor to '
            f'boot the image, in {unit}{what}',
        )


def add_part_names(parser: Parser, *nouns: str) -> None:
    """Add ``--kernel-name`` and ``--ramdisk-name``."""
    for noun in nouns:
        parser.add_argument(
            f'--{noun}-name',
            metavar='<name>',
            type=values.some,
            help=f'Name of the new {noun} image (default: that of the file)',
        )


def add_parts(parser: Parser) -> None:
    """Add what says which kernel and ramdisk an AMI boots with."""
    for noun, none in (
        ('kernel', 'a kernel (and so to no ramdisk)'),
        ('ramdisk', 'a ramdisk'),
    ):
        group = parser.add_mutually_exclusive_group()
        group.add_argument(
            f'--{noun}',
            metavar='<file>|<image>',
            type=values.some,
            help=f'The {noun}: a file, or the name or ID of an image '
            '(default: the one that comes with the source, or that is found '
            'in its root filesystem)',
        )
        group.add_argument(
            f'--no-{noun}',
            action='store_true',
            help=f'Do not link the image to {none}',
        )
        add_part_names(parser, noun)


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
            'a filesystem that is uploaded unmodified gets no headroom',
            hint='remove --no-shrink or --headroom',
        )
    asked = parsed_args.headroom is not None or parsed_args.repair
    if finished and not asked and parsed_args.journal == 'keep':
        return False
    return bool(parsed_args.shrink)


def traits(parsed_args: argparse.Namespace) -> request.Traits:
    """Gather what one new image is given.

    :raises UsageError: if an option and a property contradict each other.
    """
    from amiclient.glance.upload import request

    refuse_contrary(parsed_args, 'architecture')
    return fill(
        request.Traits,
        parsed_args,
        tags=tuple(dict.fromkeys(parsed_args.tags)),
        properties=parsed_args.properties or {},
    )


def settings(
    parsed_args: argparse.Namespace, project_id: str | None
) -> request.Settings:
    """Gather what applies to all new images.

    :param project_id: of the project that ``--project`` names.
    """
    from amiclient.glance.upload import request

    return fill(
        request.Settings,
        parsed_args,
        owner=project_id,
        patience=patience(parsed_args),
    )
