# SPDX-License-Identifier: Apache-2.0

"""What the reader of XFS finds is what the kernel shows."""

import fcntl
import hashlib
import os
import pathlib
import stat
import struct
import time

from amiclient import errors
from amiclient.ext.writer import checksums
from amiclient.tests import base
from amiclient.tests.disks import disks
from amiclient.tests.disks import xfs
from amiclient.tests.oracle import mounted
from amiclient.xfs.inodes import XfsInode
from amiclient.xfs.reader import XfsReader
from amiclient.xfs import superblock

#: XFS_IOC_GOINGDOWN: what was written to the log stays there, or not.
_GOING_DOWN = 0x8004587D
_FLUSH, _NO_FLUSH = 1, 2


class Image:
    """An image as it would be with a few changes."""

    def __init__(self, image: pathlib.Path) -> None:
        self._file = image.open('rb')
        self.size = image.stat().st_size
        self.changes: dict[int, bytes] = {}

    def read(self, offset: int, count: int) -> bytes:
        count = max(0, min(count, self.size - offset))
        data = bytearray(os.pread(self._file.fileno(), count, offset))
        for place, new in self.changes.items():
            if offset <= place < offset + len(data):
                data[place - offset : place - offset + len(new)] = new
        return bytes(data)


def shown(reader: XfsReader, node: XfsInode) -> mounted.Shown:
    digest = hashlib.sha256()
    if node.is_file:
        for _, piece in reader.data(node):
            digest.update(piece)
    is_device = stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode)
    return mounted.Shown(
        node.number,
        node.mode,
        node.uid,
        node.gid,
        0 if node.is_directory else node.size,
        node.exact_times,
        node.device if is_device else (0, 0),
        node.flags if node.is_file or node.is_directory else 0,
        reader.link_target(node) if node.is_link else b'',
        reader.ranges(node) if node.is_file else [],
        digest.hexdigest() if node.is_file else '',
        reader.xattrs(node),
    )


def tree(reader: XfsReader) -> dict[bytes, mounted.Shown]:
    found = {}
    waiting = [(b'/', reader.superblock.root)]
    seen = set()
    while waiting:
        path, number = waiting.pop()
        node = reader.inode(number, os.fsdecode(path))
        found[path] = shown(reader, node)
        if node.is_directory:
            if number in seen:
                raise errors.DamagedError(f'{path!r} was seen before')
            seen.add(number)
            prefix = path.rstrip(b'/') + b'/'
            waiting += [(prefix + n, i) for n, i in reader.entries(node)]
    return found


def resealed(sector: bytes, at: int = 224) -> bytes:
    plain = sector[:at] + bytes(4) + sector[at + 4 :]
    crc = ~checksums.crc32c(0xFFFFFFFF, plain) & 0xFFFFFFFF
    return plain[:at] + crc.to_bytes(4, 'little') + plain[at + 4 :]


