# SPDX-License-Identifier: Apache-2.0

"""Commands for AMIs as a whole: ``openstack ami upload, list, show``."""

from __future__ import annotations

import argparse
import typing

from amiclient.osc import command
from amiclient.osc import creation
from amiclient.osc import filters
from amiclient.osc import options
from amiclient.osc import sources
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.glance.upload import request
    from amiclient.osc.shown import columns
    from amiclient.source import bundle


class UploadAmi(command.ShowOne):
    """Shrink a root filesystem and register it with its kernel and ramdisk.

    The source is left untouched: what is sent is a shrunk copy. Either all
    three images are there in the end, linked and verified, or none that was
    not there before. With --dry-run the same columns, and one more that lists
    the images, say what would be; the status then is "planned".
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'source',
            metavar='<source>',
            type=values.path,
            help=sources.WHAT,
        )
        sources.add(parser)
        sources.add_fix(parser)
        parser.add_argument(
            '--name',
            metavar='<name>',
            type=values.some,
            help='Name of the new image (default: that of a saved AMI, or of '
            'the source without its suffix)',
        )
        creation.add_parts(parser)
        sources.add_kernel_version(parser)
        parser.add_argument(
            '--image-format',
            choices=('ami', 'raw', 'qcow2', 'auto'),
            help='Format of the root image: ami; raw in a bare container, '
            'which boots all the same, or qcow2 there, compressed; or auto '
            'for raw only if the cloud takes no ami (default: that of a saved '
            'AMI, or ami)',
        )
        parser.add_argument(
            '--no-shrink',
            dest='shrink',
            action='store_false',
            help='Send the filesystem as it is, and with it what is left in '
            'it of deleted files: to have more room in it, use --headroom',
        )
        options.add_shrink(parser, headroom=options.UPLOAD_HEADROOM)
        # Whether it was given decides on what is done with a saved AMI.
        parser.set_defaults(headroom=None)
        creation.add_new_image(parser)
        creation.add_linked(parser)
        creation.add_minimums(parser)
        options.add_work_directory(
            parser,
            'make the shrunk copy',
            default='the first of $TMPDIR, /var/tmp, the folder of the '
            'source and /tmp that has room; the one with most room for what '
            'has to be unpacked or taken out of a disk before, and for other '
            'work whose size is not known',
        )
        options.add_network(parser)
        options.add_run(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Register the triple."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance.upload import plan
        from amiclient.glance.upload import register
        from amiclient.glance.upload import request
        from amiclient.osc.shown import uploads

        proxy, watch = self.proxy(), self.watch(parsed_args)
        with sources.triple(parsed_args, watch) as source:
            wanted = request.adopt(self._request(parsed_args, source), source)
            planned = plan.plan(
                wanted,
                self.catalog(parsed_args),
                exact=parsed_args.dry_run,
                progress=watch,
            )
            for warning in (*source.notes, *planned.warnings):
                self.log.warning('%s', warning)
            if parsed_args.dry_run:
                return uploads.planned(planned.steps)
            triple = register.execute(planned, proxy, progress=watch)
        return uploads.uploaded(triple.ami, triple.uploaded, triple.reused)

    def _request(
        self, parsed_args: argparse.Namespace, source: bundle.Source
    ) -> request.UploadRequest:
        from amiclient.glance.upload import request

        return request.UploadRequest(
            source=parsed_args.source,
            kernel=creation.chosen_part(
                parsed_args, 'kernel', source.kernel, complete=source.complete
            ),
            ramdisk=creation.chosen_part(
                parsed_args,
                'ramdisk',
                source.ramdisk,
                complete=source.complete,
            ),
            kernel_name=parsed_args.kernel_name,
            ramdisk_name=parsed_args.ramdisk_name,
            image_format=parsed_args.image_format or source.image_format,
            shrink=creation.shrinks(parsed_args, finished=source.finished),
            headroom=parsed_args.headroom or options.DEFAULT_HEADROOM,
            journal=parsed_args.journal,
            repair=parsed_args.repair,
            min_disk=parsed_args.min_disk,
            min_ram=parsed_args.min_ram,
            work_directory=parsed_args.work_directory,
            traits=creation.traits(parsed_args),
            settings=creation.settings(
                parsed_args, self.project_id(parsed_args)
            ),
        )


class ListAmi(command.Lister):
    """List AMIs: the images that link to a kernel, whatever their format.

    With --check, Health tells the worst that is wrong with each and with its
    links, as "openstack ami verify" does, but for whom they are shared with:
    that would take a request for each. Images that should link to a kernel,
    but link to none, are listed as well then.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '--long', action='store_true', help='List more of each image'
        )
        parser.add_argument(
            '--check',
            action='store_true',
            help='Tell whether each boots, as far as its records say; list '
            'images of the format ami, or with a ramdisk, that link to no '
            'kernel as well',
        )
        filters.add(parser)
        options.add_network(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """List them."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance import links
        from amiclient.glance.verify import reports
        from amiclient.osc.shown import amis
        from amiclient.osc.shown import columns

        cloud = self.catalog(parsed_args)
        found = links.list_amis(
            cloud,
            filters.query(parsed_args, cloud, self.project_id(parsed_args)),
            limit=parsed_args.limit,
            marker=filters.marker(parsed_args, cloud),
            resolve=parsed_args.long or parsed_args.check,
            broken=parsed_args.check,
        )
        checked = reports.reports(cloud, found, check=parsed_args.check)
        shown = amis.listed(check=parsed_args.check)
        return columns.many(shown, checked, long=parsed_args.long)


class ShowAmi(command.ShowOne):
    """Show one AMI with its kernel and its ramdisk, and the health of each.

    A kernel or ramdisk whose status is "missing" was deleted, or cannot be
    seen by this project: no server boots from this AMI then.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'ami', metavar='<ami>', help='Image to show (name or ID)'
        )
        parser.add_argument(
            '--human-readable',
            action='store_true',
            help='Write sizes in tables for people, such as 664.1 MiB',
        )
        options.add_network(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Show it."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance import links
        from amiclient.glance.verify import reports
        from amiclient.osc.shown import amis
        from amiclient.osc.shown import columns

        cloud = self.catalog(parsed_args)
        report = reports.report(cloud, links.show(cloud, parsed_args.ami))
        shown = amis.shown(human_readable=parsed_args.human_readable)
        return columns.one(shown, report)
