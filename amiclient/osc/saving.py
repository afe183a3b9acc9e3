# SPDX-License-Identifier: Apache-2.0

"""Saving AMIs in files: ``openstack ami save``."""

from __future__ import annotations

import argparse
import typing

from amiclient.osc import command
from amiclient.osc import options
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.osc.shown import columns


class SaveAmi(command.ShowOne):
    """Save an AMI with its kernel and its ramdisk in files.

    They are verified, and described by a manifest: "openstack ami upload"
    makes the same of them in another cloud. After a break, run it again to go
    on; what is there already is not fetched again. An archive of an AMI that
    has changed since is made anew.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'ami', metavar='<ami>', help='Image to save (name or ID)'
        )
        parser.add_argument(
            '--directory',
            metavar='<directory>',
            type=values.path,
            help='Where to save it: a directory that is new, empty or of an '
            'earlier run (default: one named after the AMI; the current one '
            'for an archive)',
        )
        # cliff has --format as another name of -f, which is left as it is.
        group = parser.add_argument_group(
            title='what is made', conflict_handler='resolve'
        )
        group.add_argument(
            '--format',
            dest='save_format',
            choices=('directory', 'uec'),
            default='directory',
            help='Save as files in a directory, or as one archive in the '
            'style of UEC (default: directory); for the format of what is '
            'printed, see -f',
        )
        options.add_progress(parser)
        options.add_network(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Save it."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance.transfer import save
        from amiclient.osc.shown import columns

        wanted = save.SaveRequest(
            ami=parsed_args.ami,
            directory=parsed_args.directory,
            format=parsed_args.save_format,
            patience=options.patience(parsed_args),
        )
        proxy, watch = self.proxy(), self.watch(parsed_args)
        return columns.one(
            columns.SAVED, save.save(wanted, proxy, progress=watch)
        )