class TestXfs(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.image = self.directory / 'image'

    def mounted(self, how: str = 'rw'):
        self.place = self.tmp()
        return xfs.mounted(self.image, self.place, how)

    def try_mounting(self, *options: str, size: int = 300) -> None:
        xfs.make(self.image, *options, size=size)
        try:
            with self.mounted():
                pass
        except errors.ProgramError as error:
            self.skipTest(str(error))


class TestXfsReader(TestXfs):
    def test_as_the_kernel(self) -> None:
        data = self.random.randbytes(3 << 20)
        for options in (
            (),
            # What is larger, smaller, older or newer than usual.
            ('-b', 'size=1024', '-n', 'size=32768', '-i', 'nrext64=1'),
            ('-s', 'size=4096', '-i', 'size=2048', '-l', 'su=32k'),
            ('-m', 'bigtime=0,reflink=0,rmapbt=1', '-d', 'agcount=7'),
        ):
            self.try_mounting(*options)
            with self.mounted():
                xfs.fill(self.place, data)
            # What is in memory has other holes than what is on disk.
            with self.mounted('ro'):
                expected = mounted.read(self.place)
            found = tree(XfsReader(Image(self.image).read))
            self.assertEqual(expected.keys(), found.keys())
            for path, entry in expected.items():
                self.assertEqual(entry, found[path], (options, path))

    def test_parents(self) -> None:
        """Newer mkfs.xfs has each file know the directories it is in."""
        xfs.make(self.image, '-i', 'nrext64=1', size=64)
        with self.image.open('r+b') as file:
            sector = bytearray(file.read(512))
            sector[219] |= 0xC0
            file.seek(0)
            file.write(resealed(bytes(sector)))
        try:
            with self.mounted():
                names = [f'{n}-{"q" * 99}' for n in range(40)]
                (self.place / 'f').write_text('x')
                for name in names:
                    os.link(self.place / 'f', self.place / name)
                os.setxattr(self.place / 'f', 'user.a', b'b')
        except errors.ProgramError as error:
            self.skipTest(str(error))
        found = tree(XfsReader(Image(self.image).read))
        self.assertEqual(42, len(found))
        self.assertEqual({b'user.a': b'b'}, found[b'/f'].xattrs)

    def test_version_4(self) -> None:
        for options in (
            (),
            ('-b', 'size=512', '-n', 'size=4096,ftype=0', '-i', 'size=256'),
            ('-b', 'size=2048', '-n', 'ftype=1', '-l', 'version=1'),
        ):
            xfs.old(self.image, self.tmp(), *options)
            reader = XfsReader(Image(self.image).read)
            found = tree(reader)
            self.assertEqual(11 + 1 + 300 + 1500, len(found))
            small, large = found[b'/small'], found[b'/large']
            self.assertEqual((0o104644, 7, 8, 6), small[1:5])
            self.assertEqual(b'small\n', reader.read_file('/link'))
            self.assertEqual(
                {
                    b'user.note': b'v' * 10,
                    b'trusted.trust': b'v' * 300,
                    b'security.label': b'v' * 60000,
                },
                small.xattrs,
            )
            self.assertEqual([(0, 300_000)], large.ranges)
            self.assertEqual(
                {
                    f'user.n{n}-{"q" * 60}'.encode(): b'v' * (n % 50 + 1)
                    for n in range(100)
                },
                large.xattrs,
            )
            self.assertEqual((1, 3), found[b'/null'].device)
            self.assertEqual((259, 70000), found[b'/disk'].device)
            self.assertEqual(b'/' + b'y' * 900, found[b'/long'].target)
            name = f'name-299-{"q" * 49}'
            self.assertEqual(
                f'to-{name}'.encode(),
                found[f'/long-names/{name}'.encode()].target,
            )

    def test_tags(self) -> None:
        one = '12345678-1234-1234-1234-123456789abc'
        xfs.make(self.image, '-L', 'cloud', '-m', f'uuid={one}')
        found = XfsReader(Image(self.image).read).superblock
        self.assertEqual(('cloud', one), (found.label, found.uuid))
        self.assertEqual(24 * disks.MIB, found.size)


class TestXfsLog(TestXfs):
    def refused(self) -> str:
        error = self.assertRaises(
            errors.UnsupportedError, XfsReader, Image(self.image).read
        )
        return str(error)

    def test_round_and_round(self) -> None:
        """The log is a ring: its end is anywhere."""
        self.try_mounting(size=32)
        end = set()
        for turn in range(12):
            how = (None, _FLUSH, None, _NO_FLUSH)[turn % 4]
            with self.mounted():
                for number in range(self.random.randrange(1, 800)):
                    path = self.place / str(number)
                    path.unlink(missing_ok=True)
                    path.write_bytes(b'x')
                if how is not None:
                    os.sync()
                    (self.place / 'new').mkdir(exist_ok=True)
                    self.shut_down(how)
            if how is None:
                reader = XfsReader(Image(self.image).read)
                end.add(reader.superblock.in_use)
            else:
                self.assertIn('log has to be replayed', self.refused())
        self.assertTrue(end)

    def shut_down(self, how: int) -> None:
        descriptor = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _GOING_DOWN, struct.pack('=I', how))
        finally:
            os.close(descriptor)

    def test_not_unmounted(self) -> None:
        xfs.make(self.image)
        image = Image(self.image)
        start = XfsReader(image.read).superblock.log_start
        image.changes[start + 512 + 9] = b'\0'
        self.assertRaises(errors.UnsupportedError, XfsReader, image.read)

    def test_not_known(self) -> None:
        xfs.make(self.image)
        for place, value, words in (
            (218, b'\x01', 'features that are not known'),
            # Needs repair; has operations in its log; version 3 and 6.
            (219, b'\x1f', 'features that are not known'),
            (223, b'\x01', 'features that are not known'),
            (101, b'\xb3', 'features that are not known'),
            (101, b'\xb6', 'features that are not known'),
            (23, b'\x01', 'realtime'),
            (48, bytes(8), 'another device'),
        ):
            image = Image(self.image)
            sector = bytearray(image.read(0, 512))
            sector[place : place + len(value)] = value
            image.changes[0] = resealed(bytes(sector))
            error = self.assertRaises(
                errors.UnsupportedError, XfsReader, image.read
            )
            self.assertIn(words, str(error))


