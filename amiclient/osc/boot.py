# SPDX-License-Identifier: Apache-2.0

"""Trying whether an image boots: ``openstack ami boot``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import typing

from amiclient.osc import command
from amiclient.osc import options
from amiclient.osc import sources
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient.boot import run

#: Lines of the console that are shown if something went wrong.
_SHOWN = 15


class BootImage(command.ShowOne):
    """Boot a root filesystem with its kernel and ramdisk, like Nova.

    It boots in QEMU, with the kernel command line and the devices that Nova
    gives an AMI, on a temporary disk; the source is not changed. The exit
    status is 0 when the expected text appears on the console.
    """

    auth_required = False

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        sources.add_source(parser)
        for noun in ('kernel', 'ramdisk'):
            parser.add_argument(
                f'--{noun}',
                metavar='<file>',
                type=values.path,
                help=f'File with the {noun} (default: that of the source, as '
                'for "openstack ami upload")',
            )
        sources.add_kernel_version(parser)
        sources.add_fix(parser)
        _add_machine(parser)
        _add_console(parser)
        options.add_work_directory(
            parser, 'the temporary disk', default=options.MOST_ROOM
        )
        options.add_progress(parser)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.boot import run
        from amiclient.osc import columns

        watch = self.watch(parsed_args)
        with sources.triple(parsed_args, watch) as source:
            self.warn(source.notes)
            plan = run.plan(_request(parsed_args), source)
            if plan.command_line:
                self.log.warning(
                    "its os_command_line replaces Nova's kernel command line, "
                    'as in the cloud: %s',
                    plan.command_line,
                )
            booted = run.execute(plan, progress=watch)
        self.failed = not booted.succeeded
        self.warn(_remarks(plan, booted))
        return columns.one(columns.BOOTED, booted)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--disk',
        metavar='<size>',
        type=values.positive_size,
        help='Size of the disk, as in a flavor (default: twice the size of '
        'the root filesystem, so that it has to grow)',
    )
    parser.add_argument(
        '--memory',
        metavar='<size>',
        type=values.positive_size,
        help='Size of the memory (default: 1G)',
    )
    parser.add_argument(
        '--cpus',
        metavar='<number>',
        type=values.positive,
        help='Number of CPUs (default: 1)',
    )
    parser.add_argument(
        '--append',
        metavar='<text>',
        default='',
        help='Text to add to the kernel command line, which is that of Nova '
        'or the os_command_line of a saved AMI',
    )


def _add_console(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--until',
        metavar='<regex>',
        type=values.regex,
        help='Regular expression to wait for in a line of the console '
        '(default: login:)',
    )
    parser.add_argument(
        '--timeout',
        metavar='<seconds>',
        type=values.seconds,
        help='Time to wait for it (default: 300)',
    )
    parser.add_argument(
        '--console',
        metavar='<file>',
        type=values.path,
        help='File to write the output of the serial console to; that of the '
        'virtio console is written to <file>.hvc0',
    )
    parser.add_argument(
        '--interactive',
        action='store_true',
        help='Connect this terminal to the console of the guest, until you '
        'type Ctrl-] (or Ctrl-A x), or the guest stops',
    )


def _request(parsed_args: argparse.Namespace) -> run.BootRequest:
    from amiclient.boot import run

    options.refuse(
        {
            '--timeout': parsed_args.interactive
            and parsed_args.timeout is not None
        },
        'with --interactive, the guest runs until you leave it',
        hint='remove one of them',
    )
    return options.fill(run.BootRequest, parsed_args)


def _remarks(plan: run.BootPlan, booted: run.Booted) -> Iterator[str]:
    """Say what the user should know besides the result."""
    if not booted.succeeded:
        if booted.lines:
            yield (
                "the last lines of its screen (tty0), which a server's "
                'console log does not have:'
                if booted.screen
                else 'the last lines of the console:'
            )
        for line in booted.lines[-_SHOWN:]:
            yield f'    {line}'
        yield booted.explanation(plan.request)
    elif not booted.grew and plan.disk > booted.root_size_before:
        yield (
            'the root filesystem did not grow: it still takes '
            f'{booted.root_size} bytes of a disk of {plan.disk}; have '
            'cloud-init ("resizefs") or "x-systemd.growfs" in /etc/fstab '
            'grow it'
        )
