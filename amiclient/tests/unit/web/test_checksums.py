# SPDX-License-Identifier: Apache-2.0

"""Hashes in the files that vendors publish."""

from amiclient import errors
from amiclient.tests import base
from amiclient.web import checksums

A, B, C = ('a' * 64, 'b' * 64, 'c' * 128)
PATH = 'images/12/web.img'


class TestFind(base.TestCase):
    def find(self, text: str, path: str = PATH) -> tuple[str, str]:
        found = checksums.find(text, path, 'SUMS')
        return found.algorithm, found.value

    def refuse(self, text: str) -> str:
        return str(self.assertRaises(errors.SourceError, self.find, text))

    def test_kinds(self) -> None:
        for text in (
            f'{B}  other.img\n{A}  web.img\n',
            f'{A} *web.img\r\n',
            f'{A.upper()}  ./web.img',
            f'\n{A}\n',
            f'# web.img: 7 bytes\nSHA256 (web.img) = {A}\n',
            f'SHA2-256(web.img)= {A}\n',
            # The first is no hash of these, the second none that counts.
            f'SHA512/256 (web.img) = {B}\nMD5 (web.img) = {"d" * 32}\n'
            f'SHA256 (web.img) = {A}\n',
        ):
            self.assertEqual(('sha256', A), self.find(text), text)

    def test_the_best_one(self) -> None:
        text = f'SHA256 (web.img) = {A}\nSHA512 (web.img) = {C}\n'
        self.assertEqual(('sha512', C), self.find(text))

    def test_several_of_that_name(self) -> None:
        text = f'{A}  ./12/web.img\n{B}  11/web.img\n'
        self.assertEqual(('sha256', A), self.find(text))
        text = text.replace('/12/', '/10/')
        told = self.refuse(text)
        self.assertIn('SUMS: it has 2 different hashes', told)
        self.assertIn('--sha256', told)

    def test_none(self) -> None:
        self.assertIn(
            'no hash of web.img, but of a.img, b.img;',
            self.refuse(f'{A}  b.img\n{A}  a.img\n'),
        )
        for text in ('', '<html>', f'{"d" * 40}  web.img', f'{A}\n{B}\n'):
            self.assertIn('no sha512, sha384 or sha256', self.refuse(text))
