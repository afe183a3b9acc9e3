# SPDX-License-Identifier: Apache-2.0

"""What goes into the filesystems of :mod:`amiclient.tests.shapes.shapes`.

Everything is made with mke2fs and debugfs, so that no rights are needed, and
from seeded random data, so that it is the same each time.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import pathlib
import random
import re
import stat
import struct

from amiclient import process
from amiclient.tests.oracle import disk
from amiclient.tests.oracle import exttree

#: What e2fsprogs take for the current time.
NOW = 1700000000
ENVIRONMENT = {
    'E2FSPROGS_FAKE_TIME': str(NOW),
    'E2FSCK_TIME': str(NOW),
    # No limits or defaults of the machine's own.
    'MKE2FS_CONFIG': '/nonexistent/mke2fs.conf',
    'E2FSCK_CONFIG': '/nonexistent/e2fsck.conf',
}

_FLAG_CASEFOLD = 0x40000000
#: What debugfs says on stderr when nothing is wrong.
_HARMLESS = re.compile(r'|debugfs 1\..*|setb: Warning: block \d+ already set')
#: Append-only, no dump, no atime, synchronous: flags that change nothing in
#: how the file is stored.
_HARMLESS_FLAGS = (0, 0, 0, 0x20, 0x40, 0x80, 0x8)


@dataclasses.dataclass
class Job:
    """A filesystem in the making.

    :param image: its file.
    :param work: a directory for what is to be copied into it.
    :param random: where all randomness comes from.
    """

    image: pathlib.Path
    work: pathlib.Path
    random: random.Random

    def payload(self, size: int) -> str:
        """Make a file to be copied.

        :param size: bytes.
        :returns: its name, in the directory in which debugfs is run.
        """
        name = f'payload{self.random.getrandbits(64):016x}'
        (self.work / name).write_bytes(self.random.randbytes(size))
        return name

    def debugfs(self, commands: Iterable[str]) -> str:
        """Run commands of debugfs, all of which must succeed.

        :returns: what it printed.
        """
        result = process.run(
            ['debugfs', '-w', '-f', '-', self.image],
            input=''.join(f'{c}\n' for c in commands).encode(),
            env=ENVIRONMENT,
            cwd=self.work,
            access=None,
        )
        # Its exit status is 0 whatever happens.
        wrong = [
            line
            for line in result.stderr.splitlines()
            if not _HARMLESS.fullmatch(line)
        ]
        if wrong:
            raise AssertionError(f'{self.image}: debugfs: {wrong[:5]}')
        return result.text

    def settle(self) -> None:
        """Let e2fsck mend what debugfs left, and see that nothing is left."""
        process.run(
            ['e2fsck', '-fy', self.image],
            ok=(0, 1),
            env=ENVIRONMENT,
            access=None,
        )
        process.run(
            ['e2fsck', '-fn', self.image], env=ENVIRONMENT, access=None
        )

    def free_blocks(self) -> int:
        """Tell how many blocks are free."""
        text = process.run(['dumpe2fs', '-h', self.image], access=None).text
        (line,) = (x for x in text.splitlines() if x.startswith('Free blocks'))
        return int(line.split(':')[1])


def add_odd(job: Job) -> None:
    """Add what `mke2fs -d` does not copy: devices, unwritten blocks, gaps."""
    commands = list(_devices())
    commands += [f'write {job.payload(40960)} punched', 'punch punched 2 4']
    with disk.Filesystem(job.image) as filesystem:
        if filesystem.incompat & disk.INCOMPAT_EXTENTS:
            commands += [
                f'write {job.payload(8192)} unwritten',
                'fallocate unwritten 3 20',
            ]
    job.debugfs(commands)


def dress(job: Job) -> None:
    """Give every inode owners, times, modes, attributes and flags.

    Some depend on the machine after `mke2fs -d`, and most are dull. What is
    dressed has a generation, and is passed over the next time.
    """
    with disk.Filesystem(job.image) as filesystem:
        block_size = filesystem.block_size
        has_project = bool(filesystem.ro_compat & disk.RO_COMPAT_PROJECT)
        numbers = set(exttree.inode_numbers(job.image).values())
        inodes = [filesystem.inode(n) for n in sorted(numbers)]
    (job.work / 'acl').write_bytes(_acl())
    (job.work / 'cap').write_bytes(
        struct.pack('<IIIII', 0x02000001, 0x2400, 0, 0, 0)
    )
    (job.work / 'big').write_bytes(job.random.randbytes(block_size - 400))
    commands: list[str] = []
    for inode in inodes:
        if not inode.generation:
            commands += _dress(inode, job.random, has_project)
    job.debugfs(commands)


def _devices() -> Iterator[str]:
    yield 'mkdir dev'
    yield 'cd dev'
    yield 'mknod console c 5 1'
    yield 'mknod vda b 254 0'
    # What does not fit into the old format of device numbers.
    yield 'mknod large b 259 60000'
    yield 'cd /'


def _acl() -> bytes:
    """An access control list, as the kernel passes it to programs."""
    entries = [
        (0x01, 7, 0xFFFFFFFF),
        (0x02, 5, 1234),
        (0x04, 5, 0xFFFFFFFF),
        (0x08, 6, 100000),
        (0x10, 7, 0xFFFFFFFF),
        (0x20, 0, 0xFFFFFFFF),
    ]
    return struct.pack('<I', 2) + b''.join(
        struct.pack('<HHI', *entry) for entry in entries
    )


def _dress(
    inode: disk.Inode, rng: random.Random, has_project: bool
) -> Iterator[str]:
    spec = f'<{inode.number}>'
    kind = stat.S_IFMT(inode.mode)
    modes = {
        stat.S_IFREG: (0o644, 0o600, 0o755, 0o4755, 0o2711, 0, 0o444),
        stat.S_IFDIR: (0o755, 0o700, 0o1777, 0o2775),
        stat.S_IFLNK: (0o777,),
    }.get(kind, (0o600, 0o620, 0o666))
    yield f'sif {spec} mode 0{kind | rng.choice(modes):o}'
    owners = (0, 0, 1, 1000, 65534, 65536, 100000, 2000000000)
    yield f'sif {spec} uid {rng.choice(owners)}'
    yield f'sif {spec} gid {rng.choice(owners)}'
    yield f'sif {spec} generation {rng.randrange(1, 2**32)}'
    has_extra = inode.extra(0x94) is not None
    for name in ('atime', 'mtime', 'ctime', 'crtime')[: 4 if has_extra else 3]:
        second = rng.randrange(10**9, 17 * 10**8)
        if rng.random() < 0.1:
            # Before 1970, and after 2038 where there are bits for it.
            second = rng.choice((-5, -(10**9), 2**31 + 5, 2**33 + 7))
            second = second if has_extra else min(second, 2**31 - 1)
        # The epoch is counted from the signed seconds.
        low = (second + 2**31) % 2**32 - 2**31
        yield f'sif {spec} {name} @{second}'
        if has_extra:
            epoch = (second - low) >> 32 & 3
            yield (
                f'sif {spec} {name}_extra '
                f'{rng.randrange(10**9) << 2 | epoch:#x}'
            )
    if has_project and inode.extra(0x9C) is not None:
        yield f'sif {spec} projid {rng.choice((0, 7, 4000000000))}'
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        flags = inode.flags | rng.choice(_HARMLESS_FLAGS)
        yield f'sif {spec} flags {flags:#x}'
        yield from _attributes(spec, kind, rng)


def _attributes(spec: str, kind: int, rng: random.Random) -> Iterator[str]:
    dice = rng.random()
    if dice < 0.10:
        yield f'ea_set {spec} user.note{rng.randrange(9)} text-{rng.random()}'
    if 0.05 < dice < 0.15:
        yield f'ea_set -f acl {spec} system.posix_acl_access'
        if kind == stat.S_IFDIR:
            yield f'ea_set -f acl {spec} system.posix_acl_default'
    if 0.12 < dice < 0.18:
        yield f'ea_set {spec} trusted.origin {rng.getrandbits(90):x}'
        if kind == stat.S_IFREG:
            yield f'ea_set -f cap {spec} security.capability'
    if 0.18 < dice < 0.22:
        yield f'ea_set -f big {spec} user.big'


def spread(job: Job, *, parts: int = 4, files: int = 24) -> None:
    """Write files into block groups all over the filesystem.

    libext2fs takes the first free inode, and free blocks from the beginning
    of its flexible group: so those that come before are marked as used until
    e2fsck says otherwise.

    :param parts: in how many groups; fewer if there are not as many.
    :param files: how many files in each of them.
    """
    at = max(11, *exttree.inode_numbers(job.image).values()) + 1
    with disk.Filesystem(job.image) as filesystem:
        groups = filesystem.group_count
        per_group = filesystem.blocks_per_group
        first_block = filesystem.first_block
        inodes = filesystem.inodes_per_group
        flex = filesystem.groups_per_flex
        has_checksums = filesystem.ro_compat & disk.RO_COMPAT_GROUP_CHECKSUMS
    commands = []
    if has_checksums:
        # The marks in a group that was never used would be forgotten.
        commands = [f'set_bg {g} flags 0x4' for g in range(groups)]
    marked, parts = 0, min(parts, groups)
    for part in range(parts):
        group = (groups - 1) * part // max(parts - 1, 1)
        if group * inodes + 1 > at:
            commands.append(f'seti <{at}> {group * inodes + 1 - at}')
            at = group * inodes + 1
        marked = max(marked, group - group % flex)
        if group > marked:
            start = first_block + marked * per_group
            count = (group - marked) * per_group
            commands.append(f'setb {start or 1} {count}')
            marked = group
        commands += _directory(job, f'part{group}', files)
        at += files + 1
    job.debugfs(commands)
    dress(job)
    job.settle()


def _directory(job: Job, name: str, files: int) -> Iterator[str]:
    yield f'mkdir {name}'
    yield f'cd {name}'
    for index in range(files):
        size = job.random.choice((1, 1, 3, 10, 30, 150)) * 1024
        yield f'write {job.payload(size - index % 7)} f{index}'
    yield 'cd /'


def churn(job: Job, *, rounds: int = 3, files: int = 120) -> None:
    """Write files and delete a third of them, again and again."""
    names: list[str] = []
    commands = []
    for turn in range(rounds):
        commands += [f'mkdir churn{turn}', f'cd churn{turn}']
        for index in range(files):
            size = job.random.choice((1, 3, 10, 50, 200)) * 1024
            commands.append(f'write {job.payload(size)} f{index}')
            names.append(f'/churn{turn}/f{index}')
        commands.append('cd /')
        job.random.shuffle(names)
        commands += [f'rm {n}' for n in names[: len(names) // 3]]
        del names[: len(names) // 3]
    job.debugfs(commands)
    dress(job)
    job.settle()


def thin_out(job: Job) -> None:
    """Delete half of the files that spread() wrote, at random."""
    names = sorted(
        name.decode()
        for name, entry in exttree.read_tree(job.image).items()
        if name.startswith(b'/part') and entry.type == 'file'
    )
    gone = job.random.sample(names, len(names) // 2)
    job.debugfs(f'rm {name}' for name in gone)
    job.settle()


def fragment(job: Job, *, blocks: int = 1500) -> None:
    """Write a file into gaps of one block, for extent trees with levels."""
    with disk.Filesystem(job.image) as filesystem:
        size = filesystem.block_size
    commands = ['mkdir gaps', 'cd gaps']
    commands += [f'write {job.payload(size)} g{n}' for n in range(blocks)]
    commands += [f'rm g{n}' for n in range(0, blocks, 2)]
    commands.append(f'write {job.payload(size * (blocks // 2))} scattered')
    job.debugfs(commands)
    dress(job)
    job.settle()


def fill(job: Job) -> None:
    """Fill a filesystem to its last block."""
    with disk.Filesystem(job.image) as filesystem:
        size = filesystem.block_size
    job.debugfs(
        [f'write {job.payload((job.free_blocks() - 24) * size)} filler']
    )
    job.debugfs(
        f'write {job.payload(size)} last{n}' for n in range(job.free_blocks())
    )
    job.settle()
    if job.free_blocks():
        raise AssertionError(f'{job.image} is not full')


def fold_case(job: Job) -> None:
    """Make a directory in which case does not matter."""
    flags = _FLAG_CASEFOLD | disk.FLAG_EXTENTS
    job.debugfs(['mkdir folded', f'sif folded flags {flags:#x}'])
    names = ['README', 'Straße', 'ÅNGSTRÖM'] + [f'File{n}' for n in range(300)]
    job.debugfs([f'write {job.payload(1500)} folded/{name}' for name in names])
    dress(job)
    job.settle()


def encrypt(job: Job) -> None:
    """Make a file that claims to be encrypted, with its context."""
    job.debugfs([f'write {job.payload(9000)} secret'])
    number = exttree.inode_numbers(job.image)[b'/secret']
    # Version 2, modes, flags, master key identifier, nonce.
    context = struct.pack('<BBBB4x', 2, 1, 4, 0) + job.random.randbytes(32)
    (job.work / 'context').write_bytes(context)
    job.debugfs(
        [
            f'ea_set -f context <{number}> user.c',
            f'sif <{number}> flags {disk.FLAG_EXTENTS | disk.FLAG_ENCRYPT:#x}',
        ]
    )
    # debugfs knows no name for the index of encryption contexts.
    with disk.Filesystem(job.image) as filesystem:
        inode = filesystem.inode(number)
        at = filesystem.inode_offset(number) + inode.end + 4
    if inode.raw[inode.end + 4 : inode.end + 6] != b'\x01\x01':
        raise AssertionError('the attribute is not where it was expected')
    with open(job.image, 'r+b') as file:
        file.seek(at + 1)
        file.write(b'\x09')
    job.settle()


def huge_attributes(job: Job) -> None:
    """Set attributes that need inodes of their own, one of them shared."""
    for name, size in (('value', 30_000), ('other', 60_000)):
        (job.work / name).write_bytes(job.random.randbytes(size))
    job.debugfs(
        [
            'ea_set -f value /etc/os-release user.huge',
            'ea_set -f value /links/first user.huge',
            'ea_set -f other /links/first user.other',
            'ea_set -f other /var user.directory',
        ]
    )
    job.settle()


def seal(job: Job) -> None:
    """Make a file with fs-verity's flag and blocks beyond its end."""
    job.debugfs(
        [
            f'write {job.payload(40_000)} sealed',
            'sif sealed size 5000',
            f'sif sealed flags {disk.FLAG_EXTENTS | disk.FLAG_VERITY:#x}',
        ]
    )
    job.settle()


def protect(job: Job) -> None:
    """Turn on protection against being mounted twice.

    Last, because from now on each program waits twice the interval and more.
    """
    process.run(
        ['tune2fs', '-O', 'mmp', '-E', 'mmp_update_interval=1', job.image],
        env=ENVIRONMENT,
        access=None,
    )
