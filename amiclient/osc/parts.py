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
from amiclient.osc import sources
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.glance.change import delete
    from amiclient.glance import client


class _Kernel(command._Base):
    #: What to call it, and Glance's format.
    noun: ClassVar[str] = 'kernel'
    format: ClassVar[str] = 'aki'

    def get_description(self) -> str:
        """Say of either noun what the text of its command says of both."""
        text = str(super().get_description())
        kind = self.format.upper()
        return text.format(noun=self.noun, format=self.format, kind=kind)


class _Ramdisk(_Kernel):
    noun = 'ramdisk'
    format = 'ari'


class UploadKernel(_Kernel, command.ShowOne):
    """Register a {noun} as an {kind} image.

    If the cloud already has an {kind} with the same data, that image is the
    result, and nothing is uploaded. With --dry-run, the output has the same
    columns and a list of the images; the status is "planned".
    """

    # It links to nothing, and is not shrunk.
    spare = frozenset({'kernel_id', 'ramdisk_id', 'size_before'})
    spare_if_unset = frozenset({'reused'})

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        what = {'<file>': f'File with the {self.noun}, or its URL'}
        options.add(parser, what, type=values.source)
        options.add(parser, sources.DOWNLOAD)
        options.add(parser, options.new_name('that of the file'))
        options.add_new_image(parser)
        command.add_human_readable(parser)
        options.add(parser, options.NETWORK)
        options.add(parser, options.DRY_RUN | options.PROGRESS)

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
    pass


class ListKernel(_Kernel, command.Lister):
    """List {noun}s: the images with the disk format {format}."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        what = 'List additional fields, and how many images link to each'
        options.add(parser, {'--long': what})
        command.add_human_readable(parser)
        filters.add(parser, links=False)
        options.add(parser, options.NETWORK)

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
    pass


class ShowKernel(_Kernel, command.ShowOne):
    """Show one {noun}, and the images that link to it."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        what = f'{self.noun.title()} to show'
        options.add(parser, options.image(what, self.noun))
        command.add_human_readable(parser)
        options.add(parser, options.NETWORK)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance import links
        from amiclient.glance import model
        from amiclient.osc import columns

        found = links.find_part(
            self.catalog(parsed_args),
            model.Kind(self.format),
            getattr(parsed_args, self.noun),
        )
        return columns.one(columns.PART, found)


class ShowRamdisk(_Ramdisk, ShowKernel):
    pass


class DeleteKernel(_Kernel, ami_change.Delete):
    """Delete {noun}s that no image links to.

    Images without their {noun} may no longer boot; this includes hidden
    images and snapshots of servers. Private images of other projects are not
    visible, and so not checked. If one deletion fails, the others are still
    done.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        what = f'{self.noun.title()} to delete'
        options.add(parser, options.image(what, self.noun), nargs='+')
        force = (
            f'Delete the {self.noun} even if images link to it; these may no '
            'longer boot'
        )
        options.add(parser, {'--force': force})

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
    pass
