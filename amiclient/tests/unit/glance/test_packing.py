# SPDX-License-Identifier: Apache-2.0

"""Compression by the qemu-img that there is."""

import os
import pathlib
import shutil

import fixtures

from amiclient.glance import model
from amiclient.glance.upload import root_copy
from amiclient import process
from amiclient import progress
from amiclient.tests import base

#: An old qemu-img, or one that was built without zstd.
_OLD = """#!/bin/sh
case "$*" in *compression_type=*) echo 'Invalid parameter' >&2; exit 1 ;; esac
exec {real} "$@"
"""

#: Where qcow2's header tells the compression, of incompatible features the
#: fourth (docs/interop/qcow2.txt).
_FEATURES = 79
_OTHER_THAN_ZLIB = 1 << 3


class TestPack(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.source = self.directory / 'root.img'
        self.source.write_bytes(self.random.randbytes(1 << 16) * 32)

    def pack(self, *, zstd: bool) -> pathlib.Path:
        directory = self.tmp()
        packed = root_copy.pack(
            model.Payload(
                self.source, 1 << 21, pack=model.Packing(directory, zstd=zstd)
            ),
            directory,
            own=False,
            progress=progress.QUIET,
            cancel=None,
        )
        self.assertIsNone(packed.pack)
        self.assertEqual(packed.path.stat().st_size, packed.size)
        self.assertEqual([packed.path.name], os.listdir(directory))
        back = self.directory / 'back'
        argv = ['qemu-img', 'convert', '-O', 'raw', packed.path, back]
        process.run(argv, access=None)
        self.assertEqual(self.source.read_bytes(), back.read_bytes())
        return packed.path

    def is_zstd(self, path: pathlib.Path) -> bool:
        return bool(path.read_bytes()[_FEATURES] & _OTHER_THAN_ZLIB)

    def test_zlib(self) -> None:
        self.assertFalse(self.is_zstd(self.pack(zstd=False)))

    def test_zstd(self) -> None:
        self.assertTrue(self.is_zstd(self.pack(zstd=True)))

    def test_the_same_each_time(self) -> None:
        for zstd in (False, True):
            one, two = self.pack(zstd=zstd), self.pack(zstd=zstd)
            self.assertEqual(one.read_bytes(), two.read_bytes())

    def test_qemu_img_without_zstd(self) -> None:
        programs = self.tmp()
        program = programs / 'qemu-img'
        program.write_text(_OLD.format(real=shutil.which('qemu-img')))
        program.chmod(0o755)
        path = f'{programs}:{os.environ["PATH"]}'
        self.useFixture(fixtures.EnvironmentVariable('PATH', path))
        self.assertFalse(self.is_zstd(self.pack(zstd=True)))
