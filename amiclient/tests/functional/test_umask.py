# SPDX-License-Identifier: Apache-2.0

"""Umasks with which a process cannot open again what it has made."""

import os

import fixtures

from amiclient.tests.functional import base
from amiclient.tests.functional import test_save

#: Without what lets root open every file, which hides what others run into.
_OBEYING = ('setpriv', '--bounding-set', '-dac_override,-dac_read_search')


class TestUmask(test_save.SaveCase):
    def setUp(self) -> None:
        super().setUp()
        # What it would compile, nobody could read afterwards.
        self.useFixture(
            fixtures.EnvironmentVariable('PYTHONDONTWRITEBYTECODE', '1')
        )

    def assertDone(self, umask: int, *words: object) -> None:
        """Do it as one whom modes of files keep out."""
        prefix = _OBEYING if os.geteuid() == 0 else ()
        shell = 'sh', '-c', f'umask {umask:o}; exec "$@"', 'sh'
        finished = self.finished([*prefix, *shell, *base.COMMAND, *words])
        self.assertEqual((0, ''), (finished.status, finished.stderr))
        self.assertNothingLeft()

    def test_upload_and_save(self) -> None:
        for umask in (0o777, 0o077) if base.SLOW else (0o777,):
            before = len(self.images())
            self.assertDone(umask, 'ami', 'upload', self.root, *self.parts)
            # The kernel and the ramdisk are there already.
            self.assertEqual(before + 1, len(self.images()))
            self.image.delete(f'/images/{self.newest()}')
            target = self.directory / f'saved-{umask:o}'
            self.assertDone(
                umask, 'ami', 'save', 'web/1', '--directory', target
            )
            names = sorted(os.listdir(target))
            self.assertEqual('manifest.json', names[0])
            self.assertEqual(4, len(names), names)
            for name in names:
                path = target / name
                self.assertEqual(0o666 & ~umask, path.stat().st_mode & 0o777)
                path.chmod(0o600)
            self.same(target / 'web_1.img', self.shown['id'])

    def newest(self) -> str:
        found = self.image.get('/images?sort=created_at:desc&limit=1').json()
        return str(found['images'][0]['id'])
