# SPDX-License-Identifier: Apache-2.0

"""Options, each defined once, in groups that commands pick from."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
import dataclasses
import getpass
import os
import sys
import typing
from typing import Any

from osc_lib.cli import identity
from osc_lib.cli import parseractions

from amiclient import errors
from amiclient.osc import values
from amiclient import units

if typing.TYPE_CHECKING:
    from amiclient.glance import retry
    from amiclient.glance import signatures
    from amiclient.glance.upload import request

#: A parser, or a group of its options.
Container = argparse._ActionsContainer

_T = typing.TypeVar('_T')

#: What an upload leaves free for root, so that the guest gets far enough to
#: grow its filesystem.
UPLOAD_HEADROOM = '64M'
DEFAULT_HEADROOM = units.parse_headroom(UPLOAD_HEADROOM)

#: How options are written, as ``--size <size>``, and their help. What stands
#: for the value decides what is accepted. Without one, it is a switch.
Options = dict[str, str]

#: What is made of a value, by its metavar. Any other must not be empty.
_TYPES: Mapping[str, Callable[[str], Any]] = {
    '<GiB>': values.count,
    '<age>': values.age,
    '<count>': values.positive,
    '<MiB>': values.count,
    '<directory>': values.path,
    '<file>': values.path,
    '<file>|<image>': values.image,
    '<key=value>': str,
    '<label>': str,
    '<mount-point>': values.mount_point,
    '<number>': values.count,
    '<regex>': values.regex,
    '<seconds>': values.seconds,
    '<size>': values.size,
    '<size>|<percent>': values.headroom,
    '<sha256>': values.sha256,
    '<sha512>': values.sha512,
    '<source>': values.source,
    '<text>': str,
    '<uid>:<gid>': values.owner,
    '<uuid>': values.uuid,
    'auto|bar|plain|json|none': values.progress,
    'keep|none|<size>': values.journal,
}

_HIDDEN: Options = {'--hidden': 'Hide the image from the default image list'}
_SEVERAL = '(repeat option for several)'

_VISIBILITIES = {
    'public': 'The image is accessible to all users',
    'private': 'The image is accessible to its project only',
    'shared': 'The image can be shared with other projects',
    'community': 'The image is accessible to all users, but is not in their '
    'default image list',
}


DRY_RUN: Options = {
    '--dry-run': 'Check everything and show what would be done, but do nothing'
}
PROGRESS: Options = {
    '--progress auto|bar|plain|json|none': 'How progress is shown on stderr: '
    'bars; lines of text, one for each phase, and one every 10 seconds; or '
    'JSON, one object a line. auto is bar on a terminal, plain elsewhere, '
    'and none with -q (default: $AMICLIENT_PROGRESS, or auto)',
    '--no-progress': 'The same as --progress none',
}

KEEP_HARDWARE: Options = {
    '--keep-hardware': 'Keep the hardware properties that Nova set in a '
    'snapshot, such as hw_machine_type (default: leave them out)'
}

#: How patient a command is with the network: see :func:`patience`.
NETWORK: Options = {
    '--retries <number>': 'Number of retries after a network or server error '
    '(default: 4). The delays are 1, 2, 4 ... 30 seconds, or what the cloud '
    'asks for, at most 2 minutes',
    '--timeout <seconds>': 'Time without any data from the network after '
    'which an attempt fails (default: 60). It is longer for answers that can '
    'take the cloud a while. Except for image data, an attempt takes at most '
    '3 times as long, or 10 seconds, including authentication',
}


def refuse(given: Mapping[str, bool], why: str, *, hint: str) -> None:
    """Refuse options that would have no effect: a user believes in them.

    :param given: options, and whether they were given.
    :param why: they would have none, as a clause.
    """
    names = [name for name, is_given in given.items() if is_given]
    if names:
        raise errors.UsageError(why, subject=', '.join(names), hint=hint)


def refuse_contrary(parsed_args: argparse.Namespace, *names: str) -> None:
    """Refuse a property that its own option sets to something else."""
    properties = parsed_args.properties or {}
    for name in names:
        given = getattr(parsed_args, name)
        if given is not None and properties.get(name, given) != given:
            raise errors.UsageError(
                f'--{name.replace("_", "-")} {given} and --property '
                f'{name}={properties[name]} contradict each other',
                hint='remove one of them',
            )


def refuse_failure(parsed_args: argparse.Namespace) -> None:
    """Refuse ``--allow-store-failure`` where there is one store."""
    several = parsed_args.all_stores or len({*parsed_args.stores}) > 1
    allowed = parsed_args.allow_store_failure
    refuse(
        {'--allow-store-failure': allowed and not several},
        'fewer than two stores are named',
        hint='give several stores, or --all-stores',
    )


def fill(kind: type[_T], parsed_args: argparse.Namespace, **given: Any) -> _T:
    """Make a request of the options that are named like its fields.

    What was not given, and is None therefore, is up to the request.

    :param kind: a dataclass.
    :param given: fields that have no such option.
    """
    for field in dataclasses.fields(typing.cast(Any, kind)):
        value = getattr(parsed_args, field.name, None)
        if value is not None:
            # What may be given several times; requests do not change.
            many = isinstance(value, list)
            given.setdefault(field.name, tuple(value) if many else value)
    return kind(**given)


def add(parser: Container, options: Options, **facts: Any) -> None:
    """Add options, and arguments.

    :param facts: of all of them, for ``add_argument``.
    """
    for written, help in options.items():
        name, _, metavar = written.rpartition(' ')
        kind: dict[str, Any] = {'action': 'store_true'}
        if not metavar.startswith('-'):
            of_value = _TYPES.get(metavar, values.some)
            kind = {'metavar': metavar, 'type': of_value}
            if metavar == '<mount-point>':
                kind |= {'action': 'append', 'default': []}
        parser.add_argument(
            name or metavar.strip('<>'), help=help, **{**kind, **facts}
        )


def add_pair(parser: Container, yes: Options, no: Options, dest: str) -> None:
    """Add an option and its opposite.

    :param dest: their name among the arguments; without any, it is None.
    """
    group = parser.add_mutually_exclusive_group()
    add(group, yes, default=None)
    add(group, no, dest=dest, action='store_false')


def image(what: str, noun: str = 'ami') -> Options:
    """Make an image of the cloud, as an argument."""
    return {f'<{noun}>': f'{what} (name or ID)'}


def new_name(default: str) -> Options:
    """Make ``--name``, of a new image."""
    return {'--name <name>': f'Name of the new image (default: {default})'}


def part_names(*nouns: str) -> Options:
    """Make ``--kernel-name`` and ``--ramdisk-name``."""
    return {
        f'--{noun}-name <name>': f'Name of the new {noun} image (default: '
        'that of the file)'
        for noun in nouns
    }


def minimums(disk: str = '', ram: str = '') -> Options:
    """Make ``--min-disk`` and ``--min-ram``, with what is said of defaults."""
    what = 'Minimum {} size of a flavor to boot the image, in {}'.format
    return {
        '--min-disk <GiB>': f'{what("disk", "GiB")}{disk}',
        '--min-ram <MiB>': f'{what("RAM", "MiB")}{ram}',
    }


def work_directory(
    what: str,
    default: str = 'the one of $TMPDIR, /var/tmp, the directory of the source '
    'and /tmp with the most free space',
) -> Options:
    """Make ``--work-directory``.

    :param default: by default, that of work whose size is not known before.
    """
    return {
        '--work-directory <directory>': f'Directory for {what} (default: '
        f'{default})'
    }


def add_headroom(parser: Container, *, upload: bool = False) -> None:
    """Add ``--headroom``.

    :param upload: whether the default is that of an upload. Then ``headroom``
        is None if it was not given: that decides what is done with a saved
        AMI.
    """
    default = UPLOAD_HEADROOM if upload else '0'
    room = (
        'Free space to leave in the filesystem, for example 64M or 5%%; a '
        f'percentage is of the space in use (default: {default})'
    )
    add(
        parser,
        {'--headroom <size>|<percent>': room},
        default=None if upload else units.NO_HEADROOM,
    )


def add_room(parser: Container, journal: str, *, upload: bool = False) -> None:
    """Add what a filesystem holds besides its files.

    :param journal: the help of ``--journal``.
    :param upload: whether an upload gets it, as for :func:`add_headroom`.
    """
    add_headroom(parser, upload=upload)
    add(parser, {'--journal keep|none|<size>': journal}, default='keep')


def add_shrink(parser: Container, *, upload: bool = False) -> None:
    """Add what decides how a filesystem is shrunk, as :func:`add_room`."""
    journal = 'Keep, remove or resize the journal (default: keep)'
    add_room(parser, journal, upload=upload)
    repair = 'Repair a copy with e2fsck -y; this can lose data'
    add(parser, {'--repair': repair})


def filesystem(parsed_args: argparse.Namespace) -> units.FilesystemOptions:
    """Gather what :func:`add_room` and :func:`add_shrink` add, where they do.

    What is uploaded unmodified gets no headroom.
    """
    found = fill(units.FilesystemOptions, parsed_args)
    if not getattr(parsed_args, 'shrink', True):
        return dataclasses.replace(found, headroom=units.NO_HEADROOM)
    if 'headroom' in parsed_args and parsed_args.headroom is None:
        return dataclasses.replace(found, headroom=DEFAULT_HEADROOM)
    return found


def patience(parsed_args: argparse.Namespace) -> retry.Patience:
    """Tell how patient to be with the network, by :data:`NETWORK`."""
    from amiclient.glance import retry

    given = {
        name: value
        for name in ('retries', 'timeout')
        if (value := getattr(parsed_args, name, None)) is not None
    }
    # At a terminal somebody wonders why nothing happens; the errors of a
    # script stay what they are.
    return retry.Patience.of(**given, aloud=sys.stderr.isatty())


def add_visibility(
    parser: Container, *, default: str | None = None, chosen: bool = False
) -> None:
    """Add the four visibilities, of which there can be one.

    :param default: what a new image has.
    :param chosen: whether images are chosen by it.
    """
    group = parser.add_mutually_exclusive_group()
    for name, text in _VISIBILITIES.items():
        text += ' (default)' if name == default else ''
        text = f'List only {name} images' if chosen else text
        facts = {'dest': 'visibility', 'action': 'store_const', 'const': name}
        add(group, {f'--{name}': text}, **facts)
    if chosen:
        every = (
            'List all images that you may see: with community images, and '
            'with images that other projects share with yours, accepted or not'
        )
        add(group, {'--all': every}, **{**facts, 'const': 'all'})


def add_protected(parser: Container, *, default: str = '') -> None:
    """Add ``--protected`` and its opposite."""
    add_pair(
        parser,
        {'--protected': 'Prevent the image from being deleted'},
        {'--unprotected': f'Allow the image to be deleted{default}'},
        'protected',
    )


def add_hidden(parser: Container) -> None:
    """Add ``--hidden`` and its opposite."""
    show = 'Show the image in the default image list'
    add_pair(parser, _HIDDEN, {'--unhidden': show}, 'hidden')


def add_property(parser: Container, help: str) -> None:
    """Add ``--property``."""
    add(
        parser,
        {'--property <key=value>': f'{help} {_SEVERAL}'},
        dest='properties',
        action=parseractions.KeyValueAction,
    )


def add_several(
    parser: Container, written: str, help: str, **facts: Any
) -> None:
    """Add an option that can be given several times."""
    facts = {'action': 'append', 'default': [], **facts}
    add(parser, {written: f'{help} {_SEVERAL}'}, **facts)


def add_tag(parser: Container, help: str) -> None:
    """Add ``--tag``."""
    add_several(parser, '--tag <tag>', help, dest='tags')


#: ``--project`` and ``--project-domain``.
add_project = identity.add_project_owner_option_to_parser


def add_stores(parser: Container, store: str) -> None:
    """Add the stores that data is put to.

    :param store: the help of ``--store``.
    """
    group = parser.add_mutually_exclusive_group()
    store += ' (default: chosen by the cloud)'
    add_several(group, '--store <store>', store, dest='stores')
    add(group, {'--all-stores': 'The same as --store for each writable store'})
    parser.add_argument(
        '--allow-store-failure',
        # As `openstack image import` has it.
        '--allow-failure',
        action='store_true',
        help='Succeed if the data is in one of several stores at least, and '
        'warn about each store that failed (default: all must succeed)',
    )


def add_new_images(
    parser: Container, store: str = 'Store for the data of new images'
) -> None:
    """Add where the data of new images is put, and how.

    :param store: the help of ``--store``.
    """
    add_stores(parser, store)
    imported = (
        'Whether the data is staged, and then imported by the cloud: auto '
        '(default) if the cloud forbids to upload it directly, or if it is '
        'for several stores and you may not copy it from one to the others'
    )
    parser.add_argument(
        '--import',
        dest='imported',
        choices=('auto', 'never', 'always'),
        default='auto',
        help=imported,
    )
    add_signing(parser)
    conversion = (
        'If the cloud unpacks or converts the data while it is imported, keep '
        'the result, with a warning (default: fail)'
    )
    add(parser, {'--allow-conversion': conversion})
    reuse = 'Create new images even if the cloud has images with the same data'
    add(parser, {'--no-reuse': reuse}, dest='reuse', action='store_false')


def add_signing(parser: Container) -> None:
    """Add what signs new images, as ``openstack image create`` calls it."""
    key = (
        'Sign the new images with this private key (PEM; RSA, or ECC with '
        'secp384r1 or secp521r1). Glance checks the signatures. All images '
        'that are linked must be signed. Only with --sign-cert-id'
    )
    certificate = (
        'Certificate of the key: its ID in the key manager, or a file, which '
        'is stored there. Only with --sign-key-path'
    )
    first_line = (
        'File with the passphrase of the key in its first line (default: '
        'asked for if the key is encrypted)'
    )
    add(
        parser,
        {
            '--sign-key-path <file>': key,
            '--sign-cert-id <uuid>|<file>': certificate,
            '--sign-key-passphrase-file <file>': first_line,
        },
    )


def signer(parsed_args: argparse.Namespace) -> signatures.Signer | None:
    """Load the key that new images are signed with, if there is one."""
    key, certificate, file = (
        getattr(parsed_args, f'sign_{name}')
        for name in ('key_path', 'cert_id', 'key_passphrase_file')
    )
    for option, given, other in (
        ('--sign-cert-id', certificate and not key, '--sign-key-path'),
        ('--sign-key-path', key and not certificate, '--sign-cert-id'),
        ('--sign-key-passphrase-file', file and not key, '--sign-key-path'),
    ):
        refuse(
            {option: bool(given)},
            f'it needs {other}',
            hint=f'give {other}, too, or leave it out',
        )
    if key is None:
        return None
    from amiclient.glance import signatures

    used = False

    def passphrase() -> bytes:
        nonlocal used
        used = True
        if file is not None:
            return signatures.read(file).partition(b'\n')[0].rstrip(b'\r')
        if not sys.stdin.isatty():
            raise errors.UsageError(
                f'the key {key} is encrypted',
                hint='give --sign-key-passphrase-file, or run the command on '
                'a terminal, where it asks',
            )
        return getpass.getpass(f'Passphrase of {key}: ').encode()

    found = signatures.Signer.load(key, certificate, passphrase)
    refuse(
        {'--sign-key-passphrase-file': file is not None and not used},
        f'the key {key} is not encrypted',
        hint='leave it out',
    )
    return found


def add_new_image(
    parser: argparse.ArgumentParser, *, architecture: str = ''
) -> None:
    """Add what a new image, of whatever kind, can be given.

    :param architecture: what else is said about ``--architecture``.
    """
    add_visibility(parser, default='shared')
    add_protected(parser, default=' (default)')
    add(parser, _HIDDEN)
    add_property(parser, 'Property to set; it overrides a computed one')
    add_tag(parser, 'Tag to set')
    add(
        parser,
        {
            '--architecture <architecture>': 'Architecture, for example '
            'x86_64 (default: that of the kernel, or of the programs in the '
            f'root filesystem){architecture}',
            '--id <uuid>': 'ID of the new image (default: random)',
        },
    )
    add_project(parser)
    add_new_images(parser)
    keep = 'If the upload fails, keep the images that it created'
    add(parser, {'--keep-failed': keep})


def add_parts(parser: Container) -> None:
    """Add what says which kernel and ramdisk an AMI boots with."""
    for noun, none in (
        ('kernel', 'a kernel (and so to no ramdisk)'),
        ('ramdisk', 'a ramdisk'),
    ):
        group = parser.add_mutually_exclusive_group()
        add(
            group,
            {
                f'--{noun} <file>|<image>': f'The {noun}: a file or its URL, '
                'or the name or ID of an image (default: the one that comes '
                'with the source, or that is found in its root filesystem)',
                f'--no-{noun}': f'Do not link the image to {none}',
            },
        )
        add(parser, part_names(noun))


def chosen_part(
    parsed_args: argparse.Namespace,
    noun: str,
    found: os.PathLike[str] | None = None,
    *,
    complete: bool = False,
) -> str | None:
    """Tell which kernel or ramdisk the user wants: a file, an image, or none.

    :param found: the file that the source brings along, if it does.
    :param complete: whether what it brings along is all that there is.
    """
    given: str | None = getattr(parsed_args, noun)
    # Without a kernel, a ramdisk does nothing.
    refused = parsed_args.no_kernel or getattr(parsed_args, f'no_{noun}')
    if given is None and not refused:
        if found is not None or complete:
            return None if found is None else os.fspath(found)
        raise errors.UsageError(
            f'no {noun} was named',
            hint=f'give --{noun} FILE or IMAGE, or --no-{noun}',
        )
    return given


def shrinks(parsed_args: argparse.Namespace, *, finished: bool) -> bool:
    """Tell whether the filesystem is to be shrunk.

    :param finished: whether it is as it should be already: then it is left
        as it is, unless an option says how to shrink it.
    """
    if not parsed_args.shrink and parsed_args.headroom is not None:
        raise errors.UsageError(
            'a filesystem that is uploaded unmodified gets no headroom',
            hint='remove --no-shrink or --headroom',
        )
    asked = parsed_args.headroom is not None or parsed_args.repair
    if finished and not asked and parsed_args.journal == 'keep':
        return False
    return bool(parsed_args.shrink)


def traits(parsed_args: argparse.Namespace) -> request.Traits:
    """Gather what one new image is given."""
    from amiclient.glance.upload import request

    refuse_contrary(parsed_args, 'architecture')
    return fill(
        request.Traits,
        parsed_args,
        tags=tuple(dict.fromkeys(parsed_args.tags)),
        properties=parsed_args.properties or {},
    )


def settings(
    parsed_args: argparse.Namespace, project_id: str | None
) -> request.Settings:
    """Gather what applies to all new images."""
    from amiclient.glance.upload import request

    refuse_failure(parsed_args)
    return fill(
        request.Settings,
        parsed_args,
        owner=project_id,
        signer=signer(parsed_args),
        patience=patience(parsed_args),
    )
