#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""What the commands of kernels and those of ramdisks have in common."""

import argparse
import pathlib
from typing import ClassVar

from amiclient.osc import columns
from amiclient.osc import command
from amiclient.osc import options


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
            type=pathlib.Path,
            help=f'File with the {self.noun}',
        )
        parser.add_argument(
            '--name',
            metavar='<name>',
            help='Name of the new image (default: that of the file)',
        )
        options.add_new_image(parser)
        options.add_network(parser)
        options.add_run(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Register it."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance import catalog
        from amiclient.glance import model
        from amiclient.glance import plan
        from amiclient.glance import register
        from amiclient.glance import request

        wanted = request.PartRequest(
            kind=model.Kind(self.format),
            path=parsed_args.file,
            traits=options.traits(parsed_args),
            settings=options.settings(
                parsed_args, self.project_id(parsed_args)
            ),
        )
        proxy, watch = self.proxy(), self.watch(parsed_args)
        cloud = catalog.Catalog(proxy, patience=wanted.settings.patience)
        planned = plan.plan_part(wanted, cloud, progress=watch)
        for warning in planned.warnings:
            self.log.warning('%s', warning)
        if parsed_args.dry_run:
            return columns.planned([planned.step])
        done = register.execute_part(planned, proxy, progress=watch)
        return columns.uploaded(done.record, done.uploaded, done.reused)
