# SPDX-License-Identifier: Apache-2.0

"""Commands that change images: set, unset, delete and share AMIs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import typing
from typing import ClassVar

from amiclient.osc import command
from amiclient.osc import options
from amiclient.osc import sources

if typing.TYPE_CHECKING:
    from amiclient.glance.change import delete
    from amiclient.glance.change import share
    from amiclient.glance.change import update
    from amiclient.glance import client
    from amiclient import progress

#: Options that are properties.
_PROPERTIES = {
    'architecture': 'Architecture, for example x86_64',
    'os_distro': 'Distribution, for example debian',
    'os_version': 'Version of the distribution',
}


class _Change(command.Action):
    """A command that changes an AMI, and maybe what it links to."""

    def plan(
        self,
        parsed_args: argparse.Namespace,
        cloud: client.Catalog,
        watch: progress.Progress,
    ) -> update.ChangePlan:
        raise NotImplementedError

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from amiclient.glance.change import update
        from amiclient.glance.transfer import ranges

        proxy, watch = self.proxy(), self.watch(parsed_args)
        cloud = self.catalog(parsed_args)
        planned = self.plan(parsed_args, cloud, watch)
        reading = ranges.Reading(proxy, options.patience(parsed_args))
        self.warn((*planned.warnings, *update.unsuited(planned, reading)))
        if parsed_args.dry_run:
            self.say(planned.describe())
        else:
            update.execute(planned, cloud, proxy, progress=watch)
            self.warn(planned.notes)
        planned.check()


class SetAmi(_Change):
    """Change an AMI, or link it to another kernel or ramdisk.

    A kernel or ramdisk that is a file is uploaded, unless the cloud already
    has an image with the same data. It gets the visibility, protection and
    members of the AMI. If the link cannot be changed, the new image is
    removed. The previous kernel or ramdisk is kept. There is a warning if the
    root filesystem has no modules for the new kernel. --store is where it is
    uploaded to. Where nothing is uploaded, --store has the AMI, its kernel and
    its ramdisk copied to that store, for which usually only administrators
    have permission; the command waits until they are there. With --linked,
    visibility, protection and hiding are changed for the kernel and the
    ramdisk, too; they are always at least as visible as the AMI. One that
    other AMIs need unchanged is left unchanged, with a warning. It is an error
    if such a kernel or ramdisk belongs to another project.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add(parser, options.image('Image to change'))
        options.add(parser, {'--name <name>': 'New name'})
        _add_relink(parser)
        options.add_visibility(parser)
        options.add_protected(parser)
        options.add_hidden(parser)
        options.add_pair(
            parser,
            {'--activate': 'Let the data of the image be used again'},
            {'--deactivate': 'Let nobody use the data of the image'},
            'activate',
        )
        _add_membership(parser)
        linked = (
            'Change visibility, members, protection, hiding, activation and '
            'owner of the kernel and the ramdisk, too'
        )
        options.add(parser, {'--linked': linked})
        options.add_property(parser, 'Property to set')
        options.add_tag(parser, 'Tag to add')
        for name, text in _PROPERTIES.items():
            option = name.replace('_', '-')
            options.add(parser, {f'--{option} <{option}>': text})
        options.add(parser, options.minimums() | options.NETWORK)
        options.add(parser, options.DRY_RUN | options.PROGRESS)

    def plan(
        self,
        parsed_args: argparse.Namespace,
        cloud: client.Catalog,
        watch: progress.Progress,
    ) -> update.ChangePlan:
        from amiclient.glance.change import update

        request = _request(parsed_args, self.project_id(parsed_args))
        return update.plan(request, cloud, progress=watch)


