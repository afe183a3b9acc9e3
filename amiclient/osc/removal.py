# SPDX-License-Identifier: Apache-2.0

"""Commands that delete: ``openstack ami delete``, and what others share."""

from __future__ import annotations

import argparse
import typing

from amiclient.osc import command
from amiclient.osc import options

if typing.TYPE_CHECKING:
    from amiclient.glance.change import delete
    from amiclient.glance import client


class Delete(command.Action):
    """A command that deletes images."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        options.add_network(parser)
        options.add_dry_run(parser)
        return parser

    def plan(
        self, parsed_args: argparse.Namespace, cloud: client.Catalog
    ) -> delete.RemovalPlan:
        """Plan what is deleted."""
        raise NotImplementedError

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Delete them."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance.change import delete

        cloud = self.catalog(parsed_args)
        planned = self.plan(parsed_args, cloud)
        self.warn(planned.warnings)
        self.warn(planned.kept)
        if parsed_args.dry_run:
            self.say(planned.describe())
            delete.refuse(planned.problems, planned.total, dry_run=True)
            return
        delete.execute(planned, cloud)


class DeleteAmi(Delete):
    """Delete AMIs; with --linked, their kernels and ramdisks too.

    The kernel and the ramdisk stay where another image links to them, hidden
    images and snapshots of servers included. Private images of other projects
    cannot be seen. Whatever fails, the rest of the list is done.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'ami',
            metavar='<ami>',
            nargs='+',
            help='Image to delete (name or ID)',
        )
        parser.add_argument(
            '--linked',
            action='store_true',
            help='Delete the kernel and the ramdisk too, unless another image '
            'links to them',
        )
        return parser

    def plan(
        self, parsed_args: argparse.Namespace, cloud: client.Catalog
    ) -> delete.RemovalPlan:
        """Plan what is deleted."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance.change import delete

        return delete.plan(cloud, parsed_args.ami, linked=parsed_args.linked)
