# SPDX-License-Identifier: Apache-2.0

"""Commands that look into sources: ``openstack ami inspect``, and so on."""

from __future__ import annotations

import argparse
import dataclasses
import typing

from amiclient.osc import command
from amiclient.osc import findings
from amiclient.osc import options
from amiclient.osc import sources
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.osc.shown import columns


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add the source, and how it is taken."""
    parser.add_argument(
        'source', metavar='<source>', type=values.path, help=sources.WHAT
    )
    sources.add(parser)
    options.add_work_directory(
        parser,
        'unpack what is no filesystem yet',
        default=options.MOST_ROOM,
    )
    options.add_progress(parser)


class InspectSource(command.ShowOne):
    """Say what a source is, and what is in it.

    Nothing is mounted or changed. "minimum_size" is what no shrink gets
    below; "kernels" are the one that the source brings along, if any, and
    those that are found in it, the newest first.
    """

    auth_required = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        add_source(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Look into it."""
        # Not at the top: see amiclient.osc.
        from amiclient.osc.shown import columns
        from amiclient.rootfs import inspect
        from amiclient.source import resolve

        with resolve.opened(
            parsed_args.source,
            sources.choice(parsed_args),
            progress=self.watch(parsed_args),
        ) as source:
            for note in source.notes:
                self.log.warning('%s', note)
            found = inspect.inspect(source, parsed_args.source)
        return columns.one(columns.INSPECTED, found)


class CheckSource(findings.Check):
    """Find what keeps a source from booting and behaving in a cloud.

    What is found is listed, with what to do about it; the exit status is 1 if
    any of it is an error. The kernel and the ramdisk are those that the
    source brings along, or the newest ones that are found in it.
    """

    auth_required = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        add_source(parser)
        for noun in ('kernel', 'ramdisk'):
            parser.add_argument(
                f'--{noun}',
                metavar='<file>',
                type=values.path,
                help=f'The {noun} that it is to boot with',
            )
        sources.add_kernel_version(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Check it."""
        # Not at the top: see amiclient.osc.
        from amiclient.rootfs import check
        from amiclient.source import resolve

        self.refuse_unknown(parsed_args, check.RULES)
        sources.refuse_version(parsed_args)
        request = check.Request(
            name=parsed_args.source,
            kernel=parsed_args.kernel,
            ramdisk=parsed_args.ramdisk,
            version=parsed_args.kernel_version,
            work_directory=parsed_args.work_directory,
        )
        with resolve.opened(
            parsed_args.source,
            dataclasses.replace(sources.choice(parsed_args), report=False),
            progress=self.watch(parsed_args),
        ) as source:
            for note in source.notes:
                self.log.warning('%s', note)
            found = check.check(source, request)
        return self.result(parsed_args, found)


class ExtractSource(command.ShowOne):
    """Write root filesystem, kernel and ramdisk as files, with a manifest.

    "openstack ami upload" takes the directory back, or its manifest. What is
    there already is left alone if it is the same, and never overwritten.
    """

    auth_required = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        add_source(parser)
        parser.add_argument(
            '--directory',
            metavar='<directory>',
            type=values.path,
            help='Where to write them (default: a directory that is named '
            'after the source, in the current one, with "-ami" at the end if '
            'there is something else of that name)',
        )
        sources.add_fix(parser)
        sources.add_kernel_version(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Write the files."""
        # Not at the top: see amiclient.osc.
        from amiclient.osc.shown import columns
        from amiclient.rootfs import extract

        watch = self.watch(parsed_args)
        with sources.triple(
            parsed_args,
            watch,
            required=False,
            home=extract.home(parsed_args.source, parsed_args.directory),
        ) as source:
            for note in source.notes:
                self.log.warning('%s', note)
            done = extract.extract(
                source,
                parsed_args.source,
                parsed_args.directory,
                progress=watch,
            )
        return columns.one(columns.EXTRACTED, done)
