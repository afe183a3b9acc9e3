# SPDX-License-Identifier: Apache-2.0

"""Options for whatever a command takes its root filesystem from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import contextlib
import os
import pathlib
import sys
import typing

from amiclient.osc import options

if typing.TYPE_CHECKING:
    from amiclient import progress
    from amiclient.source import resolve

#: What decides how files are taken out of what they are in.
FILES: options.Options = {
    '--strip-components <number>': 'Number of leading directories to remove '
    'from the names in a tar archive (default: as many as there are above the '
    'root filesystem)'
}

#: For commands that do not have it anyway.
PLATFORM: options.Options = {
    '--architecture <architecture>': 'Architecture of the container image to '
    'use, for example x86_64, if the source has images of several'
}

#: What decides how a source is taken.
TAKING: options.Options = {
    **FILES,
    '--partition <number>': 'Number of the partition with the root filesystem '
    '(default: the partition with the files of a root filesystem)',
    '--leave-out <mount-point>': 'Do not take what /etc/fstab of a disk '
    'mounts there or below; all else that it mounts from the disk becomes a '
    'part of the image (repeat option for several)',
    '--luks-key-file <file>': 'File with the passphrase of encrypted '
    'partitions, one line of text (default: ask for it)',
    '--allow-backing-file': 'Allow images with a backing file. Use only with '
    'images that you trust',
}
ROOT: options.Options = {
    '<source>': 'Source of the root filesystem: an ext2, ext3 or ext4 image '
    'or block device, a disk image with partitions (raw, qcow2, vmdk, vhd, '
    'vhdx, vdi), any of these compressed or in an archive (OVA, Vagrant box, '
    'tar, zip), a directory or archive of files, a container image (docker '
    'save, OCI), a squashfs filesystem or a live ISO image with one, a UEC '
    'tarball, the output of "openstack ami save", or a pipe with any of these '
    '("-" is standard input)'
}
SOURCE: options.Options = ROOT | TAKING

#: For commands that read a source, wherever it is.
IMAGE: options.Options = {
    '--image <ami>': 'Read this image of the cloud (name or ID) where it is, '
    'without downloading it: raw, with partitions or without, or qcow2'
}

#: For commands that make a copy.
FIX: options.Options = {
    '--fix': 'Fix /etc/fstab in the copy: mount / by the UUID of the '
    'filesystem, with its type and options, add a line for / if there is '
    'none, and comment out what is not part of the image. Remove what '
    'container engines left in it, such as /.dockerenv'
}
KERNEL_VERSION: options.Options = {
    '--kernel-version <version>': 'Version of the kernel to use from the root '
    'filesystem, with its ramdisk, as printed by "uname -r" (default: the '
    'newest)'
}

#: What a source is booted with, in place of what it brings along.
BOOT: options.Options = {
    f'--{noun} <file>': f'File with the {noun} to boot with (default: that of '
    'the source, as for "openstack ami upload")'
    for noun in ('kernel', 'ramdisk')
} | KERNEL_VERSION


def given(parsed_args: argparse.Namespace) -> dict[str, bool]:
    """Tell which options were given that ask for something of a source."""
    names = [each.split()[0] for each in TAKING | PLATFORM | FIX]
    values = {
        name: getattr(parsed_args, name.strip('-').replace('-', '_'))
        for name in names
    }
    # This only allows something.
    del values['--allow-backing-file']
    return {
        name: value is not None and value is not False and value != []
        for name, value in values.items()
    }


def refuse_version(parsed_args: argparse.Namespace) -> None:
    """Refuse ``--kernel-version`` where no kernel is looked for."""
    for option in ('kernel', 'no_kernel'):
        if getattr(parsed_args, option, None):
            options.refuse(
                {'--kernel-version': parsed_args.kernel_version is not None},
                'the root filesystem is not searched for a kernel with '
                f'--{option.replace("_", "-")}',
                hint='remove one of them',
            )


def refuse_nameless(path: pathlib.Path, option: str, given: object) -> None:
    """Refuse a pipe, which has no name, where a name is made of the source's.

    :param path: the source.
    :param option: that says the name instead.
    :param given: its value, if it was given.
    """
    from amiclient import errors
    from amiclient.source import opening

    if given is None and opening.is_pipe(path):
        raise errors.UsageError(
            'a pipe has no name', hint=f'choose one with {option}'
        )


@contextlib.contextmanager
def triple(
    parsed_args: argparse.Namespace,
    watch: progress.Progress,
    *,
    required: bool = True,
    home: pathlib.Path | None = None,
    is_described: bool = False,
) -> Iterator[resolve.Source]:
    """Open a source, and take its newest kernel out if none is named.

    :param parsed_args: with :data:`TAKING` and :data:`KERNEL_VERSION`, and
        the options ``--kernel`` and ``--ramdisk``.
    :param required: whether it is an error if there is no kernel.
    :param home: where a root filesystem that is made will stay; None if it
        will not.
    :param is_described: as for :class:`amiclient.source.resolve.Choice`.
    """
    from amiclient.rootfs import boot_extract
    from amiclient.source import resolve

    refuse_version(parsed_args)
    if parsed_args.source is None:
        # It describes the image, too.
        taking = {**given(parsed_args), '--architecture': False}
        options.refuse(
            taking, 'there is no source', hint='name one, or leave it out'
        )
        yield resolve.Source(root=pathlib.Path(os.devnull))
        return

    def is_open(noun: str) -> bool:
        named = getattr(parsed_args, noun, None) is not None
        return not (named or getattr(parsed_args, f'no_{noun}', False))

    wanted = boot_extract.BootSelection(
        kernel=is_open('kernel'),
        ramdisk=is_open('ramdisk'),
        version=parsed_args.kernel_version,
        hint='give --kernel FILE or IMAGE, or --no-kernel'
        if getattr(parsed_args, 'target', None) == 'nova'
        else 'give --kernel FILE'
        if 'kernel' in parsed_args
        else 'remove --kernel-version',
        required=required,
    )
    chosen = choice(parsed_args, home, is_described)
    with (
        resolve.opened(parsed_args.source, chosen, progress=watch) as source,
        boot_extract.completed(
            source,
            wanted,
            name=parsed_args.source,
            work_directory=chosen.work_directory,
        ) as complete,
    ):
        yield complete


def choice(
    parsed_args: argparse.Namespace,
    home: pathlib.Path | None = None,
    is_described: bool = False,
) -> resolve.Choice:
    """Gather how a source is to be taken, by :data:`TAKING`."""
    from amiclient.source import resolve

    return options.fill(
        resolve.Choice,
        parsed_args,
        ask_secret=_ask if sys.stdin and sys.stdin.isatty() else None,
        options=options.filesystem(parsed_args),
        home=home,
        is_described=is_described,
    )


def _ask(prompt: str) -> str:
    import getpass

    return getpass.getpass(prompt)


def add_wherever(parser: argparse.ArgumentParser) -> None:
    """Add a source that may be an image in the cloud."""
    group = parser.add_mutually_exclusive_group(required=True)
    options.add(group, ROOT, nargs='?')
    options.add(group, IMAGE)
    options.add(parser, TAKING | PLATFORM)


def refuse_taking(
    parsed_args: argparse.Namespace, why: str = 'it has no effect with --image'
) -> None:
    """Refuse what decides how a source is taken, for an image."""
    choice_of = choice(parsed_args)
    options.refuse(
        {
            '--partition': choice_of.partition is not None,
            '--leave-out': bool(choice_of.leave_out),
            '--luks-key-file': choice_of.luks_key_file is not None,
            '--allow-backing-file': choice_of.allow_backing_file,
            '--strip-components': bool(choice_of.strip_components),
            '--architecture': choice_of.architecture is not None,
        },
        why,
        hint='leave it out',
    )
