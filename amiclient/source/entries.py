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
