# SPDX-License-Identifier: Apache-2.0

"""What ties a root filesystem to the disk that it was on, and its mending.

What is asked for and cannot be mended is an error: nobody may take a copy for
mended that is not.
"""

from collections.abc import Sequence
import pathlib

from amiclient import errors
from amiclient.ext import reader as reader_
from amiclient.ext import rewriting
from amiclient.source import fstab

#: Lines of the file that are told, and characters of each.
_SHOWN, _LINE = 10, 200

_PATH = '/etc/fstab'
_LIMIT = 64 << 10

#: Where systemd and distributions mount what boot loaders read.
_BOOTS = ('/boot', '/efi', '/boot/efi')

#: Not all commands that say so have the option.
_FIX = (
    '"ami upload", "boot", "extract" and "shrink --output" mend that in a '
    'copy with --fix'
)


def report(image: pathlib.Path, name: str) -> tuple[str, ...]:
    """Tell what ties a root filesystem to a disk.

    :param name: what to call it.
    :returns: what the user should know.
    """
    with reader_.opened(image) as reader:
        found = fstab.ties(_text(reader), reader.superblock)
    if not found:
        return ()
    listed = _some(found)
    note = f'{name}: /etc/fstab names what a server does not have: {listed}'
    return (f'{note}; {_FIX}',)


def boots(image: pathlib.Path) -> tuple[fstab.Entry, ...]:
    """Tell what a root filesystem mounts where boot loaders look.

    :returns: what is on /boot first, if that is not within.
    """
    with reader_.opened(image) as reader:
        entries = fstab.parse(_text(reader))
    return tuple(
        entry
        for path in _BOOTS
        for entry in entries
        if entry.path == path and entry.is_device
    )


def _text(reader: reader_.Reader) -> str:
    """Read /etc/fstab; nothing if there is none."""
    # Any byte is a character, and comes back as it was.
    return (reader.read_file(_PATH, _LIMIT) or b'').decode('latin-1')


def mend(image: pathlib.Path, name: str) -> tuple[str, ...]:
    """Mend what ties a root filesystem to a disk.

    :param image: a file that may be changed, with a filesystem in order.
    :param name: what to call it.
    :returns: what was done.
    :raises UnsupportedError: if the file cannot be read or changed.
    """
    with reader_.opened(image) as reader:
        node = reader.find(_PATH)
        if node is None:
            return ()
        if not node.is_file:
            raise _refused(name, 'it is not a regular file')
        if node.is_encrypted or node.size > _LIMIT:
            raise _refused(
                name, f'it is encrypted, or has more than {_LIMIT} bytes'
            )
        text = reader.read(node, _LIMIT).decode('latin-1')
        found = fstab.ties(text, reader.superblock)
    if not found:
        return ()
    try:
        rewriting.rewrite(
            image, _PATH, fstab.mend(text, found).encode('latin-1')
        )
    except errors.UnsupportedError as error:
        raise _refused(name, error.message) from error
    return (f'{name}: /etc/fstab was mended: {_some(found)}',)


def _some(found: Sequence[fstab.Tie]) -> str:
    lines = [errors.shown(str(each), _LINE) for each in found]
    return errors.some(lines, _SHOWN)


def _refused(name: str, why: str) -> errors.UnsupportedError:
    return errors.UnsupportedError(
        f'/etc/fstab cannot be mended: {why}',
        subject=name,
        hint='mend it by hand, and leave out --fix',
    )
