# SPDX-License-Identifier: Apache-2.0

"""An independent reader of ext2, ext3 and ext4 trees.

It is what proves that a filesystem holds the same before and after: every
name in every directory with all that its inode says, and the content. It
shares no code with the package, mounts nothing and needs no rights.

Not compared, because e2fsck and resize2fs may rightly change them: numbers
of inodes and blocks, the order and size of directories and whether they are
hashed, and the shape of extent trees.
"""

from collections.abc import Collection, Iterator, Mapping
import dataclasses
import hashlib
import os
import stat

from amiclient.tests.oracle import disk
from amiclient.tests.oracle import parts

TreeError = disk.TreeError

_TYPES = {
    stat.S_IFREG: 'file',
    stat.S_IFDIR: 'directory',
    stat.S_IFLNK: 'symlink',
    stat.S_IFCHR: 'character device',
    stat.S_IFBLK: 'block device',
    stat.S_IFIFO: 'fifo',
    stat.S_IFSOCK: 'socket',
}

#: e2fsck hashes directories that have grown, and drops the other flag, which
#: old kernels set on files with blocks beyond their end.
_FLAGS_THAT_MAY_CHANGE = disk.FLAG_INDEX | disk.FLAG_EOFBLOCKS

#: More than this many bytes of holes are not fed to the hash.
_HOLES_TO_HASH = 256 << 20

_ZEROS = bytes(1 << 20)


@dataclasses.dataclass(frozen=True)
class Entry:
    """What one name stands for.

    :param type: 'file', 'directory', 'symlink', 'character device', 'block
        device', 'fifo' or 'socket'.
    :param mode: permission bits, with setuid, setgid and sticky.
    :param links: the link count.
    :param size: bytes; 0 for directories.
    :param atime: nanoseconds since 1970, as the other times.
    :param crtime: None where the inode has no room for it.
    :param flags: those of the inode that must not change.
    :param generation: what NFS file handles contain.
    :param project: project id, 0 where the inode has no room for it.
    :param xattrs: values by full name, as they are stored.
    :param target: where a symbolic link leads.
    :param device: major and minor number of a device.
    :param sha256: of a file's content; of what is in the blocks alone, and
        marked as such, if there are huge holes.
    :param holes: digest of which blocks of a file are data, which allocated
        but unwritten, and which holes.
    :param names: all names of the inode.
    """

    type: str
    mode: int
    uid: int
    gid: int
    links: int
    size: int
    atime: int
    mtime: int
    ctime: int
    crtime: int | None
    flags: int
    generation: int
    version: int
    project: int
    xattrs: Mapping[bytes, bytes]
    target: bytes | None
    device: tuple[int, int] | None
    sha256: str | None
    holes: str | None
    names: tuple[bytes, ...]


def read_tree(path: str | os.PathLike[str]) -> dict[bytes, Entry]:
    """Read everything that can be reached from the root directory.

    :param path: an image; it is not written to, and what waits in its
        journal is not seen: see TreeError.
    :returns: entries by full path, from ``b'/'``.
    :raises TreeError: if something makes no sense, or the journal must be
        replayed first, because what would be read could be anything.
    """
    with disk.Filesystem(path) as filesystem:
        if filesystem.incompat & disk.INCOMPAT_RECOVER:
            raise TreeError(f'{path} has a journal that must be replayed')
        numbers = dict(_walk(filesystem))
        names: dict[int, list[bytes]] = {}
        for name, number in numbers.items():
            names.setdefault(number, []).append(name)
        by_number = {
            number: _entry(filesystem, number, tuple(sorted(group)))
            for number, group in names.items()
        }
    return {name: by_number[number] for name, number in numbers.items()}


def inode_numbers(path: str | os.PathLike[str]) -> dict[bytes, int]:
    """Tell the inode number of every full path in an image."""
    with disk.Filesystem(path) as filesystem:
        return dict(_walk(filesystem))


def _walk(filesystem: disk.Filesystem) -> Iterator[tuple[bytes, int]]:
    seen = set()
    waiting = [(b'/', disk.ROOT_INODE)]
    while waiting:
        name, number = waiting.pop()
        yield name, number
        inode = filesystem.inode(number)
        if not stat.S_ISDIR(inode.mode):
            continue
        if number in seen:
            raise TreeError(f'{name!r} is a directory that was met before')
        seen.add(number)
        _, rest = parts.attributes(filesystem, inode)
        prefix = name.rstrip(b'/') + b'/'
        for child, target in parts.listing(filesystem, inode, rest).items():
            if not child or b'/' in child or b'\0' in child:
                raise TreeError(f'{name!r} lists the impossible {child!r}')
            waiting.append((prefix + child, target))


