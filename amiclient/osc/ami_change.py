# SPDX-License-Identifier: Apache-2.0

"""Commands that change an AMI: ``openstack ami set`` and ``ami unset``."""

from __future__ import annotations

import argparse
import typing

from amiclient.osc import command
from amiclient.osc import options
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.glance.change import update

#: Options that are properties.
_PROPERTIES = {
    'architecture': 'Architecture, such as x86_64',
    'os_distro': 'Distribution, such as debian',
    'os_version': 'Version of the distribution',
}


class SetAmi(command.Action):
    """Change an AMI, or link it to another kernel or ramdisk.

    A kernel that is a file is uploaded, unless the cloud holds the same bytes
    already, and linked to; it gets the visibility, the protection and the
    members of the AMI. If the link cannot be changed, it is removed again.
    The kernel that was linked before stays. With --linked, the visibility,
    protection and hiding that are asked for go to kernel and ramdisk as well;
    they are always at least as visible as the AMI then. One that other AMIs
    need as it is stays so, with a note; if one of another project stays, that
    is an error in the end.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'ami', metavar='<ami>', help='Image to change (name or ID)'
        )
        parser.add_argument(
            '--name', metavar='<name>', type=values.some, help='New name'
        )
        _add_relink(parser)
        options.add_visibility(parser)
        options.add_protected(parser)
        hidden = parser.add_mutually_exclusive_group()
        hidden.add_argument(
            '--hidden',
            action='store_true',
            default=None,
            help='Leave it out of lists',
        )
        hidden.add_argument(
            '--unhidden',
            dest='hidden',
            action='store_false',
            help='Show it in lists',
        )
        parser.add_argument(
            '--linked',
            action='store_true',
            help='Change kernel and ramdisk as well: visibility, members, '
            'protection and hiding',
        )
        options.add_property(parser, 'Property to set')
        options.add_tag(parser, 'Tag to add')
        for name, text in _PROPERTIES.items():
            option = name.replace('_', '-')
            parser.add_argument(
                f'--{option}',
                metavar=f'<{option}>',
                type=values.some,
                help=text,
            )
        for option, unit, what in (
            ('--min-disk', '<GiB>', 'Disk'),
            ('--min-ram', '<MiB>', 'Memory'),
        ):
            parser.add_argument(
                option,
                metavar=unit,
                type=values.count,
                help=f'{what} that a flavor must have',
            )
        options.add_network(parser)
        options.add_run(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Change it."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance.change import changeplan
        from amiclient.glance.change import update

        wanted = _request(parsed_args)
        proxy, watch = self.proxy(), self.watch(parsed_args)
        cloud = self.catalog(parsed_args)
        planned = changeplan.plan(wanted, cloud, progress=watch)
        self.warn(planned.warnings)
        if parsed_args.dry_run:
            self.say(planned.describe())
        else:
            update.execute(planned, cloud, proxy, progress=watch)
            self.warn(planned.notes)
        planned.check()


def _add_relink(parser: argparse.ArgumentParser) -> None:
    """Add what says which kernel and ramdisk the AMI boots with from now."""
    group = parser.add_mutually_exclusive_group()
    parser.add_argument(
        '--kernel',
        metavar='<file>|<image>',
        type=values.some,
        help='Kernel to link to: a file, or the id or name of an image that '
        'the cloud holds already',
    )
    group.add_argument(
        '--ramdisk',
        metavar='<file>|<image>',
        type=values.some,
        help='Ramdisk to link to, likewise',
    )
    group.add_argument(
        '--no-ramdisk', action='store_true', help='Link to no ramdisk'
    )
    for noun in ('kernel', 'ramdisk'):
        parser.add_argument(
            f'--{noun}-name',
            metavar='<name>',
            type=values.some,
            help=f'Name of the new {noun} image (default: that of the file)',
        )
    parser.add_argument(
        '--store',
        metavar='<store>',
        type=values.some,
        help='Store that is to hold the data of new images (default: up to '
        'the cloud)',
    )
    parser.add_argument(
        '--no-reuse',
        dest='reuse',
        action='store_false',
        help='Create new images even if the cloud holds the same bytes '
        'already',
    )


def _request(parsed_args: argparse.Namespace) -> update.ChangeRequest:
    from amiclient.glance.change import update

    options.refuse_contrary(parsed_args, *_PROPERTIES)
    own = {name: getattr(parsed_args, name) for name in _PROPERTIES}
    return update.ChangeRequest(
        ami=parsed_args.ami,
        name=parsed_args.name,
        visibility=parsed_args.visibility,
        protected=parsed_args.protected,
        hidden=parsed_args.hidden,
        min_disk=parsed_args.min_disk,
        min_ram=parsed_args.min_ram,
        tags=tuple(parsed_args.tags),
        properties={
            **(parsed_args.properties or {}),
            **{name: text for name, text in own.items() if text is not None},
        },
        kernel=parsed_args.kernel,
        ramdisk=parsed_args.ramdisk,
        no_ramdisk=parsed_args.no_ramdisk,
        kernel_name=parsed_args.kernel_name,
        ramdisk_name=parsed_args.ramdisk_name,
        linked=parsed_args.linked,
        reuse=parsed_args.reuse,
        store=parsed_args.store,
        patience=options.patience(parsed_args),
    )


class UnsetAmi(command.Action):
    """Take properties, tags or links off an AMI.

    Either all that was named is taken off, or nothing. With --linked, a
    kernel or ramdisk that other images link to keeps what it has, with a
    note; if one of another project does, that is an error in the end.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'ami', metavar='<ami>', help='Image to change (name or ID)'
        )
        for option, what in (('property', 'Property'), ('tag', 'Tag')):
            parser.add_argument(
                f'--{option}',
                metavar=f'<{option}>',
                action='append',
                default=[],
                help=f'{what} to take off (repeat it for several)',
            )
        for noun in ('kernel', 'ramdisk'):
            parser.add_argument(
                f'--{noun}',
                action='store_true',
                help=f'Link to no {noun} any more; the {noun} stays',
            )
        parser.add_argument(
            '--linked',
            action='store_true',
            help='Take properties and tags off the kernel and the ramdisk as '
            'well, where they have them and no other image links to them',
        )
        options.add_network(parser)
        options.add_dry_run(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Change it."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance.change import unset
        from amiclient.glance.change import update
        from amiclient import progress

        proxy = self.proxy()
        cloud = self.catalog(parsed_args)
        wanted = unset.UnsetRequest(
            ami=parsed_args.ami,
            tags=tuple(parsed_args.tag),
            properties=tuple(parsed_args.property),
            kernel=parsed_args.kernel,
            ramdisk=parsed_args.ramdisk,
            linked=parsed_args.linked,
        )
        planned = unset.plan(wanted, cloud)
        if parsed_args.dry_run:
            self.say(planned.describe())
        else:
            update.execute(planned, cloud, proxy, progress=progress.QUIET)
            self.warn(planned.notes)
        planned.check()