def _add_relink(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    for noun, container in (('kernel', parser), ('ramdisk', group)):
        what = f'New {noun}: a file or its URL, or the name or ID of an image'
        options.add(container, {f'--{noun} <file>|<image>': what})
    options.add(group, {'--no-ramdisk': 'Link to no ramdisk'})
    options.add(parser, sources.DOWNLOAD)
    options.add(parser, options.part_names('kernel', 'ramdisk'))
    options.add_new_images(
        parser,
        'Store for the data of a new kernel or ramdisk. If none is uploaded, '
        'copy the AMI, its kernel and its ramdisk to the store',
    )


def _add_membership(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    for name, status, what in (
        ('accept', 'accepted', 'List in your project'),
        ('reject', 'rejected', 'Do not list in your project'),
        ('pending', 'pending', 'Neither accept nor reject'),
    ):
        what += ' an AMI that is shared with it, its kernel and its ramdisk'
        options.add(
            group,
            {f'--{name}': what},
            dest='membership',
            action='store_const',
            const=status,
        )
    options.add(
        parser,
        {
            '--project <project>': 'Project to give the image to (name or '
            'ID); with --accept, --reject or --pending, the project that '
            'answers (default: your own)',
            '--project-domain <project-domain>': 'Domain of the project (name '
            'or ID), in case project names collide',
        },
    )


def _request(
    parsed_args: argparse.Namespace, project: str | None = None
) -> update.ChangeRequest:
    from amiclient.glance.change import update

    options.refuse_contrary(parsed_args, *_PROPERTIES)
    options.refuse_failure(parsed_args)
    own = {name: getattr(parsed_args, name) for name in _PROPERTIES}
    return options.fill(
        update.ChangeRequest,
        parsed_args,
        tags=tuple(parsed_args.tags),
        # As with `openstack image set`.
        **{'member' if parsed_args.membership else 'owner': project},
        properties={
            **(parsed_args.properties or {}),
            **{name: text for name, text in own.items() if text is not None},
        },
        signer=options.signer(parsed_args),
        patience=options.patience(parsed_args),
    )


class UnsetAmi(_Change):
    """Remove properties, tags or links from an AMI, or copies of its data.

    Either all of them are removed, or none. --store deletes the copy of the
    data in one of several stores, for which usually only administrators have
    permission; the last copy is never deleted. With --linked, a
    kernel or ramdisk that other images link to is left unchanged, with a
    warning. It is an error if such a kernel or ramdisk belongs to another
    project.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add(parser, options.image('Image to change'))
        for noun, dest in (('property', 'properties'), ('tag', 'tags')):
            what = f'{noun.title()} to remove'
            options.add_several(parser, f'--{noun} <{noun}>', what, dest=dest)
        store = 'Store to delete the copy of the data from'
        options.add_several(parser, '--store <store>', store, dest='stores')
        for noun in ('kernel', 'ramdisk'):
            what = f'Remove the link to the {noun}; the {noun} is kept'
            options.add(parser, {f'--{noun}': what})
        linked = (
            'Remove the properties, tags and copies from the kernel and the '
            'ramdisk, too, if no other image links to them'
        )
        options.add(parser, {'--linked': linked} | options.NETWORK)
        options.add(parser, options.DRY_RUN)

    def plan(
        self,
        parsed_args: argparse.Namespace,
        cloud: client.Catalog,
        watch: progress.Progress,
    ) -> update.ChangePlan:
        from amiclient.glance.change import unset

        wanted = options.fill(
            unset.UnsetRequest,
            parsed_args,
            tags=tuple(parsed_args.tags),
            properties=tuple(parsed_args.properties),
            stores=tuple(dict.fromkeys(parsed_args.stores)),
        )
        return unset.plan(wanted, cloud)


class Delete(command.Action):
    """A command that deletes images."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add(parser, options.NETWORK | options.DRY_RUN)

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
    are not visible, and so not checked. An AMI that a server uses is not
    deleted: Nova is asked for the servers of the project, or of all projects
    if you are an administrator. If one deletion fails, the others are still
    done.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        options.add(parser, options.image('Image to delete'), nargs='+')
        linked = (
            'Delete the kernel and the ramdisk, too, unless another image '
            'links to them'
        )
        force = 'Delete images that servers use, too'
        options.add(parser, {'--linked': linked, '--force': force})

    def plan(
        self, parsed_args: argparse.Namespace, cloud: client.Catalog
    ) -> delete.DeletePlan:
        from amiclient.glance.change import delete

        return delete.plan(
            cloud,
            parsed_args.ami,
            linked=parsed_args.linked,
            force=parsed_args.force,
        )


class PruneAmi(Delete):
    """Delete all but the newest versions of an AMI.

    The versions are the images of this project that have the family, or the
    name if there is no such family. The oldest are deleted; a kernel or
    ramdisk is deleted with the last AMI that links to it. Protected images are
    never deleted, and no image that a server uses: Nova is asked for the
    servers of the project, or of all projects if you are an administrator. A
    message says what is kept and why, and what could not be known.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        options.add(parser, {'<family>': 'Family, or name, of the AMIs'})
        keep = 'Number of versions to keep: the newest ones'
        options.add(parser, {'--keep <count>': keep}, required=True)
        unused = (
            'Delete nothing if Nova cannot be asked what is in use (default: '
            'delete, and say so)'
        )
        options.add(
            parser,
            {
                '--older-than <age>': 'Delete only images that were created '
                'longer ago than this: hours, days or weeks, for example 12h, '
                '90d or 2w',
                '--unused-only': unused,
            },
        )

    def plan(
        self, parsed_args: argparse.Namespace, cloud: client.Catalog
    ) -> delete.DeletePlan:
        from amiclient.glance.change import prune

        return prune.plan(
            cloud,
            parsed_args.family,
            keep=parsed_args.keep,
            older_than=parsed_args.older_than,
            unused_only=parsed_args.unused_only,
        )


class _Share(command._Base):
    """A command about an AMI and projects."""

    #: What is done to the AMI.
    doing: ClassVar[str]

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add(parser, options.image(f'Image to {self.doing}'))
        projects = (
            'Project (name or ID; the name needs permission to list projects)'
        )
        options.add(parser, {'projects <project>': projects}, nargs='+')
        domain = (
            'Domain of the project (name or ID), in case project names collide'
        )
        options.add(parser, {'--project-domain <project-domain>': domain})
        options.add(parser, options.NETWORK)

    def carry_out(
        self,
        parsed_args: argparse.Namespace,
        plan: Callable[[client.Catalog, str, list[str]], share.SharePlan],
    ) -> tuple[share.SharePlan, client.Catalog]:
        """Plan it, and do it."""
        from amiclient.glance import steps

        cloud = self.catalog(parsed_args)
        projects = [
            self.find_project(project, parsed_args.project_domain)
            for project in parsed_args.projects
        ]
        planned = plan(cloud, parsed_args.ami, projects)
        self.warn(planned.warnings)
        steps.execute(planned, cloud)
        return planned, cloud


class AddProject(_Share, command.Lister):
    """Share an AMI, its kernel and its ramdisk with projects.

    The projects can boot the AMI immediately, by its ID. Their image lists
    show it after they have accepted it. Private images become shared. If the
    AMI is signed, the users of the projects are put on the access control
    list of the certificate; a message says where that is not allowed. Tables
    leave out IDs and visibility of the images unless -c asks for them.
    """

    doing = 'share'
    spare = frozenset({'Image', 'Visibility'})

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        user = (
            'ID of a user who can read the certificate of a signed AMI '
            '(default: all users of the projects, which usually only '
            'administrators can list)'
        )
        options.add_several(parser, '--user <user>', user, dest='users')

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance.change import share
        from amiclient.osc import columns

        given = parsed_args.users

        def plan(
            cloud: client.Catalog, ami: str, projects: list[str]
        ) -> share.SharePlan:
            found = share.plan_add(cloud, ami, projects)
            options.refuse(
                {
                    '--user': bool(
                        given and not share.signed_with(found.images)
                    )
                },
                'the AMI is not signed',
                hint='leave it out',
            )
            return found

        planned, cloud = self.carry_out(parsed_args, plan)
        made = share.shared(planned, cloud)
        self.warn(share.advice(made))
        if ids := share.signed_with(planned.images):
            users = {
                project: given or self.users(project)
                for project in planned.projects
                if project != cloud.project()
            }
            self.warn(share.admit(cloud, ids, users))
        return columns.many(columns.SHARED, made)


class RemoveProject(_Share, command.Action):
    """Stop sharing an AMI, its kernel and its ramdisk with projects.

    A kernel or ramdisk is still shared with a project that can see another
    AMI which links to it.
    """

    doing = 'stop sharing'

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from amiclient.glance.change import share

        self.carry_out(parsed_args, share.plan_remove)
