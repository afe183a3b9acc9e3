# SPDX-License-Identifier: Apache-2.0

"""Commands for kernels and ramdisks: upload, list, show and delete them."""

from __future__ import annotations

import argparse
import typing
from typing import ClassVar

from amiclient.osc import ami_change
from amiclient.osc import command
from amiclient.osc import filters
from amiclient.osc import options
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.glance.change import delete
    from amiclient.glance import client


class _Kernel:
    #: What to call it, and Glance's format.
    noun: ClassVar[str] = 'kernel'
    format: ClassVar[str] = 'aki'


class _Ramdisk(_Kernel):
    noun = 'ramdisk'
    format = 'ari'


class UploadKernel(_Kernel, command.ShowOne):
    """Register a kernel as an AKI image.

    If the cloud already has an AKI with the same data, that image is the
    result, and nothing is uploaded. With --dry-run, the output has the same
    columns and a list of the images; the status is "planned".
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
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
        options.add_new_image(parser)
        options.add_network(parser)
        options.add_run(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance import model
        from amiclient.glance.upload import plan
        from amiclient.glance.upload import register
        from amiclient.glance.upload import request
        from amiclient.osc import columns

        wanted = request.PartRequest(
            kind=model.Kind(self.format),
            path=parsed_args.file,
            traits=options.traits(parsed_args),
            settings=options.settings(
                parsed_args, self.project_id(parsed_args)
            ),
        )
        proxy, watch = self.proxy(), self.watch(parsed_args)
        planned = plan.plan_part(
            wanted, self.catalog(parsed_args), progress=watch
        )
        self.warn(planned.warnings)
        if parsed_args.dry_run:
            return columns.planned([planned.step])
        done = register.execute_part(planned, proxy, progress=watch)
        return columns.uploaded(done.record, done.uploaded, done.reused)


class UploadRamdisk(_Ramdisk, UploadKernel):
    """Register a ramdisk as an ARI image.

    If the cloud already has an ARI with the same data, that image is the
    result, and nothing is uploaded. With --dry-run, the output has the same
    columns and a list of the images; the status is "planned".
    """


class ListKernel(_Kernel, command.Lister):
    """List kernels: the images with the disk format aki."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            '--long',
            action='store_true',
            help='List additional fields, and how many images link to each',
        )
        filters.add(parser, links=False)
        options.add_network(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance import links
        from amiclient.glance import model
        from amiclient.osc import columns

        cloud = self.catalog(parsed_args)
        found = links.list_parts(
            cloud,
            model.Kind(self.format),
            filters.query(parsed_args, cloud, self.project_id(parsed_args)),
            limit=parsed_args.limit,
            marker=filters.marker(parsed_args, cloud),
            used=parsed_args.long,
        )
        return columns.many(columns.parts(long=parsed_args.long), found)


class ListRamdisk(_Ramdisk, ListKernel):
    """List ramdisks: the images with the disk format ari."""


class ShowKernel(_Kernel, command.ShowOne):
    """Show one kernel, and the images that link to it."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add_image(
            parser, f'{self.noun.title()} to show', dest=self.noun
        )
        options.add_human_readable(parser)
        options.add_network(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance import links
        from amiclient.glance import model
        from amiclient.osc import columns

        found = links.find_part(
            self.catalog(parsed_args),
            model.Kind(self.format),
            getattr(parsed_args, self.noun),
        )
        shown = columns.part(human_readable=parsed_args.human_readable)
        return columns.one(shown, found)


class ShowRamdisk(_Ramdisk, ShowKernel):
    """Show one ramdisk, and the images that link to it."""


class DeleteKernel(_Kernel, ami_change.Delete):
    """Delete kernels that no image links to.

    Without its kernel, an image does not boot: this includes hidden images
    and snapshots of servers. Private images of other projects are not
    visible, and so not checked. If one deletion fails, the others are still
    done.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        options.add_image(
            parser, f'{self.noun.title()} to delete', dest=self.noun, nargs='+'
        )
        parser.add_argument(
            '--force',
            action='store_true',
            help='Delete it even if images link to it; these no longer boot',
        )

    def plan(
        self, parsed_args: argparse.Namespace, cloud: client.Catalog
    ) -> delete.DeletePlan:
        from amiclient.glance.change import delete
        from amiclient.glance import model

        return delete.plan_parts(
            cloud,
            model.Kind(self.format),
            getattr(parsed_args, self.noun),
            force=parsed_args.force,
        )


class DeleteRamdisk(_Ramdisk, DeleteKernel):
    """Delete ramdisks that no image links to.

    Without its ramdisk, an image may not boot: this includes hidden images
    and snapshots of servers. Private images of other projects are not
    visible, and so not checked. If one deletion fails, the others are still
    done.
    """
