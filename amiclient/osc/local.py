# SPDX-License-Identifier: Apache-2.0

"""Local commands: ``openstack ami shrink, inspect, check, extract, build``."""

from __future__ import annotations

import argparse
import dataclasses
import typing

from amiclient import errors
from amiclient.osc import command
from amiclient.osc import options
from amiclient.osc import sources
from amiclient.osc import values
from amiclient.osc import verify

if typing.TYPE_CHECKING:
    from amiclient.glance.verify import verify as cloud_verify


class ShrinkImage(command.ShowOne):
    """Shrink an ext2, ext3 or ext4 image to the smallest possible size.

    The file is replaced atomically, after the new one is verified: at any
    time, it is either the complete old file or the complete new one. A block
    device is shrunk in place.

    "in_use" is the space in use in the result. "lower_bound" is the smallest
    size that any shrink with the same headroom and journal can reach. With
    --dry-run, both are exact.
    """

    auth_required = False

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add(
            parser,
            {
                '<image>': 'File or block device with an ext2, ext3 or ext4 '
                'filesystem; with --output, any source of "openstack ami '
                'upload"',
            },
            type=values.source,
        )
        output = 'Write the result to this file, and do not change <image>'
        options.add(parser, {'--output <file>': output})
        options.add(parser, sources.TAKING | sources.PLATFORM | sources.FIX)
        options.add(parser, sources.DOWNLOAD)
        options.add_shrink(parser)
        in_place = (
            'Resize the file itself. This needs no space for a copy, but a '
            'crash during the resize leaves the file damaged'
        )
        temporary = options.work_directory(
            'temporary files, for example a copy to replay the journal on',
            'that of the result, where the result itself is always written',
        )
        options.add(parser, {'--in-place': in_place} | temporary)
        command.add_human_readable(parser)
        options.add(parser, options.DRY_RUN | options.PROGRESS)

    def refuse(self, parsed_args: argparse.Namespace) -> None:
        if parsed_args.output is None and isinstance(
            parsed_args.image, values.Url
        ):
            raise errors.UsageError(
                'what is downloaded is not changed',
                hint='choose where to write the result, with --output FILE',
            )

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.osc import columns
        from amiclient.source import shrink

        sources.refuse_nameless(
            parsed_args.image, '--output FILE', parsed_args.output
        )
        if parsed_args.output is None:
            options.refuse(
                sources.given(parsed_args),
                'this needs a new file for the result',
                hint='add --output FILE',
            )
        request = options.fill(
            shrink.ShrinkSourceRequest,
            parsed_args,
            source=parsed_args.image,
            choice=sources.choice(parsed_args),
        )
        watch = self.watch(parsed_args)
        with shrink.planned(
            request, exact=parsed_args.dry_run, progress=watch
        ) as plan:
            self.warn(plan.source.notes)
            if parsed_args.dry_run:
                return columns.one(columns.SHRINK_PLAN, plan.shown)
            done = shrink.execute(plan, progress=watch)
        return columns.one(columns.SHRUNK, done)


_SOURCE: options.Options = (
    sources.SOURCE
    | sources.PLATFORM
    | sources.DOWNLOAD
    | options.work_directory(
        'what is unpacked from archives, disk images and compressed files'
    )
    | options.PROGRESS
)


_IMAGE: options.Options = (
    options.work_directory(
        'what is unpacked from archives, disk images and compressed files'
    )
    | options.PROGRESS
    | options.NETWORK
    | sources.DOWNLOAD
)


def _request(parsed_args: argparse.Namespace) -> cloud_verify.VerifyRequest:
    """Say which image of the cloud is meant."""
    from amiclient.glance.verify import verify as cloud_verify

    sources.refuse_taking(parsed_args)
    return options.fill(
        cloud_verify.VerifyRequest,
        parsed_args,
        ami=parsed_args.image,
        is_deep=False,
        local=None,
        patience=options.patience(parsed_args),
    )


class InspectSource(command.ShowOne):
    """Show what a source, or an image in the cloud, is and contains.

    Nothing is mounted or changed. "minimum_size" is the smallest size that a
    shrink can reach. "kernels" are the kernel that comes with the source, if
    any, and those in the root filesystem, the newest first.
    """

    auth_required = False
    spare = frozenset({'features'})

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        sources.add_wherever(parser)
        long = 'Show the features and where the kernels are, in a table, too'
        options.add(parser, {'--long': long} | _IMAGE)
        command.add_human_readable(parser)

    def run(self, parsed_args: argparse.Namespace) -> int:
        self._logs_in = parsed_args.image is not None
        return super().run(parsed_args)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance.verify import verify as cloud_verify
        from amiclient.osc import columns
        from amiclient.rootfs import inspect
        from amiclient.source import resolve

        if parsed_args.image is not None:
            found = cloud_verify.inspect(_request(parsed_args), self.proxy())
            return columns.one(columns.INSPECTED, found)
        with resolve.opened(
            parsed_args.source,
            sources.choice(parsed_args),
            progress=self.watch(parsed_args),
        ) as source:
            self.warn(source.notes)
            found = inspect.inspect(source, parsed_args.source)
        return columns.one(columns.INSPECTED, found)


