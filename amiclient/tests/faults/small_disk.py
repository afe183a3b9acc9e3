# SPDX-License-Identifier: Apache-2.0

"""Disks that are small, or read-only, in memory."""

import contextlib
import pathlib
import subprocess

import fixtures

_CHUNK = 1 << 16


class SmallDisk(fixtures.Fixture):
    """A disk of its own, that a test may fill.

    ``path`` is where it is mounted. Where this user may not mount, the test
    that uses it is skipped; file size limits do for it there.

    :param test: the test that wants it.
    :param size: bytes.
    :param root: the directory in which it is mounted; that of temporary files
        if None.
    """

    def __init__(
        self, test: object, size: int, root: pathlib.Path | None = None
    ) -> None:
        super().__init__()
        self._test = test
        self._size = size
        self._root = root

    def setUp(self) -> None:
        super().setUp()
        if self._problem:
            # Not in _setUp(): what that raises becomes an error.
            self._test.addCleanup(self.cleanUp)
            self._test.skipTest(f'cannot mount: {self._problem}')

    def _setUp(self) -> None:
        directory = self.useFixture(fixtures.TempDir(self._root))
        self.path = pathlib.Path(directory.path)
        self._problem = self._mount('-t', 'tmpfs', '-o', f'size={self._size}')
        if not self._problem:
            self.addCleanup(
                subprocess.run, ['umount', '--lazy', self.path], check=False
            )

    def _mount(self, *options: str) -> str:
        words = ['mount', *options, 'none', self.path]
        done = subprocess.run(
            words, capture_output=True, text=True, check=False
        )
        return done.stderr.strip() if done.returncode else ''

    def forbid_writing(self) -> None:
        """Make it a read-only one."""
        problem = self._mount('-o', 'remount,ro')
        if problem:
            self._test.skipTest(f'cannot remount: {problem}')

    def fill(self, leave: int = 0) -> None:
        """Fill it with something else.

        :param leave: bytes that are left.
        """
        path = self.path / 'other'
        with path.open('ab', buffering=0) as file:
            # Somebody else may write as well.
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(_CHUNK))
            file.truncate(max(0, path.stat().st_blocks * 512 - leave))
