# SPDX-License-Identifier: Apache-2.0

"""How often a source is opened, and programs are started, for one question."""

from collections.abc import Callable
import io
import os
import pathlib
import tarfile
from unittest import mock

import fixtures

from amiclient import process
from amiclient.rootfs import inspect
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import triple
from amiclient.tests.unit.source import test_streams


class TestCounts(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.work = self.tmp()
        self.root = triple.root(self.directory, size=8 << 20)

    def opens(
        self,
        path: pathlib.Path,
        use: Callable[[resolve.Source], object] = resolve.Source.image,
    ) -> int:
        """Use a source, and tell how often its file was opened for that."""
        opened: list[str] = []
        for module in (os, io):
            real = module.open

            def counted(name, *words, real=real, **options):
                if isinstance(name, str | os.PathLike):
                    opened.append(os.fspath(name))
                return real(name, *words, **options)

            self.useFixture(fixtures.MockPatchObject(module, 'open', counted))
        choice = resolve.Choice(work_directory=self.work)
        with resolve.opened(path, choice) as source:
            use(source)
        return opened.count(str(path))

    def test_plain(self) -> None:
        self.assertEqual(1, self.opens(self.root))

    def test_inspect(self) -> None:
        found = self.opens(
            self.root, lambda source: inspect.inspect(source, self.root)
        )
        self.assertLessEqual(found, 2)

    def test_compressed(self) -> None:
        path = self.directory / 'packed'
        path.write_bytes(test_streams.pack('gzip', self.root.read_bytes()))
        self.assertLessEqual(self.opens(path), 2)

    def test_programs(self) -> None:
        """One program decompresses a source, whatever is in it."""
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode='w') as archive:
            for name in ('etc', 'usr'):
                info = tarfile.TarInfo(name)
                info.type = tarfile.DIRTYPE
                archive.addfile(info)
        self.useFixture(test_streams.NoModules())
        for data in (file.getvalue(), self.root.read_bytes()):
            path = self.directory / 'packed'
            path.write_bytes(test_streams.pack('zstd', data))
            with (
                mock.patch.object(
                    process, 'reading', side_effect=process.reading
                ) as reading,
                mock.patch.object(
                    process, 'run', side_effect=process.run
                ) as run,
                resolve.opened(path) as source,
            ):
                self.assertTrue(source.own)
            self.assertEqual(1, reading.call_count)
            self.assertNotIn(
                'zstd', [call.args[0][0] for call in run.call_args_list]
            )
