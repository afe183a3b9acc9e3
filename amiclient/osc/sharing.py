# SPDX-License-Identifier: Apache-2.0

"""Commands that share AMIs: ``openstack ami add project`` and ``remove``."""

from __future__ import annotations

import argparse
import typing

from amiclient.osc import command
from amiclient.osc import options

if typing.TYPE_CHECKING:
    from amiclient.osc.shown import columns


def _add_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        'ami', metavar='<ami>', help=f'Image to {what} (name or ID)'
    )
    parser.add_argument(
        'projects',
        metavar='<project>',
        nargs='+',
        help='Project (ID; or name, if you may look up projects)',
    )
    parser.add_argument(
        '--project-domain',
        metavar='<project-domain>',
        help='Domain the project belongs to (name or ID), in case names of '
        'projects collide',
    )
    options.add_network(parser)


class AddProject(command.Lister):
    """Share an AMI, and the kernel and ramdisk it links to, with projects.

    The projects can boot it at once, by its id; their lists show it once they
    have accepted it. Private images become shared. A project that it is
    shared with already is fine.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        _add_arguments(parser, 'share')
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Share it."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance.change import share
        from amiclient.osc.shown import columns

        cloud = self.catalog(parsed_args)
        domain = parsed_args.project_domain
        projects = [
            self.find_project(project, domain)
            for project in parsed_args.projects
        ]
        planned = share.plan_add(cloud, parsed_args.ami, projects)
        for warning in planned.warnings:
            self.log.warning('%s', warning)
        share.execute(planned, cloud)
        made = share.shared(planned, cloud)
        for line in share.advice(made):
            self.log.warning('%s', line)
        return columns.many(columns.SHARED, made, long=True)


class RemoveProject(command.Action):
    """Share an AMI, its kernel and its ramdisk with projects no longer.

    A kernel or ramdisk stays shared with a project that can see another AMI
    which links to it.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        _add_arguments(parser, 'share no longer')
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Share it no longer."""
        # Not at the top: see amiclient.osc.
        from amiclient.glance.change import share

        cloud = self.catalog(parsed_args)
        domain = parsed_args.project_domain
        projects = [
            self.find_project(project, domain)
            for project in parsed_args.projects
        ]
        planned = share.plan_remove(cloud, parsed_args.ami, projects)
        self.warn(planned.warnings)
        share.execute(planned, cloud)
