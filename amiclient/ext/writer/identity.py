# SPDX-License-Identifier: Apache-2.0

"""What a new filesystem is to be like, and what tells it from others."""

import dataclasses
import hashlib
import stat
from typing import cast

from amiclient import errors
from amiclient.ext import superblock
from amiclient.ext.writer import groups
from amiclient.ext.writer import nodes
from amiclient.ext.writer import placement
from amiclient import units

_LABEL = 16
_NANO = 10**9


@dataclasses.dataclass(frozen=True)
class Wish:
    """What a filesystem is to be like, besides what is in it.

    :param label: None for no label.
    :param size: bytes of the whole; as few as possible if None.
    :param headroom: what is to be free.
    :param journal: ``keep`` for one as mke2fs makes it, ``none``, or bytes.
    :param time: when it is made, in seconds since 1970; None for the newest
        time in it.
    """

    label: str | None = None
    size: int | None = None
    headroom: units.Headroom = units.NO_HEADROOM
    journal: str | int = 'keep'
    time: int | None = None


def encoded_label(label: str | None) -> bytes:
    """Turn a label into bytes.

    :raises UsageError: if it is too long.
    """
    data = (label or '').encode('utf-8', 'surrogateescape')
    if len(data) > _LABEL or b'\0' in data:
        raise errors.UsageError(
            f'the label {label!r} has more than {_LABEL} bytes',
            hint='choose a shorter one',
        )
    return data


def journal_blocks(journal: str | int) -> int | None:
    """Tell the blocks of a journal.

    :returns: None for as many as mke2fs would choose.
    :raises UsageError: if it is too small, or too large.
    """
    if journal == 'keep':
        return None
    if isinstance(journal, str):
        return 0
    blocks = journal // placement.BLOCK
    if blocks < superblock.SMALLEST_JOURNAL:
        raise errors.UsageError(
            f'a journal of {journal} bytes is too small',
            hint='4M is the smallest; or choose none',
        )
    if blocks > superblock.LARGEST_JOURNAL:
        raise errors.UsageError(
            f'a journal of {journal} bytes is too large',
            hint=f'{superblock.LARGEST_JOURNAL * placement.BLOCK} '
            'is the largest',
        )
    return blocks


def add_lost_and_found(tree: nodes.Tree) -> bool:
    """Make the directory that e2fsck wants to be there.

    What is there of that name is a directory already.

    :returns: whether there was none.
    """
    if tree.find(b'lost+found') is not None:
        return False
    tree.put(b'lost+found', nodes.Node(stat.S_IFDIR | 0o700))
    return True


def identified(tree: nodes.Tree, wish: Wish) -> tuple[groups.Identity, int]:
    """Give inodes their numbers, and the filesystem its UUID.

    :returns: the identity, and the last number.
    """
    found = cast(nodes.Node, tree.find(b'lost+found'))
    tree.root.number = tree.root.parent = groups.ROOT_INODE
    found.number = groups.LOST_AND_FOUND_INODE
    digest = hashlib.sha256(encoded_label(wish.label))
    last = found.number
    newest = 0
    for path, node in tree.walk():
        if not node.number:
            last += 1
            node.number = last
        for child in node.children.values():
            if isinstance(child, nodes.Node):
                child.parent = node.number
        newest = max(newest, node.mtime or 0)
        digest.update(_summary(path, node))
    time = newest // _NANO if wish.time is None else wish.time
    # UUID version 8 (RFC 9562): made from the content.
    uuid = bytearray(digest.digest()[:16])
    uuid[6] = uuid[6] & 0x0F | 0x80
    uuid[8] = uuid[8] & 0x3F | 0x80
    identity = groups.Identity(
        bytes(uuid),
        digest.digest()[16:],
        encoded_label(wish.label),
        min(max(time, 0), 2**34 - 1),
    )
    return identity, last


def _summary(path: bytes, node: nodes.Node) -> bytes:
    """Write all that matters of a file, unmistakably."""
    return repr(
        (
            path,
            node.number,
            node.mode,
            node.uid,
            node.gid,
            node.mtime,
            node.atime,
            node.ctime,
            sorted(node.xattrs.items()),
            node.digest,
            node.target,
            node.device,
        )
        # What has none is summed up as it always was.
        + ((node.flags,) if node.flags else ())
    ).encode('ascii')
