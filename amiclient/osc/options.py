#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""Options, each defined once, in groups that commands pick from."""

from __future__ import annotations

import argparse
import os
import typing

from osc_lib.cli import identity
from osc_lib.cli import parseractions

from amiclient import exceptions
from amiclient.osc import values
from amiclient import units

if typing.TYPE_CHECKING:
    from amiclient.glance import retry
    from amiclient.glance.upload import request

#: What an upload leaves free for root, so that the guest gets far enough to
#: grow its filesystem.
UPLOAD_HEADROOM = '64M'
DEFAULT_HEADROOM = units.parse_headroom(UPLOAD_HEADROOM)

_VISIBILITIES = {
    'public': 'Everybody can use it',
    'private': 'Only the project that owns it can use it',
    'shared': 'The owner can share it with projects',
    'community': 'Everybody who knows its id can use it',
}


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
    parser.add_argument(
        '--dry-run',
        action='store_true',
        help='Check everything and show what would be done, but do nothing',
    )
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


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add what decides how patient a command is with the network."""
    parser.add_argument(
        '--retries',
        metavar='<number>',
        type=values.count,
        help='How often to try again what the network or the cloud kept '
        'from succeeding (default: 4)',
    )
    parser.add_argument(
        '--timeout',
        metavar='<seconds>',
        type=values.seconds,
        help='Give up an attempt when the network stands still for so long; '
        'for answers that may take the cloud a while, wait longer in '
        'proportion (default: 60)',
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
    return retry.Patience.of(**given)


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
        action='append',
        default=[],
        help=f'{help} (repeat it for several)',
    )


def add_project(parser: argparse.ArgumentParser) -> None:
    """Add ``--project`` and ``--project-domain``."""
    identity.add_project_owner_option_to_parser(parser)


def add_new_image(parser: argparse.ArgumentParser) -> None:
    """Add what a new image, of whatever kind, can be given."""
    add_visibility(parser, default='shared')
    add_protected(parser, default=' (default)')
    parser.add_argument(
        '--hidden',
        action='store_true',
        help='Leave it out of lists by default',
    )
    add_property(parser, 'Property to set, in place of a computed one too')
    add_tag(parser, 'Tag to set')
    parser.add_argument(
        '--architecture',
        metavar='<architecture>',
        help='Architecture, such as x86_64 (default: that of the kernel)',
    )
    parser.add_argument(
        '--id',
        metavar='<uuid>',
        type=values.uuid,
        help='Id of the new image (default: a random one)',
    )
    add_project(parser)
    parser.add_argument(
        '--store',
        metavar='<store>',
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
        default=0,
        help='Memory that a flavor must have (default: 0)',
    )


def add_parts(parser: argparse.ArgumentParser) -> None:
    """Add what says which kernel and ramdisk an AMI boots with."""
    for noun, what in (('kernel', 'boot'), ('ramdisk', 'boot with')):
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
            help=f'Link to no {noun}',
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
    if given is None and not getattr(parsed_args, f'no_{noun}'):
        if found is not None or complete:
            return None if found is None else os.fspath(found)
        raise exceptions.UsageError(
            f'no {noun} was named',
            hint=f'give --{noun} FILE or IMAGE, or --no-{noun}',
        )
    return given


def shrinks(parsed_args: argparse.Namespace, *, finished: bool) -> bool:
    """Tell whether the filesystem is to be shrunk.

    :param finished: whether it is as it should be already: then it is left
        as it is, unless an option says how to shrink it.
    """
    asked = parsed_args.headroom is not None or parsed_args.repair
    if finished and not asked and parsed_args.journal == 'keep':
        return False
    return bool(parsed_args.shrink)


def traits(parsed_args: argparse.Namespace) -> request.Traits:
    """Gather what one new image is given."""
    # Not at the top: see amiclient.osc.
    from amiclient.glance.upload import request

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
        patience=patience(parsed_args),
    )
