# SPDX-License-Identifier: Apache-2.0

"""Which of two kernels is the newer one.

The comparison is that of dpkg (deb-version(7)), which is rpm's for what
kernels are called: runs of digits count as numbers, letters sort before
everything else, and a tilde before the end. Release candidates, of which the
kernel's own scheme does not say so, come before what they lead to.
"""

import functools
import re

_CANDIDATE = re.compile(r'[-._+]?rc(?=[0-9])')
_PARTS = re.compile(r'([^0-9]*)([0-9]*)')


def compare(one: str, other: str) -> int:
    """Compare two versions.

    :returns: below 0 if the first is the older one, 0 if both are the same.
    """
    left, right = (
        _PARTS.findall(_CANDIDATE.sub('~rc', version))
        for version in (one, other)
    )
    for i in range(max(len(left), len(right))):
        words, digits = left[i] if i < len(left) else ('', '')
        other_words, other_digits = right[i] if i < len(right) else ('', '')
        difference = _compare_words(words, other_words) or _compare_numbers(
            digits.lstrip('0'), other_digits.lstrip('0')
        )
        if difference:
            return difference
    return 0


_key = functools.cmp_to_key(compare)


def key(version: str) -> tuple[bool, object]:
    """Make what versions are sorted by; names without a number come first."""
    return version[:1].isdigit(), _key(version)


def _compare_words(one: str, other: str) -> int:
    for i in range(max(len(one), len(other))):
        left, right = _rank(one[i : i + 1]), _rank(other[i : i + 1])
        if left != right:
            return left - right
    return 0


def _compare_numbers(one: str, other: str) -> int:
    # Not by int(), which refuses more than 4300 digits.
    left, right = (len(one), one), (len(other), other)
    return (left > right) - (left < right)


def _rank(char: str) -> int:
    if char == '~':
        return -1
    if not char:
        return 0
    return ord(char) if char.isalpha() else ord(char) + 0x110000
