# SPDX-License-Identifier: Apache-2.0

"""Options, each defined once, in groups that commands pick from."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
import sys
import typing

from osc_lib.cli import identity
from osc_lib.cli import parseractions

from amiclient import errors
from amiclient.osc import values
from amiclient import units

if typing.TYPE_CHECKING:
    from amiclient.glance import retry

#: What an upload leaves free for root, so that the guest gets far enough to
#: grow its filesystem.
UPLOAD_HEADROOM = '64M'
DEFAULT_HEADROOM = units.parse_headroom(UPLOAD_HEADROOM)

#: Where work is done if the user has not said, and how much room it takes is
#: not known yet.
MOST_ROOM = (
    'the one of $TMPDIR, /var/tmp, the folder of the source and /tmp that '
    'has most room'
)

_VISIBILITIES = {
    'public': 'Everybody can use it',
    'private': 'Only the project that owns it can use it',
    'shared': 'The owner can share it with projects',
    'community': 'Everybody who knows its id can use it',
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
                hint='leave out one of them',
            )


def add_room(
    parser: argparse.ArgumentParser, *, headroom: str, journal: str
) -> None:
    """Add what a filesystem holds besides its files.

    :param headroom: the default of ``--headroom``.
    :param journal: the help of ``--journal``.
    """
    parser.add_argument(
        '--headroom',
        metavar='<size>|<percent>',
        type=values.headroom,
        default=units.parse_headroom(headroom),
        help=(
            'Free space to leave in the filesystem, such as 64M or 5%%; '
            f'percent are of what is in use (default: {headroom})'
        ),
    )
    parser.add_argument(
        '--journal',
        metavar='keep|none|<size>',
        type=values.journal,
        default='keep',
        help=journal,
    )


def add_shrink(parser: argparse.ArgumentParser, *, headroom: str) -> None:
    """Add what decides how a filesystem is shrunk.

    :param headroom: the default of ``--headroom``.
    """
    add_room(
        parser,
        headroom=headroom,
        journal='Keep the journal, drop it or resize it (default: keep)',
    )
    parser.add_argument(
        '--repair',
        action='store_true',
        help='Let e2fsck fix what it would not fix without being asked',
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add what decides how a long command behaves."""
    add_dry_run(parser)
    add_progress(parser)


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add ``--dry-run``, for a command that takes no time."""
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='Check everything and show what would be done, but do nothing',
    )


def add_progress(parser: argparse.ArgumentParser) -> None:
    """Add ``--no-progress``."""
    parser.add_argument(
        '--no-progress',
        action='store_true',
        help='Show no progress bars (there are none either with -q, or if '
        'stderr is not a terminal)',
    )


def add_work_directory(
    parser: argparse.ArgumentParser, what: str, *, default: str
) -> None:
    """Add ``--work-directory``.

    :param what: what is done there.
    :param default: where that is done otherwise.
    """
    parser.add_argument(
        '--work-directory',
        metavar='<directory>',
        type=values.path,
        help=f'Where to {what} (default: {default})',
    )


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add what decides how patient a command is with the network."""
    parser.add_argument(
        '--retries',
        metavar='<number>',
        type=values.count,
        help='How often to try again what the network or the cloud kept '
        'from succeeding, after 1, 2, 4 ... 30 seconds, or the 2 minutes at '
        'most that the cloud asks for (default: 4)',
    )
    parser.add_argument(
        '--timeout',
        metavar='<seconds>',
        type=values.seconds,
        help='Give up an attempt when the network stands still for so long; '
        'for answers that may take the cloud a while, wait longer in '
        'proportion. Together with logging in again, an attempt at anything '
        'but data takes 3 times as long at most, or 10 seconds (default: 60)',
    )


def patience(parsed_args: argparse.Namespace) -> retry.Patience:
    """Tell how patient to be with the network, by :func:`add_network`."""
    # Not at the top: see amiclient.osc.
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
    parser: argparse.ArgumentParser,
    *,
    default: str | None = None,
    chosen: bool = False,
) -> None:
    """Add the four visibilities, of which there can be one.

    :param default: what a new image has.
    :param chosen: whether images are chosen by it.
    """
    group = parser.add_mutually_exclusive_group()
    for name, text in _VISIBILITIES.items():
        text += ' (default)' if name == default else ''
        text = f'Only those that are {name}' if chosen else text
        group.add_argument(
            f'--{name}',
            dest='visibility',
            action='store_const',
            const=name,
            help=text,
        )


def add_protected(
    parser: argparse.ArgumentParser, *, default: str = ''
) -> None:
    """Add ``--protected`` and its opposite.

    :param default: what is said about that.
    """
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        '--protected',
        action='store_true',
        default=None,
        help='Keep it from being deleted',
    )
    group.add_argument(
        '--unprotected',
        dest='protected',
        action='store_false',
        help=f'Allow that it is deleted{default}',
    )


def add_property(parser: argparse.ArgumentParser, help: str) -> None:
    """Add ``--property``."""
    parser.add_argument(
        '--property',
        dest='properties',
        metavar='<key=value>',
        action=parseractions.KeyValueAction,
        default=None,
        help=f'{help} (repeat it for several)',
    )


def add_tag(parser: argparse.ArgumentParser, help: str) -> None:
    """Add ``--tag``."""
    parser.add_argument(
        '--tag',
        dest='tags',
        metavar='<tag>',
        type=values.some,
        action='append',
        default=[],
        help=f'{help} (repeat it for several)',
    )


def add_project(parser: argparse.ArgumentParser) -> None:
    """Add ``--project`` and ``--project-domain``."""
    identity.add_project_owner_option_to_parser(parser)
