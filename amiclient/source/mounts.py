# SPDX-License-Identifier: Apache-2.0

"""Where something else is mounted, as the kernel numbers mounts.

The device of a file (``st_dev``) does not tell: a bind mount has that of what
it shows, and a subvolume of btrfs has its own without being mounted.
"""

import contextlib
import ctypes
import os
import re
import struct

#: AT_SYMLINK_NOFOLLOW, AT_NO_AUTOMOUNT, AT_STATX_DONT_SYNC: ask no server.
_FLAGS = 0x100 | 0x800 | 0x4000

#: statx(2), since Linux 5.8: STATX_MNT_ID, and where struct statx has that.
_MNT_ID = 0x1000
_OFFSET = 144
_Status = ctypes.c_char * 256

_FDINFO = re.compile(r'^mnt_id:\s*(\d+)$', re.MULTILINE)

# A C library of before 2018 has none. Python's own os.statx() is newer.
_STATX = getattr(ctypes.CDLL(None), 'statx', None)


def mount_id(folder: int, name: bytes) -> int | None:
    """Tell the number of the mount that a file is in.

    :param folder: an open directory.
    :param name: in it, which is not followed; ``.`` for the directory itself.
    :returns: None if the kernel does not tell.
    :raises OSError: if there is no such file.
    """
    if _STATX is not None:
        found = _Status()
        # Nothing is asked of the file itself: somebody else's FUSE mount would
        # not answer, even to root.
        if _STATX(folder, name, _FLAGS, 0, found) == 0:
            (known,) = struct.unpack_from('=I', found)
            if known & _MNT_ID:
                return int(struct.unpack_from('=Q', found, _OFFSET)[0])
    # proc_pid_fdinfo(5), since Linux 3.15; it takes three times as long.
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=folder)
    try:
        with (
            contextlib.suppress(OSError),
            open(f'/proc/self/fdinfo/{descriptor}', encoding='ascii') as file,
        ):
            match = _FDINFO.search(file.read())
            return int(match[1]) if match else None
    finally:
        os.close(descriptor)
    return None
