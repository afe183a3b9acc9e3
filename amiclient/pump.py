# SPDX-License-Identifier: Apache-2.0

"""What a program says, taken while it runs, and not without end.

A program that works on a hostile file may never stop talking: e2fsck with
``-n`` begins anew for ever with some. So no more is kept than is wanted.
"""

import threading
from typing import BinaryIO

_CHUNK = 1 << 16


class Pump(threading.Thread):
    """Takes all that comes through one pipe.

    :param pipe: its end for reading.
    :param most: bytes that are kept; the rest is taken, and dropped.
    :param drop: whether that is all right.
    """

    def __init__(
        self, pipe: BinaryIO, most: int, *, drop: bool = False
    ) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self._left = most
        self._drop = drop
        self._kept: list[bytes] = []
        #: Set when nothing more can come.
        self.done = threading.Event()
        #: Whether more came than is all right.
        self.overflowed = False

    def run(self) -> None:
        """Take what comes, until the end."""
        try:
            while data := self._pipe.read1(_CHUNK):  # type: ignore[attr-defined]
                if len(data) > self._left and not self._drop:
                    self.overflowed = True
                if self._left:
                    self._kept.append(data[: self._left])
                    self._left -= len(self._kept[-1])
        except (OSError, ValueError):
            # Closed, by who gave the program up.
            pass
        finally:
            self.done.set()

    @property
    def kept(self) -> bytes:
        """What was kept so far."""
        return b''.join(self._kept)