class CheckSource(verify.Check):
    """Find what keeps a source, or an image, from working in a cloud.

    Each finding has a remedy, if there is one. The exit status is 1 if one of
    the findings is an error. The kernel and the ramdisk are those that come
    with the source, or the newest ones in the root filesystem.
    """

    auth_required = False

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        super().add_options(parser)
        sources.add_wherever(parser)
        options.add(parser, _IMAGE)
        sources.add_boot(parser)

    def run(self, parsed_args: argparse.Namespace) -> int:
        self._logs_in = parsed_args.image is not None
        return super().run(parsed_args)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient import findings
        from amiclient.glance.verify import verify as cloud_verify
        from amiclient.rootfs import check
        from amiclient.source import resolve

        findings.refuse_unknown(parsed_args.ignore, check.RULES)
        sources.refuse_version(parsed_args)
        request = options.fill(
            check.CheckRequest,
            parsed_args,
            name=parsed_args.source or parsed_args.image,
            version=parsed_args.kernel_version,
        )
        if parsed_args.image is not None:
            found = cloud_verify.check(
                _request(parsed_args),
                request,
                self.proxy(),
                progress=self.watch(parsed_args),
            )
            return self.result(parsed_args, request.name, found)
        with resolve.opened(
            parsed_args.source,
            dataclasses.replace(sources.choice(parsed_args), report=False),
            progress=self.watch(parsed_args),
        ) as source:
            self.warn(source.notes)
            found = check.check(source, request)
        return self.result(parsed_args, request.name, found)


class ExtractSource(command.ShowOne):
    """Write root filesystem, kernel and ramdisk to files, with a manifest.

    "openstack ami upload" accepts the directory or its manifest as a source.
    Existing files are kept if they are the same, and never overwritten.
    """

    auth_required = False

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        directory = (
            'Directory to write to (default: one with the name of the source '
            'in the current directory, with "-ami" at the end if that name '
            'is in use)'
        )
        options.add(parser, _SOURCE | {'--directory <directory>': directory})
        options.add(parser, sources.FIX | sources.KERNEL_VERSION)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.osc import columns
        from amiclient.rootfs import extract

        name, directory = parsed_args.source, parsed_args.directory
        sources.refuse_nameless(name, '--directory DIRECTORY', directory)
        watch = self.watch(parsed_args)
        with sources.triple(
            parsed_args,
            watch,
            required=False,
            home=extract.home(name, directory),
        ) as source:
            self.warn(source.notes)
            done = extract.extract(source, name, directory, progress=watch)
        return columns.one(columns.EXTRACTED, done)


class BuildImage(command.ShowOne):
    """Create a minimal ext4 image from a directory or tar archive.

    This does not need root. Owners, modes, attributes, links, devices and
    holes are those of the source. The same source gives the same bytes.
    """

    auth_required = False

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add(
            parser,
            {
                '<source>': 'Directory or tar archive, plain or compressed '
                'with gzip, xz, bzip2 or zstd; a container image (docker '
                'save, OCI), a squashfs filesystem or a live ISO image with '
                'one',
                **sources.FILES,
                **sources.PLATFORM,
                **sources.DOWNLOAD,
                '--size <size>': 'Size of the filesystem (default: the '
                'smallest possible)',
                '--label <label>': 'Label of the filesystem, at most 16 bytes',
                '--owner <uid>:<gid>': 'Numeric user and group ID of all '
                'files (default: as in the source)',
                '--overrides <file>': 'File in the format of mtree(5) with '
                'owners, modes, devices and attributes that replace those in '
                'the source',
            },
        )
        output = 'File to write the filesystem to'
        options.add(parser, {'--output <file>': output}, required=True)
        journal = (
            'Size of the journal, or none; keep is the size that mke2fs '
            'chooses (default: keep)'
        )
        options.add_room(parser, journal)
        command.add_human_readable(parser)
        options.add(parser, options.PROGRESS)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.osc import columns
        from amiclient.source import build
        from amiclient.source import resolve

        request = options.fill(
            build.BuildRequest,
            parsed_args,
            options=options.filesystem(parsed_args),
        )
        watch = self.watch(parsed_args)
        choice = dataclasses.replace(
            sources.choice(parsed_args),
            # That of the result, which there has to be room for anyway.
            work_directory=build.room_for(request),
        )
        with resolve.origin(request.source, choice, progress=watch) as (
            origin,
            notes,
        ):
            self.warn(notes)
            done = build.execute(build.plan(request, origin), progress=watch)
        return columns.one(columns.BUILT, done)
