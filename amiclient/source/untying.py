#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""What ties a root filesystem to the disk that it was on, and its mending.

/etc/fstab is changed within the blocks that it has, so nothing but its content
and its size are written: no block is allocated, and no name is touched.
"""

import os
import pathlib

from amiclient import exceptions
from amiclient.ext import browse
from amiclient.ext import copy
from amiclient.ext import groups as groups_
from amiclient.ext import superblock as superblock_
from amiclient.ext import tools as tools_
from amiclient.source import fstab

_PATH = '/etc/fstab'
_LIMIT = 64 << 10

#: Where systemd and distributions mount what boot loaders read.
_BOOTS = ('/boot', '/efi', '/boot/efi')

#: Not all commands that say so have the option.
_FIX = (
    '"ami upload", "boot", "extract" and "shrink --output" mend that in a '
    'copy with --fix'
)

#: Where it was tried.
_BY_HAND = 'that cannot be mended in the copy: mend it by hand'


def report(
    image: pathlib.Path, name: str, remedy: str = _FIX
) -> tuple[str, ...]:
    """Tell what ties a root filesystem to a disk.

    :param name: what to call it.
    :param remedy: what the user can do about it.
    :returns: what the user should know.
    """
    with browse.opened(image) as reader:
        found = fstab.ties(_text(reader), reader.superblock)
    if not found:
        return ()
    listed = ', '.join(map(str, found))
    note = f'{name}: /etc/fstab names what a server does not have: {listed}'
    return (f'{note}; {remedy}',)


def boots(image: pathlib.Path) -> tuple[fstab.Entry, ...]:
    """Tell what a root filesystem mounts where boot loaders look.

    :returns: what is on /boot first, if that is not within.
    """
    with browse.opened(image) as reader:
        entries = fstab.parse(_text(reader))
    return tuple(
        entry
        for path in _BOOTS
        for entry in entries
        if entry.path == path and entry.is_device
    )


def _text(reader: browse.Reader) -> str:
    """Read /etc/fstab; nothing if there is none."""
    # Any byte is a character, and comes back as it was.
    return (reader.read_file(_PATH, _LIMIT) or b'').decode('latin-1')


def mend(image: pathlib.Path, name: str) -> tuple[str, ...]:
    """Mend what ties a root filesystem to a disk.

    :param image: a file that may be changed, with a filesystem in order.
    :param name: what to call it.
    :returns: what was done.
    :raises UnsupportedError: if the file cannot be changed where it is.
    """
    block = superblock_.read(image)
    with copy.opened(image, os.O_RDWR) as descriptor:
        reader = browse.Reader(groups_.Layout(descriptor, block))
        node = reader.find(_PATH, follow=False)
        if node is None or node.size > _LIMIT:
            return report(image, name, _BY_HAND)
        blocks = reader.blocks(node)
        if blocks is None:
            # It is a symbolic link, for one: nothing is certain.
            return report(image, name, _BY_HAND)
        text = reader.read(node, _LIMIT).decode('latin-1')
        found = fstab.ties(text, block)
        if not found:
            return ()
        mended = fstab.mend(text, found).encode('latin-1')
        room = len(blocks) * block.block_size
        if len(mended) > room:
            raise exceptions.UnsupportedError(
                f'{name}: /etc/fstab cannot be mended: it has room for {room} '
                f'bytes, and {len(mended)} are needed',
                hint='mend it by hand, and leave out --fix',
            )
        padded = mended.ljust(room, b'\0')
        for index, number in enumerate(blocks):
            start = index * block.block_size
            os.pwrite(
                descriptor,
                padded[start : start + block.block_size],
                number * block.block_size,
            )
    tools_.Toolbox.of(block).edit(
        image, [f'sif <{node.number}> size {len(mended)}']
    )
    return (f'{name}: /etc/fstab was mended: {", ".join(map(str, found))}',)
