# SPDX-License-Identifier: Apache-2.0

"""What the commands of kernels and those of ramdisks have in common."""

from __future__ import annotations

import argparse
import typing
from typing import ClassVar


from amiclient.osc import command
from amiclient.osc import creation
from amiclient.osc import filters
from amiclient.osc import options
from amiclient.osc import removal
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.glance.change import delete
    from amiclient.glance import client
    from amiclient.osc.shown import columns


class UploadPart(command.ShowOne):
    """The upload of one file."""

    #: What to call it, and Glance's format.
    noun: ClassVar[str]
    format: ClassVar[str]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'file',
            metavar='<file>',
            type=values.path,
            help=f'File with the {self.noun}',
        )
        parser.add_argument(
            '--name',
            metavar='<name>',
            type=values.some,
            help='Name of the new image (default: that of the file)',
        )
        creation.add_new_image(parser)
        options.add_network(parser)
        options.add_run(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Register it."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance import model
        from amiclient.glance.upload import plan
        from amiclient.glance.upload import register
        from amiclient.glance.upload import request
        from amiclient.osc.shown import uploads

        wanted = request.PartRequest(
            kind=model.Kind(self.format),
            path=parsed_args.file,
            traits=creation.traits(parsed_args),
            settings=creation.settings(
                parsed_args, self.project_id(parsed_args)
            ),
        )
        proxy, watch = self.proxy(), self.watch(parsed_args)
        planned = plan.plan_part(
            wanted, self.catalog(parsed_args), progress=watch
        )
        for warning in planned.warnings:
            self.log.warning('%s', warning)
        if parsed_args.dry_run:
            return uploads.planned([planned.step])
        done = register.execute_part(planned, proxy, progress=watch)
        return uploads.uploaded(done.record, done.uploaded, done.reused)


class ListParts(command.Lister):
    """The kernels or the ramdisks of a cloud."""

    #: Glance's format.
    format: ClassVar[str]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '--long',
            action='store_true',
            help='List more of each image, and how many images link to it',
        )
        filters.add(parser, links=False)
        options.add_network(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """List them."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance import links
        from amiclient.glance import model
        from amiclient.osc.shown import columns
        from amiclient.osc.shown import parts

        cloud = self.catalog(parsed_args)
        found = links.list_parts(
            cloud,
            model.Kind(self.format),
            filters.query(parsed_args, cloud, self.project_id(parsed_args)),
            limit=parsed_args.limit,
            marker=filters.marker(parsed_args, cloud),
            used=parsed_args.long,
        )
        return columns.many(parts.LIST, found, long=parsed_args.long)


class ShowPart(command.ShowOne):
    """One kernel or ramdisk, with the images that link to it."""

    noun: ClassVar[str]
    format: ClassVar[str]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            self.noun,
            metavar=f'<{self.noun}>',
            help=f'The {self.noun} to show (name or ID)',
        )
        parser.add_argument(
            '--human-readable',
            action='store_true',
            help='Write the size in tables for people, such as 7.9 MiB',
        )
        options.add_network(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Show it."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance import links
        from amiclient.glance import model
        from amiclient.osc.shown import columns
        from amiclient.osc.shown import parts

        found = links.find_part(
            self.catalog(parsed_args),
            model.Kind(self.format),
            getattr(parsed_args, self.noun),
        )
        shown = parts.shown(human_readable=parsed_args.human_readable)
        return columns.one(shown, found)


class DeleteParts(removal.Delete):
    """The deletion of kernels or of ramdisks."""

    noun: ClassVar[str]
    format: ClassVar[str]

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            self.noun,
            metavar=f'<{self.noun}>',
            nargs='+',
            help=f'The {self.noun} to delete (name or ID)',
        )
        parser.add_argument(
            '--force',
            action='store_true',
            help='Delete it even if images link to it, which do not boot any '
            'more then',
        )
        return parser

    def plan(
        self, parsed_args: argparse.Namespace, cloud: client.Catalog
    ) -> delete.RemovalPlan:
        """Plan what is deleted."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance.change import delete
        from amiclient.glance import model

        return delete.plan_parts(
            cloud,
            model.Kind(self.format),
            getattr(parsed_args, self.noun),
            force=parsed_args.force,
        )
