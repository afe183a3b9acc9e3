# SPDX-License-Identifier: Apache-2.0

"""Options for whatever a command takes its root filesystem from."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
import contextlib
import os
import pathlib
import sys
import typing

from amiclient.osc import options
from amiclient.osc import values

if typing.TYPE_CHECKING:
    from amiclient import progress
    from amiclient.source import resolve
    from amiclient.web import fetch

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
    'tarball, the output of "openstack ami save", a pipe with any of these '
    '("-" is standard input), or a URL (https) of any of these, with its hash'
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
#: For commands that take a URL in place of a file.
DOWNLOAD: options.Options = {
    '--sha512 <sha512>': 'SHA-512 of the file that is downloaded, if a URL is '
    'given in place of a file. Without a hash, nothing is downloaded',
    '--sha256 <sha256>': 'Likewise, its SHA-256',
    '--checksum-url <url>': 'URL of a file with the hash, in the format of '
    'sha512sum, sha256sum or BSD, such as SHA512SUMS. It can be relative to '
    'the URL of the file that is downloaded',
    '--signature-url <url>': 'URL of the OpenPGP signature of the file with '
    'the hash, or of the downloaded file if there is no --checksum-url',
    '--keyring <file>': 'File with the public keys that the signature has to '
    'be of. The file with the hash may be signed itself',
    '--insecure-source': 'Download without a hash, or with http',
}
KERNEL_VERSION: options.Options = {
    '--kernel-version <version>': 'Version of the kernel to use from the root '
    'filesystem, with its ramdisk, as printed by "uname -r" (default: the '
    'newest)'
}

#: What a source is booted with, in place of what it brings along.
_BOOT: options.Options = {
    f'--{noun} <file>': f'File with the {noun} to boot with (default: that of '
    'the source, as for "openstack ami upload")'
    for noun in ('kernel', 'ramdisk')
}


def add_boot(parser: argparse.ArgumentParser) -> None:
    """Add what a source is booted with."""
    options.add(parser, _BOOT, type=values.source)
    options.add(parser, KERNEL_VERSION)


def given(parsed_args: argparse.Namespace) -> dict[str, bool]:
    """Tell which options were given that ask for something of a source."""
    found = {
        option: getattr(parsed_args, name)
        for option, name in _names(*TAKING, *PLATFORM, *FIX)
    }
    # This only allows something.
    del found['--allow-backing-file']
    return {
        name: value is not None and value is not False and value != []
        for name, value in found.items()
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
def downloaded(
    parsed_args: argparse.Namespace, watch: progress.Progress
) -> Iterator[dict[str, str]]:
    """Have files here in place of URLs, for as long as the block lasts.

    :param parsed_args: with :data:`DOWNLOAD`, if there may be a URL.
    :returns: what to call the files, by their paths.
    """
    names: dict[str, str] = {}
    urls = {
        name: value
        for name, value in vars(parsed_args).items()
        if isinstance(value, values.Url)
    }
    if not urls:
        options.refuse(
            {
                option: bool(getattr(parsed_args, name, None))
                for option, name in _names(*DOWNLOAD)
            },
            'no URL is given to download from',
            hint='leave it out',
        )
        yield names
        return
    from amiclient.web import fetch

    # The --timeout of a boot is about something else.
    patience = options.patience(
        parsed_args if 'retries' in parsed_args else argparse.Namespace()
    )
    with contextlib.ExitStack() as stack:
        for name, remote in _remotes(parsed_args, urls).items():
            path = stack.enter_context(
                fetch.opened(remote, progress=watch, patience=patience)
            )
            names[str(path)] = fetch.shown(remote.url)
            setattr(parsed_args, name, urls[name].kind(path))
        yield names


def _names(*written: str) -> Iterator[tuple[str, str]]:
    """Tell the names of options, and those of their values."""
    for each in written:
        option = each.split()[0]
        yield option, option.strip('-').replace('-', '_')


def _remotes(
    parsed_args: argparse.Namespace, urls: Mapping[str, values.Url]
) -> dict[str, fetch.Remote]:
    """Gather what is downloaded, and refuse what contradicts itself."""
    from amiclient.glance.transfer import image_data
    from amiclient.web import fetch

    hashes = {
        name: value
        for name in ('sha512', 'sha256')
        if (value := getattr(parsed_args, name)) is not None
    }
    options.refuse(
        {f'--{name}': len(urls) > 1 for name in hashes},
        f'{len(urls)} files are downloaded',
        hint='give a file with the hashes of all of them, with --checksum-url',
    )
    proofs = len(hashes) + (parsed_args.checksum_url is not None)
    options.refuse(
        {f'--{name}': proofs > 1 for name in hashes},
        'the hash is given twice',
        hint='give --sha512, --sha256 or --checksum-url',
    )
    digest = None
    for algorithm, value in hashes.items():
        digest = image_data.Digest(algorithm, value)
    found = {
        name: fetch.Remote(
            url=url,
            digest=digest,
            checksum_url=parsed_args.checksum_url,
            signature_url=parsed_args.signature_url,
            keyring=parsed_args.keyring,
            insecure=parsed_args.insecure_source,
        )
        for name, url in urls.items()
    }
    for remote in found.values():
        remote.check()
    return found


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
