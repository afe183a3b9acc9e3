# SPDX-License-Identifier: Apache-2.0

import pathlib
import subprocess

from amiclient import errors
from amiclient.rootfs import inspect
from amiclient.tests import base

_DEBIAN = b"""\
PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"
NAME="Debian GNU/Linux"
VERSION_ID="12"
VERSION="12 (bookworm)"
ID=debian
"""


class TestContents(base.TestCase):
    def image(
        self, files: dict[str, bytes], links: dict[str, str] | None = None
    ) -> pathlib.Path:
        tree = self.tmp()
        for name, content in files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for name, target in (links or {}).items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
        image = self.tmp() / 'root.img'
        with image.open('wb') as file:
            file.truncate(8 * 1024 * 1024)
        subprocess.run(
            ['/usr/sbin/mke2fs', '-q', '-F', '-t', 'ext4', '-d', str(tree),
             str(image)],
            check=True, capture_output=True,
        )  # fmt: skip
        return image

    def release(self, content: bytes) -> tuple[str | None, str | None]:
        """Read the release of a filesystem with this os-release file."""
        image = self.image({'etc/os-release': content})
        found = inspect.read_release(image)
        return found.distro, found.version

    def test_debian(self) -> None:
        """The file is where the link in /etc points to."""
        image = self.image(
            {'usr/lib/os-release': _DEBIAN},
            {'etc/os-release': '../usr/lib/os-release'},
        )
        self.assertEqual(
            inspect.Release('debian', '12'), inspect.read_release(image)
        )

    def test_which_file_counts(self) -> None:
        image = self.image({'usr/lib/os-release': _DEBIAN})
        self.assertEqual('debian', inspect.read_release(image).distro)
        image = self.image(
            {'usr/lib/os-release': _DEBIAN, 'etc/os-release': b'ID=mine\n'}
        )
        self.assertEqual(
            inspect.Release('mine', None), inspect.read_release(image)
        )

    def test_none(self) -> None:
        nothing = inspect.Release(None, None)
        self.assertEqual(nothing, inspect.read_release(self.image({})))
        image = self.image({}, {'etc/os-release': '/no'})
        self.assertEqual(nothing, inspect.read_release(image))
        self.assertEqual((None, None), self.release(b''))
        self.assertEqual((None, None), self.release(bytes(70_000)))
        self.assertEqual(
            (None, None), self.release(b'\xff\x00ID\nID debian\n=\n')
        )

    def test_not_a_filesystem(self) -> None:
        path = self.tmp() / 'f'
        path.write_bytes(bytes(99_999))
        self.assertRaises(errors.SourceError, inspect.read_release, path)

    def test_what_becomes_a_property(self) -> None:
        """Only sane characters get out of the image."""
        self.assertEqual(
            ('opensuse-leap', '15.6~rc1+2_x'),
            self.release(b"ID='opensuse-leap'\nVERSION_ID=15.6~rc1+2_x\n"),
        )
        for value in ('a b', 'a\x1b[31m', '$(id)', 'a/b', '\u00fc', 'x' * 65,
                      '', '\\n', 'a;b'):  # fmt: skip
            self.assertEqual(
                (None, '1'),
                self.release(f'ID="{value}"\nVERSION_ID=1\n'.encode()),
                value,
            )

    def test_parsing(self) -> None:
        for line, value in (
            (b'A=b', 'b'),
            (b'  A=b  ', 'b'),
            (b'A="b c"', 'b c'),
            (b"A='b c'", 'b c'),
            (b'A="a\\"b\\$c\\\\d\\`e"', 'a"b$c\\d`e'),
            (b"A='a\\b'", 'a\\b'),
            (b'A="\\x"', '\\x'),
            (b'A=', ''),
            (b'A="', None),
            (b'A="b', None),
            (b"A=b'", None),
            (b'#A=b', None),
            (b'A', None),
            (b'A =b', None),
            (b'A=b\r', 'b'),
            (b'A=x\nA=b', 'b'),
            ('A="\u00fc"'.encode(), '\u00fc'),
        ):
            self.assertEqual(
                value, inspect.parse_os_release(line).get('A'), line
            )