def _entry(
    filesystem: disk.Filesystem, number: int, names: tuple[bytes, ...]
) -> Entry:
    inode = filesystem.inode(number)
    kind = _TYPES.get(stat.S_IFMT(inode.mode))
    if kind is None:
        raise TreeError(f'{names[0]!r} has the impossible mode {inode.mode:o}')
    xattrs, rest = parts.attributes(filesystem, inode)
    digest = holes = target = device = None
    if kind == 'file':
        digest, holes = _content(filesystem, inode, rest)
    elif kind == 'symlink':
        target = _target(filesystem, inode, rest)
    elif kind.endswith('device'):
        device = _device(inode)
    crtime = None
    if inode.extra(0x90) is not None:
        crtime = inode.time(0x90, 0x94)
    return Entry(
        type=kind,
        mode=stat.S_IMODE(inode.mode),
        uid=inode.u16(0x2) | inode.u16(0x78) << 16,
        gid=inode.u16(0x18) | inode.u16(0x7A) << 16,
        links=inode.u16(0x1A),
        size=0 if kind == 'directory' else inode.size,
        atime=inode.time(0x8, 0x8C),
        mtime=inode.time(0x10, 0x88),
        ctime=inode.time(0xC, 0x84),
        crtime=crtime,
        flags=inode.flags & ~_FLAGS_THAT_MAY_CHANGE,
        generation=inode.generation,
        version=inode.u32(0x24) | (inode.extra(0x98) or 0) << 32,
        project=inode.extra(0x9C) or 0,
        xattrs=xattrs,
        target=target,
        device=device,
        sha256=digest,
        holes=holes,
        names=names,
    )


def _content(
    filesystem: disk.Filesystem, inode: disk.Inode, rest: bytes
) -> tuple[str, str]:
    digest, size = hashlib.sha256(), inode.size
    if inode.flags & disk.FLAG_INLINE_DATA:
        data = (inode.body + rest)[:size]
        digest.update(data + bytes(size - len(data)))
        return digest.hexdigest(), 'inline'
    runs = filesystem.runs(inode)
    holes = _holes(runs)
    block_size = filesystem.block_size
    if inode.flags & (disk.FLAG_ENCRYPT | disk.FLAG_VERITY) and runs:
        # The end of the last block belongs to the cipher text, and hash
        # trees lie beyond the end of the file.
        end = (runs[-1].logical + runs[-1].count) * block_size
        size = max(size, end)
    data_size = sum(r.count for r in runs if r.written) * block_size
    huge = size - data_size > _HOLES_TO_HASH
    at = 0
    for offset, piece in filesystem.pieces(runs):
        if offset >= size:
            break
        if huge:
            # However many pieces the data between two holes lies in.
            if offset != at:
                digest.update(offset.to_bytes(8, 'little'))
        else:
            _hash_zeros(digest, offset - at)
        digest.update(piece[: size - offset])
        at = min(size, offset + len(piece))
    if huge:
        return f'in blocks: {digest.hexdigest()}', holes
    _hash_zeros(digest, size - at)
    return digest.hexdigest(), holes


def _hash_zeros(digest: 'hashlib._Hash', count: int) -> None:
    while count > 0:
        digest.update(_ZEROS[:count])
        count -= len(_ZEROS)


def _holes(runs: list[disk.Run]) -> str:
    spans: list[tuple[int, int, bool]] = []
    for run in runs:
        end = run.logical + run.count
        if spans and spans[-1][1:] == (run.logical, run.written):
            spans[-1] = (spans[-1][0], end, run.written)
        else:
            spans.append((run.logical, end, run.written))
    text = ' '.join(f'{a}-{b}{"" if w else "u"}' for a, b, w in spans)
    # Short maps are shown as they are, for the sake of the reader.
    if len(text) > 64:
        digest = hashlib.sha256(text.encode()).hexdigest()
        text = f'{len(spans)} spans {digest}'
    return text


def _target(
    filesystem: disk.Filesystem, inode: disk.Inode, rest: bytes
) -> bytes:
    if inode.flags & disk.FLAG_INLINE_DATA:
        return (inode.body + rest)[: inode.size]
    sectors = inode.u32(0x1C) | inode.u16(0x74) << 32
    if inode.flags & disk.FLAG_HUGE_FILE:
        sectors *= filesystem.block_size // 512
    if inode.acl_block:
        sectors -= filesystem.cluster_size // 512
    if inode.size < 60 and sectors == 0:
        return inode.body[: inode.size]
    return filesystem.mapped(inode, inode.size)


def _device(inode: disk.Inode) -> tuple[int, int]:
    old, new = inode.u32(0x28), inode.u32(0x2C)
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    return new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00


def diff_trees(
    before: Mapping[bytes, Entry],
    after: Mapping[bytes, Entry],
    *,
    ignore: Collection[str] = (),
    limit: int = 20,
) -> list[str]:
    """Tell how two trees differ.

    :param ignore: names of fields of Entry that need not be equal.
    :param limit: how many differences to tell, more are counted.
    :returns: one line for each difference, none if the trees are equal.
    """
    fields = [f.name for f in dataclasses.fields(Entry)]
    unknown = set(ignore) - set(fields)
    if unknown:
        raise ValueError(f'no such fields: {sorted(unknown)}')
    found = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            found.append(f'{name!r}: lost ({before[name].type})')
        elif name not in before:
            found.append(f'{name!r}: new ({after[name].type})')
        else:
            for field in fields:
                old = getattr(before[name], field)
                new = getattr(after[name], field)
                if old != new and field not in ignore:
                    found.append(
                        f'{name!r}: {field} was {_short(field, old)}, '
                        f'is {_short(field, new)}'
                    )
    if len(found) > limit:
        found[limit:] = [f'and {len(found) - limit} more']
    return found


def _short(field: str, value: object) -> str:
    if field in ('mode', 'flags') and isinstance(value, int):
        return f'{value:#o}' if field == 'mode' else f'{value:#x}'
    text = repr(value)
    return text if len(text) <= 200 else f'{text[:200]}...'
