# SPDX-License-Identifier: Apache-2.0

"""What ``--fix`` mends: what does not suit a root filesystem of its own.

That is /etc/fstab, and what container engines leave behind. What is asked for
and cannot be fixed is an error: nobody may take a copy for mended that is
not.
"""

from collections.abc import Sequence, Set
import pathlib

from amiclient import errors
from amiclient.ext import reader
from amiclient.ext.reader import Reader
from amiclient.ext import rewrite
from amiclient.source import fstab

#: By these, systemd (detect_container_files() in src/basic/virt.c) and other
#: programs take a machine for a container.
LEFTOVERS = (
    '/.dockerenv',
    '/.dockerinit',
    '/.containerenv',
    '/run/.containerenv',
    '/run/systemd/container',
)

#: What is told of lines, and characters of each.
_LISTED, _LINE = 10, 200

_CRYPTTAB = '/etc/crypttab'

#: Not all commands that say so have the option.
_HOW = (
    '"ami upload", "boot", "extract" and "shrink --output" mend that in a '
    'copy with --fix'
)


def report(
    image: pathlib.Path, name: str, merged: Set[str] = frozenset()
) -> tuple[str, ...]:
    """Tell what ties a root filesystem to a disk.

    :param name: what to call it.
    :param merged: as for :func:`amiclient.source.fstab.ties`.
    :returns: what the user should know.
    """
    with reader.opened(image) as tree:
        found = [
            tie
            for tie in _ties(tree, fstab.read(tree), merged)
            if tie.number is not None
        ]
        units = _units(tree, merged)
        locked, _ = _locked(tree)
    notes = [
        f'{name}: {path} names what a server does not have: {listed}; {_HOW}'
        for path, listed in (
            (fstab.PATH, _listed(found)),
            (_CRYPTTAB, _listed(locked)),
        )
        if listed
    ]
    if units:
        notes.append(
            f'{name}: units of systemd mount what is a part of the image '
            f'now: {errors.some(list(map(errors.shown, units)))}; {_HOW}'
        )
    return tuple(notes)


def mend(
    image: pathlib.Path, name: str, merged: Set[str] = frozenset()
) -> tuple[str, ...]:
    """Mend what does not suit a root filesystem of its own.

    :param image: a file that may be changed, with a filesystem in order.
    :param name: what to call it.
    :param merged: as for :func:`amiclient.source.fstab.ties`.
    :returns: what was done.
    :raises UnsupportedError: if that cannot be done.
    """
    with reader.opened(image) as tree:
        if set(tree.names('/')) <= {'lost+found'}:
            # The ramdisk brings all that there is.
            return ()
        left = leftovers(tree) + _units(tree, merged)
        text = _text(tree, name)
        found = _ties(tree, text or '', merged)
        locked, unlocked = _locked(tree)
    notes = []
    try:
        if left:
            rewrite.remove(image, left)
            listed = ', '.join(map(errors.shown, left))
            notes.append(f'{name}: removed: {listed}')
        if found:
            data = fstab.encoded(fstab.mend(text or '', found))
            if text is None:
                rewrite.create(image, fstab.PATH)
            rewrite.rewrite(image, fstab.PATH, data)
            notes.append(f'{name}: /etc/fstab was fixed: {_listed(found)}')
        if locked:
            rewrite.rewrite(image, _CRYPTTAB, unlocked)
            notes.append(f'{name}: {_CRYPTTAB} was fixed: {_listed(locked)}')
    except errors.UnsupportedError as error:
        raise _unmendable(name, error.message) from error
    return tuple(notes)


def leftovers(tree: Reader) -> tuple[str, ...]:
    """Find the files by which a system takes itself for a container."""
    return tuple(
        path
        for path in LEFTOVERS
        if (node := tree.find(path, follow=False)) and node.is_file
    )


def _units(tree: Reader, merged: Set[str]) -> tuple[str, ...]:
    """Find the units that would mount what is a part of the image now.

    Others require them by their paths alone, enabled or not.
    """
    return tuple(
        path
        for unit in fstab.units(tree)
        if unit.entry.path in merged
        for path in unit.files
    )


def _text(tree: Reader, name: str) -> str | None:
    """Read /etc/fstab; None if it is not there.

    :raises UnsupportedError: if it is something that cannot be fixed.
    """
    node = tree.find(fstab.PATH)
    if node is None:
        if tree.find(fstab.PATH, follow=False) is not None:
            raise _unmendable(name, 'it is a symbolic link to nowhere')
        return None
    if not node.is_file:
        raise _unmendable(name, 'it is not a regular file')
    if node.is_encrypted or node.size > fstab.LIMIT:
        raise _unmendable(
            name, f'it is encrypted, or has more than {fstab.LIMIT} bytes'
        )
    return fstab.decoded(tree.read(node, fstab.LIMIT))


def _ties(tree: Reader, text: str, merged: Set[str]) -> tuple[fstab.Tie, ...]:
    return fstab.ties(
        text,
        tree.superblock,
        there=lambda path: tree.find(path) is not None,
        merged=merged,
    )


def _locked(tree: Reader) -> tuple[list[str], bytes]:
    """Find what crypttab(5) decrypts of the old disk: systemd waits for it.

    :returns: that, and the file without it.
    """
    node = tree.find(_CRYPTTAB)
    if node is None or not node.is_file or node.size > fstab.LIMIT:
        return [], b''
    found = []
    lines = fstab.decoded(tree.read_file(_CRYPTTAB, fstab.LIMIT) or b'')
    kept = lines.split('\n')
    for number, line in enumerate(kept):
        name, spec, *_ = *line.split(), '', ''
        if not spec or name.startswith('#'):
            continue
        # What a file of its own holds is still there.
        if spec.startswith('/dev/') or tree.find(spec) is None:
            found.append(f'{name} on {spec}')
            kept[number] = f'#{line}'
    return found, fstab.encoded('\n'.join(kept))


def _listed(found: Sequence[object]) -> str:
    lines = [errors.shown(str(each), _LINE) for each in found]
    return errors.some(lines, _LISTED)


def _unmendable(name: str, why: str) -> errors.UnsupportedError:
    return errors.UnsupportedError(
        f'/etc/fstab cannot be fixed: {why}',
        subject=name,
        hint='edit it by hand, and leave out --fix',
    )
