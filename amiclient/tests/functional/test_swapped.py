# SPDX-License-Identifier: Apache-2.0

"""Files that are replaced between the plan of an upload and the sending."""

from collections.abc import Callable
import os
import pathlib

from amiclient.tests.disks import triple
from amiclient.tests.faults import actions
from amiclient.tests.functional import faulty

#: The request by which something is created, once all is planned.
CREATION = {'method': 'POST', 'path': '^/v2/images$'}

REPLACED = 'is not the same file any more'
CHANGED = 'was changed since it was checked'


class SwapCase(faulty.FaultCase):
    """A test that replaces files while a request is held."""

    def refuse_when(
        self,
        act: Callable[[], None],
        *words: object,
        request: dict[str, str] = CREATION,
    ) -> str:
        """Run what is refused because of what is done after the plan."""
        self.glance.rule(actions.meanwhile(0, act), **request)
        return self.refused(*words)

    def other(self) -> pathlib.Path:
        """Make another directory; what is in ``self.work`` counts as left."""
        path = self.directory / 'others'
        path.mkdir(exist_ok=True)
        return path

    def replace(self, path: pathlib.Path) -> None:
        """Give another file the name of one, with as many bytes."""
        other = self.directory / 'other'
        other.write_bytes(self.random.randbytes(path.stat().st_size))
        os.replace(other, path)

    def change(self, path: pathlib.Path) -> None:
        """Change a file, and nothing that ``ls -l`` tells of it."""
        before = path.stat()
        with path.open('r+b') as file:
            file.seek(before.st_size // 2)
            file.write(b'changed')
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


class TestTriple(SwapCase):
    """What ``ami upload`` sends is what it has looked at."""

    def upload_of(self, path: pathlib.Path, *words: object) -> tuple:
        return ('ami', 'upload', path, *self.parts, *words)

    def test_kernel_replaced(self) -> None:
        text = self.refuse_when(
            lambda: self.replace(self.kernel), *self.upload_of(self.root)
        )
        self.assertIn(f'{self.kernel} {REPLACED}', text)

    def test_ramdisk_changed(self) -> None:
        text = self.refuse_when(
            lambda: self.change(self.ramdisk), *self.upload_of(self.root)
        )
        self.assertIn(f'{self.ramdisk} {CHANGED}', text)

    def test_kernel_removed(self) -> None:
        text = self.refuse_when(self.kernel.unlink, *self.upload_of(self.root))
        self.assertIn(str(self.kernel), text)

    def test_link_swapped(self) -> None:
        secret = triple.root(self.other(), data=2**20)
        link, other = self.directory / 'link', self.directory / 'link2'
        link.symlink_to(self.root)
        other.symlink_to(secret)
        text = self.refuse_when(
            lambda: os.replace(other, link),
            *self.upload_of(link, '--no-shrink'),
        )
        self.assertIn(f'{link} {REPLACED}', text)

    def test_root_changed(self) -> None:
        for words in (
            ('--no-shrink',),
            (),
            ('--no-shrink', '--image-format', 'qcow2'),
        ):
            text = self.refuse_when(
                lambda: self.change(self.root),
                *self.upload_of(self.root, *words),
            )
            self.assertIn(f'{self.root} {CHANGED}', text, words)

    def test_between_two_attempts(self) -> None:
        def again(exchange) -> None:
            self.replace(self.kernel)
            actions.reset(0.5)(exchange)

        self.disturb('kernel', again)
        text = self.refused(*self.upload_of(self.root), *faulty.QUICK)
        # What was open was changed, too: it lost its name.
        self.assertRegex(text, f'{self.kernel} (was changed|{REPLACED})')

    def test_saved(self) -> None:
        shown = self.upload('--no-shrink')
        saved = self.other() / 'saved'
        self.openstack('ami', 'save', shown['id'], '--directory', saved)
        for image_id in self.images():
            self.image.delete(f'/images/{image_id}')
        for path in saved.iterdir():
            if path.suffix == '.json':
                continue
            before = path.read_bytes()
            text = self.refuse_when(
                lambda path=path: self.replace(path), 'ami', 'upload', saved
            )
            self.assertIn(f'{path} {REPLACED}', text)
            path.write_bytes(before)

    def test_access_time_is_no_change(self) -> None:
        self.glance.rule(
            actions.meanwhile(0, lambda: os.utime(self.directory)), **CREATION
        )
        self.succeed('image')


class TestPart(SwapCase):
    """Likewise of a kernel or a ramdisk alone."""

    def test_upload(self) -> None:
        for kind in ('kernel', 'ramdisk'):
            path = self.files[kind]
            text = self.refuse_when(
                lambda path=path: self.replace(path), *self.commands[kind]
            )
            self.assertIn(f'{path} {REPLACED}', text)

    def test_set(self) -> None:
        shown = self.upload()
        self.glance.clear()
        new = triple.kernel(self.other())
        text = self.refuse_when(
            lambda: self.replace(new),
            *('ami', 'set', '--no-reuse', '--kernel', new, shown['id']),
        )
        self.assertIn(f'{new} {REPLACED}', text)
        self.assertEqual(
            shown['kernel_id'], self.get(shown['id'])['kernel_id']
        )

    def test_hashed_for_reuse(self) -> None:
        self.succeed('kernel')
        text = self.refused_while_listing(self.kernel)
        self.assertIn(f'{self.kernel} {REPLACED}', text)

    def refused_while_listing(self, path: pathlib.Path) -> str:
        self.glance.rule(
            actions.meanwhile(0, lambda: self.replace(path)),
            method='GET',
            path='^/v2/images[?].*size_min',
        )
        return self.refuse('kernel')
