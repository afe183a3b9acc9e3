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
    from amiclient.boot import trial
    from amiclient.osc.shown import columns

#: Lines of the console that are shown if something went wrong.
_SHOWN = 15


class BootImage(command.ShowOne):
    """Boot a root filesystem with its kernel and ramdisk, as Nova would.

    It boots in QEMU, with the command line and the devices that Nova gives
    an AMI, on a disk that is thrown away; the source is not written to. The
    exit status is 0 once the console shows what is waited for.
    """

    auth_required = False
    _failed = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'source',
            metavar='<source>',
            type=values.path,
            help=sources.WHAT,
        )
        for noun in ('kernel', 'ramdisk'):
            parser.add_argument(
                f'--{noun}',
                metavar='<file>',
                type=values.path,
                help=f'The {noun} to boot (default: that of the source, as '
                'with "openstack ami upload")',
            )
        sources.add_kernel_version(parser)
        sources.add(parser)
        sources.add_fix(parser)
        _add_machine(parser)
        _add_console(parser)
        options.add_work_directory(
            parser,
            'make the disk that is thrown away',
            default=options.MOST_ROOM,
        )
        options.add_progress(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> columns.Table:
        """Boot it."""
        # Not at the top: see amiclient.osc.
        from amiclient.boot import run
        from amiclient.boot import trial
        from amiclient.osc.shown import columns

        watch = self.watch(parsed_args)
        with sources.triple(parsed_args, watch) as source:
            for note in source.notes:
                self.log.warning('%s', note)
            plan = trial.plan(_request(parsed_args), source)
            if plan.command_line:
                self.log.warning(
                    "its os_command_line takes the place of Nova's command "
                    'line, as in the cloud: %s',
                    plan.command_line,
                )
            booted = run.execute(plan, progress=watch)
        self._failed = not booted.succeeded
        for line in _remarks(plan, booted):
            self.log.warning('%s', line)
        return columns.one(columns.BOOTED, booted)

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command.

        :returns: the exit status.
        """
        status = super().run(parsed_args)
        return status or int(self._failed)


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--disk',
        metavar='<size>',
        type=values.positive_size,
        help='Size of the disk, as a flavor has it (default: twice that of '
        'the root filesystem, which has to grow then)',
    )
    parser.add_argument(
        '--memory',
        metavar='<size>',
        type=values.positive_size,
        help='Memory (default: 1G)',
    )
    parser.add_argument(
        '--cpus',
        metavar='<number>',
        type=values.positive,
        help='Processors (default: 1)',
    )
    parser.add_argument(
        '--append',
        metavar='<text>',
        default='',
        help="What to add to the kernel's command line, which is Nova's, or "
        'the os_command_line of the AMI that the source was',
    )


def _add_console(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--until',
        metavar='<regex>',
        type=values.regex,
        help='What to wait for in a line of the console, as a regular '
        'expression (default: login:)',
    )
    parser.add_argument(
        '--timeout',
        metavar='<seconds>',
        type=values.seconds,
        help='How long to wait for it (default: 300)',
    )
    parser.add_argument(
        '--console',
        metavar='<file>',
        type=values.path,
        help='Write what comes on the serial console to this file, as it is, '
        'and what comes on the virtio console to <file>.hvc0',
    )
    parser.add_argument(
        '--interactive',
        action='store_true',
        help='Make this terminal that of the guest, until Ctrl-] is typed '
        '(or Ctrl-A x), or the guest ends',
    )


def _request(parsed_args: argparse.Namespace) -> trial.BootRequest:
    # Not at the top: see amiclient.osc.
    from amiclient.boot import trial

    options.refuse(
        {
            '--timeout': parsed_args.interactive
            and parsed_args.timeout is not None
        },
        'with --interactive, the guest runs until you leave it',
        hint='leave out one of them',
    )
    given = {
        name: value
        for name in ('disk', 'memory', 'cpus', 'until', 'timeout', 'console')
        if (value := getattr(parsed_args, name)) is not None
    }
    return trial.BootRequest(
        source=parsed_args.source,
        kernel=parsed_args.kernel,
        ramdisk=parsed_args.ramdisk,
        append=parsed_args.append,
        interactive=parsed_args.interactive,
        work_directory=parsed_args.work_directory,
        **given,
    )


def _remarks(plan: trial.BootPlan, booted: trial.Booted) -> Iterator[str]:
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
