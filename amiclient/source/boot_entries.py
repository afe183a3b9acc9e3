# SPDX-License-Identifier: Apache-2.0

"""Entries of boot loaders, each of which says what is to be booted.

Source: Boot Loader Specification, type 1 (UAPI group).
"""

#: Bytes that one has at most.
LARGEST = 64 << 10

#: The keys that name a unified kernel image; the second may name any program
#: for UEFI.
UNIFIED = ('uki', 'efi')

#: Words in a line that are looked at.
_WORDS = 64


def parse(data: bytes) -> dict[str, list[str]]:
    """Read an entry.

    :param data: the first LARGEST bytes of it.
    :returns: the words that follow a key, by the key; those of all lines that
        have it, in turn.
    """
    fields: dict[str, list[str]] = {}
    for line in data.decode('utf-8', 'replace').splitlines():
        key, *values = line.split()[:_WORDS] or ['']
        if values and not key.startswith('#'):
            fields.setdefault(key, []).extend(values)
    return fields
