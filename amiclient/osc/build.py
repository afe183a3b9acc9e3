# SPDX-License-Identifier: Apache-2.0

"""Making a filesystem of files: ``openstack ami build``."""

from __future__ import annotations

import argparse
import typing

from amiclient.osc import command
from amiclient.osc import options
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.osc.shown import columns


class BuildImage(command.ShowOne):
    """Make a minimal ext4 image of a directory or tar archive, without root.

    Owners, modes, attributes, links, devices and holes are those of the
    source; the same source gives the same bytes.
    """

    auth_required = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'source',
            metavar='<source>',
            type=values.path,
            help='Directory or tar archive, plain or compressed with gzip, '
            'xz, bzip2 or zstd',
        )
        parser.add_argument(
            '--output',
            metavar='<file>',
            type=values.path,
            required=True,
            help='File to write the filesystem to',
        )
        parser.add_argument(
            '--size',
            metavar='<size>',
            type=values.size,
            help='Size of the filesystem (default: as small as it can be)',
        )
        parser.add_argument(
            '--label',
            metavar='<label>',
            help='Label of the filesystem, up to 16 bytes',
        )
        options.add_room(
            parser,
            headroom='0',
            journal='Size of the journal, or none; keep is for the size that '
            'mke2fs chooses (default: keep)',
        )
        parser.add_argument(
            '--owner',
            metavar='<uid>:<gid>',
            type=values.owner,
            help='User and group, as numbers, that everything shall belong '
            'to (default: as in the source)',
        )
        parser.add_argument(
            '--overrides',
            metavar='<file>',
            type=values.path,
            help='File in the form of mtree(5) with owners, modes, devices '
            'and attributes that take the place of those in the source',
        )
        options.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Make the image."""
        # Not at the top: see amiclient.osc.
        from amiclient.osc.shown import columns
        from amiclient.source import build

        request = build.BuildRequest(
            source=parsed_args.source,
            output=parsed_args.output,
            size=parsed_args.size,
            headroom=parsed_args.headroom,
            label=parsed_args.label,
            journal=parsed_args.journal,
            overrides=parsed_args.overrides,
            owner=parsed_args.owner,
        )
        done = build.execute(
            build.plan(request), progress=self.watch(parsed_args)
        )
        return columns.one(columns.BUILT, done)
