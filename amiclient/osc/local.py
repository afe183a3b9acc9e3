# SPDX-License-Identifier: Apache-2.0

"""Commands that need no cloud: ``openstack ami shrink``."""

from __future__ import annotations

import argparse
import typing

from amiclient.osc import command
from amiclient.osc import options
from amiclient.osc import sources
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.osc.shown import columns


class ShrinkImage(command.ShowOne):
    """Shrink an ext2, ext3 or ext4 image to its true minimum.

    The file is replaced atomically, once the new one is verified: whatever
    happens meanwhile, it is the old or the new one, whole. A block device is
    shrunk in place.

    "in_use" is what the result has in use, and "lower_bound" what no shrink
    to the same headroom and journal gets below; --dry-run tells both to the
    byte.
    """

    auth_required = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'image',
            metavar='<image>',
            type=values.path,
            help='File or block device with an ext2, ext3 or ext4 filesystem; '
            'with --output, whatever "openstack ami upload" takes',
        )
        parser.add_argument(
            '--output',
            metavar='<file>',
            type=values.path,
            help='Write the result to this file, and leave <image> untouched',
        )
        sources.add(parser)
        sources.add_fix(parser)
        options.add_shrink(parser, headroom='0')
        parser.add_argument(
            '--in-place',
            action='store_true',
            help='Resize the file itself: it takes no room for a copy, but a '
            'crash meanwhile leaves it damaged',
        )
        options.add_work_directory(
            parser,
            'make temporary files, such as the copy on which a journal is '
            'replayed',
            default='beside the result, which itself is always made there',
        )
        options.add_run(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Shrink the image."""
        # Not at the top: see amiclient.osc.
        from amiclient.osc.shown import columns
        from amiclient.source import shrink

        if parsed_args.output is None:
            options.refuse(
                {
                    '--fix': parsed_args.fix,
                    '--partition': parsed_args.partition is not None,
                },
                'what is replaced by its shrunk copy is taken as it is',
                hint='give --output FILE',
            )
        request = shrink.Request(
            source=parsed_args.image,
            choice=sources.choice(parsed_args),
            output=parsed_args.output,
            headroom=parsed_args.headroom,
            journal=parsed_args.journal,
            repair=parsed_args.repair,
            in_place=parsed_args.in_place,
        )
        watch = self.watch(parsed_args)
        with shrink.planned(
            request, exact=parsed_args.dry_run, progress=watch
        ) as plan:
            for note in plan.source.notes:
                self.log.warning('%s', note)
            if parsed_args.dry_run:
                return columns.one(columns.SHRINK_PLAN, plan.shown)
            done = shrink.execute(plan, progress=watch)
        return columns.one(columns.SHRUNK, done)
