# SPDX-License-Identifier: Apache-2.0

"""What boots: unified kernel images, entries and menus of boot loaders.

The former are PE files whose sections hold what a boot loader would have put
together (UAPI group, "Unified Kernel Image"; Microsoft's PE format
specification). Nova starts a kernel itself, so it needs the parts.
"""

from collections.abc import Mapping
import dataclasses
import posixpath
import re
import struct

#: Bytes that the headers are within.
HEAD = 64 * 1024

#: Sections are 40 bytes each, and a unified kernel image has a dozen.
_SECTIONS = 96

#: Bytes that an entry of a boot loader has at most.
ENTRY_SIZE = 64 << 10

#: The keys that name a unified kernel image; the second may name any program
#: for UEFI.
ENTRY_KEYS = ('uki', 'efi')

#: Words in a line that are looked at.
_ENTRY_WORDS = 64


def pe_header(head: bytes) -> int | None:
    """Tell where the PE header of a program begins; None if it is none.

    :param head: what the file begins with.
    """
    if head[:2] != b'MZ' or len(head) < 0x40:
        return None
    (start,) = struct.unpack_from('<I', head, 0x3C)
    if head[start : start + 4] != b'PE\0\0' or start + 24 > len(head):
        return None
    return int(start)


@dataclasses.dataclass(frozen=True)
class Section:
    """One section.

    :param offset: bytes from the beginning of the file.
    :param size: bytes, without what fills it up.
    """

    offset: int
    size: int


def sections(head: bytes) -> Mapping[str, Section]:
    """Tell the sections of a unified kernel image.

    :param head: what the file begins with.
    :returns: by name, the first one of each; nothing if it is something else.
    """
    start = pe_header(head)
    if start is None:
        return {}
    (count,) = struct.unpack_from('<H', head, start + 6)
    (optional,) = struct.unpack_from('<H', head, start + 20)
    found: dict[str, Section] = {}
    for i in range(min(count, _SECTIONS)):
        place = start + 24 + optional + 40 * i
        if place + 40 > len(head):
            break
        name = head[place : place + 8].rstrip(b'\0').decode('latin-1')
        size, _, raw, offset = struct.unpack_from('<4I', head, place + 8)
        # A profile after the first has sections of the same names.
        found.setdefault(name, Section(offset, min(size, raw)))
    return found if '.linux' in found else {}


#: The menus of GRUB, extlinux and SYSLINUX, below what is /boot.
MENUS = (
    'grub/grub.cfg',
    'grub2/grub.cfg',
    'extlinux/extlinux.conf',
    'extlinux.conf',
    'syslinux/syslinux.cfg',
    'syslinux.cfg',
)

#: Commands in menus, and the keys of entries that say the same.
_COMMANDS = {
    'linux': 'linux',
    'linux16': 'linux',
    'linuxefi': 'linux',
    'kernel': 'linux',
    'initrd': 'initrd',
    'initrd16': 'initrd',
    'initrdefi': 'initrd',
    'append': 'options',
}

#: What GRUB calls the device, in front of a path.
_DEVICE = re.compile(r'\([^)]*\)')


def parse_menu(data: bytes, place: str) -> list[dict[str, list[str]]]:
    """Read the menu of GRUB, extlinux or SYSLINUX as entries.

    Sources: the manual of GRUB, "linux" and "initrd"; the wiki of SYSLINUX,
    "Config".

    :param data: the first ENTRY_SIZE bytes of it.
    :param place: its path, to which paths may be relative.
    :returns: as :func:`parse_entry` does, of each entry.
    """
    top = posixpath.dirname(place)
    entries: list[dict[str, list[str]]] = [{}]
    for line in data.decode('utf-8', 'replace').splitlines():
        command, *words = line.split()[:_ENTRY_WORDS] or ['']
        key = _COMMANDS.get(command.lower(), '')
        again = key == 'linux' and key in entries[-1]
        if again or command.lower() in ('menuentry', 'label'):
            entries.append({})
        if not key:
            continue
        fields = entries[-1]
        named = {'linux': words[:1], 'initrd': words}.get(key, [])
        options = words[len(named) :]
        fields.setdefault('options', []).extend(options)
        loaded = [o[7:] for o in options if o.startswith('initrd=')]
        for which, paths in ((key, named), ('initrd', loaded)):
            words = [_DEVICE.sub('', p.strip('"\''), count=1) for p in paths]
            for path in ','.join(words).split(','):
                # What a variable stands for is not known.
                if path and '$' not in path:
                    fields.setdefault(which, []).append(
                        posixpath.normpath(posixpath.join(top, path))
                    )
    return entries


def parse_entry(data: bytes) -> dict[str, list[str]]:
    """Read an entry of a boot loader, which says what is to be booted.

    Source: Boot Loader Specification, type 1 (UAPI group).

    :param data: the first ENTRY_SIZE bytes of it.
    :returns: the words that follow a key, by the key; those of all lines that
        have it, in turn.
    """
    fields: dict[str, list[str]] = {}
    for line in data.decode('utf-8', 'replace').splitlines():
        key, *values = line.split()[:_ENTRY_WORDS] or ['']
        if values and not key.startswith('#'):
            fields.setdefault(key, []).extend(values)
    return fields
