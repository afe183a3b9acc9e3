# SPDX-License-Identifier: Apache-2.0

"""Compressed filesystems and disks: unpacked into sparse files.

What comes out is counted. It ends a little behind the end that a filesystem
or a partition table tells, and the disk that it goes to is not filled up.
"""

import dataclasses
import os
import pathlib
import time

from amiclient import errors
from amiclient.progress import Progress
from amiclient import scratch
from amiclient.source import live
from amiclient.source import partitions
from amiclient.source import probe
from amiclient.source import qemu_headers
from amiclient.source import streams
from amiclient import sparse
from amiclient import units

_MIB = 1 << 20

#: What nothing that is unpacked here has in bytes: the largest ext4 with
#: blocks of 4 KiB and without the feature 64bit.
_MOST = 16 << 40

#: Bytes that are left free where something is unpacked.
_RESERVE = 64 * _MIB

#: Bytes of data after which the room on the disk is looked at again.
_STEP = 16 * _MIB

#: Bytes behind the end of a filesystem or disk that are unpacked as well: it
#: may be a little longer than it says, and be followed by a footer.
_KEPT = 64 * _MIB

#: Bytes of the largest block of a VHDX, the last of which may be used in part.
_VHDX_BLOCK = 256 * _MIB

#: Seconds for which the rest is read, but not kept.
_SECONDS = 3.0

#: How many times its size something compressed may have come from.
_AGAIN = 16


def unpack(
    stream: streams.Stream, target: pathlib.Path, *, progress: Progress
) -> tuple[str, ...]:
    """Unpack a filesystem or disk.

    :param target: the file that is made.
    :returns: what the user should know.
    :raises SourceError: if it is damaged, or what is in it is no source, or
        goes on for much longer than that says itself.
    :raises NoSpaceError: if there is no room for what is in it.
    """
    with (
        scratch.full_disk(target.parent),
        sparse.opened(
            target, os.O_RDWR | os.O_CREAT | os.O_EXCL
        ) as descriptor,
        progress.task('Unpacking', stream.packed) as task,
    ):
        bound = _bound(stream)
        unlooked = position = size = 0
        while size < bound.most and (data := stream.read(sparse.CHUNK)):
            unlooked += sum(end - start for start, end in sparse.runs(data, 0))
            if unlooked >= _STEP:
                _check_room(target.parent, stream.name, size)
                unlooked = 0
            sparse.append(descriptor, data, size)
            size += len(data)
            now = stream.position()
            task.advance(now - position)
            position = now
        if size < bound.most:
            return ()
        return _left(stream, bound, size)


@dataclasses.dataclass(frozen=True)
class _UnpackLimit:
    """How much is unpacked at most.

    :param end: bytes of what is in it, by its own word.
    :param kept: bytes that are taken of what follows.
    :param what: what ends there.
    :param strict: whether more than that is an error.
    """

    end: int
    kept: int
    what: str
    strict: bool = True

    @property
    def most(self) -> int:
        return self.end + self.kept


def _bound(stream: streams.Stream) -> _UnpackLimit:
    """Refuse what is no source, before all of it is unpacked.

    :returns: where to end with what is one.
    """
    name = stream.name
    head = stream.peek(probe.HEAD)
    content = probe.examine(head, 1 << 62, name)
    what, block = content.phrase, content.superblock
    if what.endswith((' compressed file', '-compressed file')):
        # What is compressed does not get smaller by being compressed again.
        return _UnpackLimit(stream.packed * _AGAIN, _KEPT, 'compressed file')
    if what.endswith(' disk image'):
        size = qemu_headers.disk_size(head)
        if content.found.disk == 'vhdx':
            start = stream.peek(qemu_headers.VHDX_HEAD)
            size = qemu_headers.vhdx_size(start, name) + _VHDX_BLOCK
        if size is None or size > _MOST:
            return _UnpackLimit(_MOST, 0, 'disk image')
        # Snapshots are in there, too.
        return _UnpackLimit(2 * size, _KEPT, 'disk image')
    if size := live.declared(head, content.found.holds):
        return _UnpackLimit(size, _KEPT, what, strict=False)
    foreign = _foreign(head, what)
    if block is None and not foreign and not what.endswith(' disk'):
        raise content.refused(name, 'compressed; in it is ')
    disk = partitions.end(head)
    size = max(disk, foreign, 0 if block is None else block.size)
    if size > _MOST:
        raise errors.SourceError(
            f'by its header, it unpacks to {units.format_size(size)}: more '
            f'than {units.format_size(_MOST)}',
            subject=name,
            hint='it is damaged, or made to fill disks',
        )
    if block is not None and not disk:
        held = stream.packed * streams.RATIOS.get(stream.kind or '', size)
        if block.size > held:
            raise errors.DamagedError(
                f'cut short: its {block.filesystem} filesystem takes '
                f'{block.size} bytes, and {stream.kind} cannot make them of '
                f'{stream.packed}',
                subject=name,
                hint='get a whole copy of it',
            )
    what = 'disk' if disk or (block is None and not foreign) else 'filesystem'
    return _UnpackLimit(size or _MOST, _KEPT, what, strict=False)


def _foreign(head: bytes, phrase: str) -> int:
    """Tell how large a filesystem or volume is that is not ext.

    :returns: bytes by its own word; 0 if it does not say.
    """
    if phrase == 'an XFS filesystem':
        # Blocks of the filesystem, and bytes of one (xfs_format.h).
        return int.from_bytes(head[8:16]) * int.from_bytes(head[4:8])
    if phrase == 'a btrfs filesystem':
        # In its superblock at 64 KiB (btrfs_tree.h).
        return int.from_bytes(head[0x10070:0x10078], 'little')
    if phrase == 'an LVM physical volume':
        # Behind its UUID, where the label says (lib/format_text/layout.h).
        label = head[: 4 * 512].index(b'LABELONE')
        start = label + int.from_bytes(head[label + 20 : label + 24], 'little')
        return int.from_bytes(head[start + 32 : start + 40], 'little')
    return 0


def _left(
    stream: streams.Stream, bound: _UnpackLimit, size: int
) -> tuple[str, ...]:
    """Read on for a while, for checksums are at the very end.

    :param size: bytes that were unpacked.
    :returns: what is said of what is left out.
    :raises SourceError: if it is damaged, or what is in it cannot have so
        much behind its end.
    """
    since = time.monotonic()
    blank = True
    while data := stream.read(sparse.CHUNK):
        if bound.strict:
            raise errors.SourceError(
                f'it unpacks to more than '
                f'{units.format_size(bound.most)}, which is more than the '
                f'{bound.what} in it can have',
                subject=stream.name,
                hint='it is damaged, or made to fill disks',
            )
        size += len(data)
        blank = blank and data == bytes(len(data))
        if time.monotonic() - since > _SECONDS:
            note = (
                f'{stream.name}: much data follows the end of the '
                f'{bound.what} in it, at {units.format_size(bound.end)}; it '
                'was left out and not read to its end, so the checksum there '
                'was not verified'
            )
            return (note,)
    if blank:
        return ()
    note = (
        f'{stream.name}: {units.format_size(size - bound.end)} that follow '
        f'the {bound.what} in it are left out'
    )
    return (note,)


def _check_room(directory: pathlib.Path, name: str, size: int) -> None:
    room = scratch.room(directory)
    if room < _RESERVE + _STEP:
        raise errors.NoSpaceError(
            f'{units.format_size(size)} of it are unpacked, and '
            f'{directory.parent} has {units.format_size(room)} left',
            subject=name,
            hint='use --work-directory to choose a directory with enough room',
        )
