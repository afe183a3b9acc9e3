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


_SIZES: options.Options = {
    '--disk <size>': 'Size of the disk, as in a flavor (default: twice the '
    'size of the root filesystem, so that it has to grow)',
    '--memory <size>': 'Size of the memory (default: 1G)',
}
_CPUS: options.Options = {'--cpus <number>': 'Number of CPUs (default: 1)'}
_APPEND: options.Options = {
    '--append <text>': 'Text to add to the kernel command line, which is that '
    'of Nova or the os_command_line of a saved AMI'
}
_CONSOLE: options.Options = {
    '--until <regex>': 'Regular expression to wait for in a line of the '
    'console (default: login:)',
    '--wait <seconds>': 'Time to wait for it (default: 300)',
    '--console <file>': 'File to write the output of the serial console to; '
    'that of the virtio console is written to <file>.hvc0',
    '--interactive': 'Connect this terminal to the console of the guest, '
    'until you type Ctrl-] (or Ctrl-A x), or the guest stops',
    '--strict': 'Return exit status 1 for warnings about the guest, too',
}


class BootImage(command.ShowOne):
    """Boot a root filesystem with its kernel and ramdisk, as Nova does.

    It boots in QEMU, with the kernel command line and the devices that Nova
    gives an AMI, on a temporary disk; the source is not changed. The exit
    status is 0 when the expected text appears on the console. Warnings tell
    of systemd units that failed, and of a root filesystem that stayed
    read-only.
    """

    auth_required = False

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add(
            parser,
            sources.SOURCE | sources.PLATFORM | sources.FIX | sources.DOWNLOAD,
        )
        sources.add_boot(parser)
        options.add_headroom(parser, upload=True)
        options.add(parser, _SIZES, type=values.positive_size)
        options.add(parser, _CPUS, type=values.positive)
        options.add(parser, _APPEND, default='')
        options.add(parser, _CONSOLE)
        # As it was called before; elsewhere, that is the network's.
        old = {'--timeout <seconds>': argparse.SUPPRESS}
        options.add(parser, old, dest='wait')
        command.add_human_readable(parser)
        disk = options.work_directory('the temporary disk')
        options.add(parser, disk | options.PROGRESS)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.boot import run
        from amiclient.osc import columns

        watch = self.watch(parsed_args)
        with sources.triple(parsed_args, watch) as source:
            self.warn(source.notes)
            options.refuse(
                {
                    '--headroom': parsed_args.headroom is not None
                    and source.format != 'files'
                },
                'the filesystem is booted as it is; free space is only left '
                'in one that is made of files',
                hint='remove it',
            )
            plan = run.plan(_request(parsed_args), source)
            if plan.command_line:
                self.log.warning(
                    "its os_command_line replaces Nova's kernel command line, "
                    'as in the cloud: %s',
                    plan.command_line,
                )
            booted = run.execute(plan, progress=watch)
        remarks = list(_remarks(plan, booted))
        self.failed = not booted.succeeded or bool(
            parsed_args.strict and remarks
        )
        self.warn(remarks)
        return columns.one(columns.BOOTED, booted)


def _request(parsed_args: argparse.Namespace) -> run.BootRequest:
    from amiclient.boot import run

    options.refuse(
        {'--wait': parsed_args.interactive and parsed_args.wait is not None},
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
        return
    if booted.failed_units:
        yield (
            f'systemd units failed: {", ".join(booted.failed_units)}; '
            '"systemctl status" tells why, after a login with --interactive'
        )
    if booted.read_only:
        yield (
            'the root filesystem was not mounted read-write, so it keeps '
            'nothing, and cannot grow: /etc/fstab needs a line for / without '
            '"ro", such as "/dev/vda / ext4 defaults 0 1"'
        )
    elif not booted.grew and plan.disk > booted.root_size_before:
        yield (
            'the root filesystem did not grow: it still takes '
            f'{booted.root_size} bytes of a disk of {plan.disk}; have '
            'cloud-init ("resizefs") or "x-systemd.growfs" in /etc/fstab '
            'grow it'
        )
