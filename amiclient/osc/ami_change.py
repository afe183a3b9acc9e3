# SPDX-License-Identifier: Apache-2.0

"""Commands that change images: set, unset, delete and share AMIs."""

from __future__ import annotations

import argparse
import typing

from amiclient.osc import command
from amiclient.osc import options
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.glance.change import delete
    from amiclient.glance.change import update
    from amiclient.glance import client

#: Options that are properties.
_PROPERTIES = {
    'architecture': 'Architecture, for example x86_64',
    'os_distro': 'Distribution, for example debian',
    'os_version': 'Version of the distribution',
}


class SetAmi(command.Action):
    """Change an AMI, or link it to another kernel or ramdisk.

    A kernel or ramdisk that is a file is uploaded, unless the cloud already
    has an image with the same data. It gets the visibility, protection and
    members of the AMI. If the link cannot be changed, the new image is
    removed. The previous kernel or ramdisk is kept. With --linked,
    visibility, protection and hiding are changed for the kernel and the
    ramdisk, too; they are always at least as visible as the AMI. One that
    other AMIs need unchanged is left unchanged, with a warning. It is an error
    if such a kernel or ramdisk belongs to another project.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add_image(parser, 'Image to change')
        parser.add_argument(
            '--name', metavar='<name>', type=values.some, help='New name'
        )
        _add_relink(parser)
        options.add_visibility(parser)
        options.add_protected(parser)
        hidden = parser.add_mutually_exclusive_group()
        hidden.add_argument(
            '--hidden',
            action='store_true',
            default=None,
            help='Hide the image from the default image list',
        )
        hidden.add_argument(
            '--unhidden',
            dest='hidden',
            action='store_false',
            help='Show the image in the default image list',
        )
        parser.add_argument(
            '--linked',
            action='store_true',
            help='Change visibility, members, protection and hiding of the '
            'kernel and the ramdisk, too',
        )
        options.add_property(parser, 'Property to set')
        options.add_tag(parser, 'Tag to add')
        for name, text in _PROPERTIES.items():
            option = name.replace('_', '-')
            parser.add_argument(
                f'--{option}',
                metavar=f'<{option}>',
                type=values.some,
                help=text,
            )
        options.add_minimums(parser)
        options.add_network(parser)
        options.add_run(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from amiclient.glance.change import update

        wanted = _request(parsed_args)
        proxy, watch = self.proxy(), self.watch(parsed_args)
        cloud = self.catalog(parsed_args)
        planned = update.plan(wanted, cloud, progress=watch)
        self.warn(planned.warnings)
        if parsed_args.dry_run:
            self.say(planned.describe())
        else:
            update.execute(planned, cloud, proxy, progress=watch)
            self.warn(planned.notes)
        planned.check()


def _add_relink(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    for noun, container in (('kernel', parser), ('ramdisk', group)):
        container.add_argument(
            f'--{noun}',
            metavar='<file>|<image>',
            type=values.some,
            help=f'New {noun}: a file, or the name or ID of an image',
        )
    group.add_argument(
        '--no-ramdisk', action='store_true', help='Link to no ramdisk'
    )
    options.add_part_names(parser, 'kernel', 'ramdisk')
    options.add_new_images(parser)


def _request(parsed_args: argparse.Namespace) -> update.ChangeRequest:
    from amiclient.glance.change import update

    options.refuse_contrary(parsed_args, *_PROPERTIES)
    own = {name: getattr(parsed_args, name) for name in _PROPERTIES}
    return options.fill(
        update.ChangeRequest,
        parsed_args,
        tags=tuple(parsed_args.tags),
        properties={
            **(parsed_args.properties or {}),
            **{name: text for name, text in own.items() if text is not None},
        },
        patience=options.patience(parsed_args),
    )


class UnsetAmi(command.Action):
    """Remove properties, tags or links from an AMI.

    Either everything that was named is removed, or nothing. With --linked, a
    kernel or ramdisk that other images link to is left unchanged, with a
    warning. It is an error if such a kernel or ramdisk belongs to another
    project.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add_image(parser, 'Image to change')
        for option in ('property', 'tag'):
            parser.add_argument(
                f'--{option}',
                metavar=f'<{option}>',
                action='append',
                default=[],
                help=f'{option.title()} to remove (repeat option for several)',
            )
        for noun in ('kernel', 'ramdisk'):
            parser.add_argument(
                f'--{noun}',
                action='store_true',
                help=f'Remove the link to the {noun}; the {noun} is kept',
            )
        parser.add_argument(
            '--linked',
            action='store_true',
            help='Remove the properties and tags from the kernel and the '
            'ramdisk, too, if no other image links to them',
        )
        options.add_network(parser)
        options.add_dry_run(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from amiclient.glance.change import update
        from amiclient import progress

        proxy = self.proxy()
        cloud = self.catalog(parsed_args)
        wanted = update.UnsetRequest(
            ami=parsed_args.ami,
            tags=tuple(parsed_args.tag),
            properties=tuple(parsed_args.property),
            kernel=parsed_args.kernel,
            ramdisk=parsed_args.ramdisk,
            linked=parsed_args.linked,
        )
        planned = update.plan_unset(wanted, cloud)
        if parsed_args.dry_run:
            self.say(planned.describe())
        else:
            update.execute(planned, cloud, proxy, progress=progress.QUIET)
            self.warn(planned.notes)
        planned.check()


class Delete(command.Action):
    """A command that deletes images."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add_network(parser)
        options.add_dry_run(parser)

    def plan(
        self, parsed_args: argparse.Namespace, cloud: client.Catalog
    ) -> delete.DeletePlan:
        raise NotImplementedError

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from amiclient.glance.change import delete

        cloud = self.catalog(parsed_args)
        planned = self.plan(parsed_args, cloud)
        self.warn((*planned.warnings, *planned.notes))
        if parsed_args.dry_run:
            self.say(planned.describe())
            delete.refuse(planned.problems, planned.total, dry_run=True)
            return
        delete.execute(planned, cloud)


class DeleteAmi(Delete):
    """Delete AMIs; with --linked, their kernels and ramdisks, too.

    A kernel or ramdisk is kept if another image links to it: this includes
    hidden images and snapshots of servers. Private images of other projects
    are not visible, and so not checked. If one deletion fails, the others are
    still done.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        options.add_image(parser, 'Image to delete', nargs='+')
        parser.add_argument(
            '--linked',
            action='store_true',
            help='Delete the kernel and the ramdisk, too, unless another '
            'image links to them',
        )

    def plan(
        self, parsed_args: argparse.Namespace, cloud: client.Catalog
    ) -> delete.DeletePlan:
        from amiclient.glance.change import delete

        return delete.plan(cloud, parsed_args.ami, linked=parsed_args.linked)


def _add_projects(parser: argparse.ArgumentParser, what: str) -> None:
    options.add_image(parser, what)
    parser.add_argument(
        'projects',
        metavar='<project>',
        nargs='+',
        help='Project (name or ID; the name needs permission to list '
        'projects)',
    )
    parser.add_argument(
        '--project-domain',
        metavar='<project-domain>',
        help='Domain of the project (name or ID), in case project names '
        'collide',
    )
    options.add_network(parser)


def _projects(
    command: command._Base, parsed_args: argparse.Namespace
) -> list[str]:
    return [
        command.find_project(project, parsed_args.project_domain)
        for project in parsed_args.projects
    ]


class AddProject(command.Lister):
    """Share an AMI, its kernel and its ramdisk with projects.

    The projects can boot the AMI immediately, by its ID. Their image lists
    show it after they have accepted it. Private images become shared.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        _add_projects(parser, 'Image to share')

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance.change import share
        from amiclient.glance.change import steps
        from amiclient.osc import columns

        cloud = self.catalog(parsed_args)
        projects = _projects(self, parsed_args)
        planned = share.plan_add(cloud, parsed_args.ami, projects)
        self.warn(planned.warnings)
        steps.execute(planned, cloud)
        made = share.shared(planned, cloud)
        self.warn(share.advice(made))
        return columns.many(columns.SHARED, made)


class RemoveProject(command.Action):
    """Stop sharing an AMI, its kernel and its ramdisk with projects.

    A kernel or ramdisk is still shared with a project that can see another
    AMI which links to it.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        _add_projects(parser, 'Image to stop sharing')

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from amiclient.glance.change import share
        from amiclient.glance.change import steps

        cloud = self.catalog(parsed_args)
        projects = _projects(self, parsed_args)
        planned = share.plan_remove(cloud, parsed_args.ami, projects)
        self.warn(planned.warnings)
        steps.execute(planned, cloud)