class TestXfsDamage(TestXfs):
    def test_checksums(self) -> None:
        self.try_mounting(size=64)
        with self.mounted():
            (self.place / 'd').mkdir()
            for number in range(50):
                (self.place / f'd/{number}-{"n" * 40}').touch()
            os.setxattr(self.place / 'd', 'user.large', b'v' * 3000)
            (self.place / 'l').symlink_to('x' * 900)
        reader = XfsReader(Image(self.image).read)
        size = reader.superblock.block_size
        node, link = reader.find('/d'), reader.find('/l', follow=False)
        group, inode = divmod(
            node.number, 1 << reader.superblock.group_bits + 3
        )
        places = [
            0,
            group * reader.superblock.group_blocks * size + inode * 512,
        ]
        for each, fork in (
            (node, node.content),
            (node, node.attributes),
            (link, link.content),
        ):
            runs = reader._blocks.runs(each, fork)
            places += [run.physical * size for run in runs]
        self.assertEqual(5, len(places))
        for place in places:
            image = Image(self.image)
            byte = image.read(place + 300, 1)
            image.changes[place + 300] = bytes([byte[0] ^ 4])
            self.assertRaises(
                errors.DamagedError,
                lambda image=image: tree(XfsReader(image.read)),
            )

    def test_cut_short(self) -> None:
        xfs.old(self.image, self.tmp())
        whole = Image(self.image).size
        for size in (0, 3, 511, 4096, 70_000, whole // 4, whole // 2):
            image = Image(self.image)
            image.size = size
            self.assertRaises(
                errors.DamagedError,
                lambda image=image: tree(XfsReader(image.read)),
            )

    def test_flipped(self) -> None:
        # As if whoever made it had computed the checksums.
        self.patch(superblock, 'has_checksum', lambda *_: True)
        self.try_mounting('-b', 'size=1024', size=128)
        with self.mounted():
            xfs.fill(self.place, self.random.randbytes(1 << 16), 200)
        self.check_flips()

    def test_flipped_version_4(self) -> None:
        xfs.old(self.image, self.tmp(), '-b', 'size=1024', many=200)
        self.check_flips()

    def check_flips(self) -> None:
        """Whatever is there, it is refused or is other data."""
        end = time.monotonic() + 60
        outcomes = {True: 0, False: 0}
        places = self.metadata(self.image)
        for _ in range(120):
            image = Image(self.image)
            for _ in range(self.random.choice((1, 1, 3))):
                place = self.random.choice(places)
                place += self.random.randrange(256)
                image.changes[place] = self.random.choice(
                    (b'\0', b'\1', b'\xff', b'\x80', b'\x7f\xff\xff\xff')
                )
            try:
                self.look(XfsReader(image.read))
                outcomes[True] += 1
            except errors.SourceError:
                outcomes[False] += 1
        self.assertLess(time.monotonic(), end)
        self.assertTrue(all(outcomes.values()), outcomes)

    def look(self, reader: XfsReader) -> None:
        """Read all, but for the content of what is large."""
        waiting, seen = [reader.superblock.root], set()
        while waiting:
            node = reader.inode(waiting.pop(), 'x')
            if node.number in seen:
                continue
            seen.add(node.number)
            reader.xattrs(node)
            if node.is_directory:
                waiting += [number for _, number in reader.entries(node)]
            elif node.is_link:
                reader.link_target(node)
            elif node.is_file:
                reader.ranges(node)

    def metadata(self, path: pathlib.Path) -> list[int]:
        """Find where inodes, directories, attributes and links are."""
        image = Image(path)
        places = []

        def read(offset: int, count: int) -> bytes:
            if count <= 4096:
                places.append(offset)
            return image.read(offset, count)

        reader = XfsReader(read)
        inodes = reader._blocks
        for number in (reader.superblock.root, *range(128)):
            place = inodes.address(number >> 1, 1)
            places += [place * 1024 + 256 * part for part in range(4)]
        self.look(reader)
        return places
