# SPDX-License-Identifier: Apache-2.0

"""Command that looks for trouble in the cloud: ``openstack ami verify``."""

from __future__ import annotations

import argparse
import typing

from amiclient.osc import findings
from amiclient.osc import options
from amiclient.osc import sources
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.glance.verify import against
    from amiclient.osc.shown import columns


class VerifyAmi(findings.Check):
    """Find what would keep an AMI from booting, and for whom.

    What is found is listed, with a command that mends it where there is one;
    the exit status is 1 if any of it is an error. A sound AMI has an empty
    list.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'ami', metavar='<ami>', help='Image to check (name or ID)'
        )
        parser.add_argument(
            '--deep',
            action='store_true',
            help='Download the data of all three images, and check that it '
            'is whole, a filesystem in order, a kernel and a ramdisk, and '
            'what "openstack ami check" would check',
        )
        parser.add_argument(
            '--against',
            metavar='<source>',
            type=values.path,
            help='Compare with what an upload of this source would send, as '
            'it is or shrunk: the bytes; with --deep, the files. Kernel and '
            f'ramdisk, too, if it brings them. {sources.WHAT}',
        )
        sources.add(parser)
        sources.add_fix(parser)
        options.add_shrink(parser, headroom=options.UPLOAD_HEADROOM)
        # Given without a source, it would have no effect.
        parser.set_defaults(headroom=None)
        options.add_work_directory(
            parser,
            'put what is downloaded or copied meanwhile',
            default=options.MOST_ROOM,
        )
        options.add_network(parser)
        options.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Check it."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance.verify import verify

        self.refuse_unknown(parsed_args, verify.RULES)
        request = verify.Request(
            ami=parsed_args.ami,
            deep=parsed_args.deep,
            local=self._local(parsed_args),
            work_directory=parsed_args.work_directory,
            patience=options.patience(parsed_args),
        )
        watch = self.watch(parsed_args)
        found = verify.run(request, self.proxy(), progress=watch)
        return self.result(parsed_args, found)

    def _local(self, parsed_args: argparse.Namespace) -> against.Local | None:
        # Not at the top: see amiclient.osc.
        from amiclient.glance.verify import against

        choice = sources.choice(parsed_args)
        if parsed_args.against is None:
            options.refuse(
                {
                    '--fix': choice.fix,
                    '--partition': choice.partition is not None,
                    '--allow-backing-file': choice.allow_backing_file,
                    '--headroom': parsed_args.headroom is not None,
                    '--journal': parsed_args.journal != 'keep',
                    '--repair': choice.repair,
                },
                'only for the source of --against, and there is none',
                hint='give --against SOURCE, too: this command changes '
                'nothing in the cloud',
            )
            return None
        return against.Local(
            path=parsed_args.against,
            name=parsed_args.against,
            headroom=parsed_args.headroom or options.DEFAULT_HEADROOM,
            journal=parsed_args.journal,
            choice=choice,
        )
