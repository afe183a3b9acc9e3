# SPDX-License-Identifier: Apache-2.0

"""Commands for what is installed: ``openstack ami packages, audit``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
import contextlib
import pathlib
import typing

from amiclient import errors
from amiclient.osc import command
from amiclient.osc import options
from amiclient.osc import sources

if typing.TYPE_CHECKING:
    from amiclient.rootfs import packages


class _Installed(command.Lister):
    """A command that looks into images of the cloud, or into a source."""

    auth_required = False

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        (source,) = sources.SOURCE.keys() - sources.TAKING.keys()
        options.add(
            parser,
            {
                f'--source {source}': f'{sources.SOURCE[source]}. No image of '
                'the cloud is read, and no authentication is needed'
            },
        )
        options.add(
            parser, sources.TAKING | sources.PLATFORM | sources.DOWNLOAD
        )
        work = options.work_directory(
            'what is unpacked from archives, disk images and compressed files'
        )
        options.add(parser, work | options.PROGRESS | options.NETWORK)

    def run(self, parsed_args: argparse.Namespace) -> int:
        self._logs_in = parsed_args.source is None
        return super().run(parsed_args)

    def local(self, parsed_args: argparse.Namespace) -> packages.Installed:
        """Look into the source."""
        from amiclient.ext import reader
        from amiclient.rootfs import packages
        from amiclient.source import resolve

        with (
            resolve.opened(
                parsed_args.source,
                sources.choice(parsed_args),
                progress=self.watch(parsed_args),
            ) as source,
            reader.opened(source.root) as files,
        ):
            self.warn(source.notes)
            return packages.read(files, str(source.root))


class ListPackages(_Installed):
    """List the packages that are installed in an AMI, or in a source.

    The database of dpkg, rpm, apk or pacman is read where it is. Of an image
    in the cloud, that takes a small part of its data.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add(parser, options.image('Image to look into'), nargs='?')
        super().add_options(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance.verify import audit
        from amiclient.osc import columns

        _refuse(parsed_args, {'an AMI': parsed_args.ami is not None})
        if parsed_args.source is not None:
            found = self.local(parsed_args)
        else:
            patience = options.patience(parsed_args)
            with _told_of_files([parsed_args.ami]):
                image = audit.find(self.catalog(parsed_args), parsed_args.ami)
            found = audit.look(image, self.proxy(), patience)
        self.warn([found.note] if found.note else ())
        return columns.many(columns.PACKAGE, found.packages)


class AuditAmi(_Installed):
    """Find the AMIs in which certain versions of packages are installed.

    The state is "affected" if such a package is installed, "not affected" if
    not, and "unknown" if that cannot be told; the note says why. The exit
    status is 0 only if all are "not affected". Versions are compared as the
    package manager of the AMI compares them.
    """

    spare_column = 'ID'

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add(
            parser,
            options.image('Images to look into'),
            nargs='*',
            default=[],
        )
        every = (
            'Look into all images that "openstack ami list" lists, and into '
            'hidden ones'
        )
        options.add(parser, {'--all': every})
        asked = (
            'Package to look for, with versions if not all of them are '
            'affected, for example "xz-utils<5.6.2" or '
            '"xz-utils>=5.6.0,<5.6.2". The relations are < <= = >= and >. '
            'src: in front of the name looks for all packages that were built '
            'from this source package; the name may have wildcards (* and ?)'
        )
        options.add_several(
            parser, '--package <package>', asked, required=True
        )
        super().add_options(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance.verify import audit
        from amiclient.osc import columns
        from amiclient.rootfs import packages

        asked = tuple(map(packages.Asked.parse, parsed_args.package))
        _refuse(
            parsed_args,
            {'AMIs': bool(parsed_args.ami), '--all': parsed_args.all},
        )
        if parsed_args.source is not None:
            rows = audit.ranked(
                audit.Audited(None, str(parsed_args.source), each)
                for each in self.local(parsed_args).judge(asked)
            )
        else:
            request = options.fill(
                audit.AuditRequest,
                parsed_args,
                asked=asked,
                amis=tuple(parsed_args.ami),
                patience=options.patience(parsed_args),
            )
            with _told_of_files(parsed_args.ami):
                rows = audit.run(
                    request, self.proxy(), progress=self.watch(parsed_args)
                )
        self.failed = any(row.verdict.state != 'not affected' for row in rows)
        unknown = {r.id for r in rows if r.verdict.state == 'unknown'}
        if unknown:
            of = f'{len(unknown)} of {len({row.id for row in rows})} images'
            self.warn([f'{of}: the state is unknown; the notes say why'])
        return columns.many(columns.AUDITED, rows)


@contextlib.contextmanager
def _told_of_files(names: Iterable[str]) -> Iterator[None]:
    """Say how to give a file, if one was given as an image."""
    try:
        yield
    except errors.NotFoundError as error:
        for name in names:
            if repr(name) in error.message and pathlib.Path(name).exists():
                error.hint = f'for the file: --source {name}'
        raise


def _refuse(parsed_args: argparse.Namespace, given: dict[str, bool]) -> None:
    """Make sure that there is one kind of thing to look into."""
    kinds = {**given, '--source': parsed_args.source is not None}
    if sum(kinds.values()) != 1:
        raise errors.UsageError(
            'it is not clear what to look into',
            hint=f'give either {" or ".join(kinds)}',
        )
    if parsed_args.source is None:
        sources.refuse_taking(parsed_args, 'it has no effect without --source')
