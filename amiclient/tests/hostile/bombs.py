# SPDX-License-Identifier: Apache-2.0

"""Compressed files that unpack to far more than anybody has room for."""

import pathlib
import struct

GIB = 1 << 30

_BLOCK = 128 << 10
_RAW, _RLE = 0, 1


def zstd(path: pathlib.Path, data: bytes, gib: int) -> pathlib.Path:
    """Write a zstd frame of data and zeros; a GiB of them has 32 KiB.

    Source: RFC 8878, section 3.1.1.
    """
    parts = [
        data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK)
    ]
    with path.open('wb') as file:
        # A window of 2 MiB.
        file.write(b'\x28\xb5\x2f\xfd\x00\x58')
        for part in parts:
            file.write(_header(_RAW, len(part)) + part)
        zeros = _header(_RLE, _BLOCK) + b'\0'
        file.write(zeros * (gib * GIB // _BLOCK))
        file.write(_header(_RAW, 0, last=True))
    return path


def _header(kind: int, size: int, *, last: bool = False) -> bytes:
    return struct.pack('<I', size << 3 | kind << 1 | last)[:3]
