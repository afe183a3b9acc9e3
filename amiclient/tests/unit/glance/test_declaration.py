# SPDX-License-Identifier: Apache-2.0

"""Declarations: what is taken, and what is wrong in which line."""

import json
import pathlib
import textwrap
from typing import Any

import jsonschema
import yaml

import amiclient
from amiclient import errors
from amiclient.glance import declaration
from amiclient.tests import base

SHA512, SHA256 = 'ab' * 64, 'AB' * 32

#: One AMI each: the keys beside its name.
RIGHT = (
    '{}',
    '{family: f, version: 1.10}',
    '{source: a.img, sha512: SHA512, keep: 3, replace: hide}',
    '{source: https://a.example/b.img, sha256: SHA256}',
    '{source: "https://a/b", sha512: SHA512, keyring: k, signature_url: u}',
    '{source: a, sign_key_path: k, sign_cert_id: c}',
    '{source: a, for: ironic, format: raw, fix: yes, shrink: false}',
    '{source: a, headroom: 5%, journal: 16M, partition: 2, leave_out: [/a]}',
    '{no_kernel: true, min_disk: 3, min_ram: 0, architecture: x86_64}',
    '{kernel: vmlinuz, no_ramdisk: true, hidden: false, protected: true}',
    '{properties: {a: 1, b: "2", c: true, d: null}, tags: [a, 2]}',
    '{visibility: shared, projects: [p], stores: [s], regions: [r]}',
    '{visibility: public, projects: [], clouds: [c]}',
)

#: The same, with the line of the mistake, counted from the AMI's, and a part
#: of what is said.
WRONG = (
    ('visibilty: public', 1, "did you mean 'visibility'?"),
    ('image-format: ami', 1, "did you mean 'format'?"),
    ('xyzzy: red', 1, "unknown key 'xyzzy'; known are: architecture, "),
    ('<<: {tags: [a]}', 1, "unknown key '<<'"),
    ('visibility: secret', 1, "visibility: 'secret' is not known; use public"),
    ('format: row', 1, "format: 'row' is not known; use raw"),
    ('min_ram: 1\nmin_ram: 2', 2, "'min_ram' is there twice; see images.yaml"),
    ('min_ram: -1', 1, 'min_ram: -1 is not a number from 0 on'),
    ('min_ram: 1.5', 1, 'a whole number is needed, not a number'),
    ('keep: 0', 1, 'keep: 0 is not a number from 1 on'),
    ('protected: 1', 1, 'true or false is needed, not a whole number'),
    ('kernel: true', 1, 'a text is needed, not true or false; put it in q'),
    ('family: 13', 1, 'family: a text is needed, not a whole number; put'),
    ('family: ""', 1, "family: '' is not valid; it must not be empty"),
    ('tags: web', 1, 'tags: a list is needed, not a text'),
    ('tags:\n- a\n- [b]', 3, 'tags: a text is needed, not a list'),
    ('properties: [a=b]', 1, 'keys with values is needed, not a list'),
    ('properties:\n  a: [1]', 2, 'properties.a: a text is needed'),
    ('regions: [1]', 1, 'regions: a text is needed'),
    ('source: a\nsha512: 12', 2, 'sha512: a text is needed'),
    ('source: a\nsha512: abc', 2, 'a SHA-512 has 128 hexadecimal digits'),
    ('source: https://a/b', 1, 'its hash is missing; add sha512 or sha256'),
    ('source: http://a/b\nsha512: SHA512', 1, 'https is needed'),
    ('sha512: SHA512', 1, 'sha512: there is no source'),
    ('headroom: 1G', 1, 'headroom: there is no source'),
    ('source: a\nkeyring: b', 2, 'keyring: the source is not a URL'),
    (
        'source: a\nsign_key_path: b',
        2,
        'sign_key_path: sign_cert_id is needed, too',
    ),
    ('sign_cert_id: a', 1, 'sign_cert_id: there is no source'),
    (
        'source: https://a/b\nsha512: SHA512\nkeyring: b',
        3,
        'keyring: signature_url is needed, too',
    ),
    ('kernel: https://a/b', 1, 'needed, not a URL; download it first'),
    ('kernel: a\nno_kernel: true', 1, 'kernel: the AMI is to have none'),
    ('ramdisk: a\nno_kernel: true', 1, 'ramdisk: the AMI is to have none'),
    (
        'visibility: private\nprojects: [p]',
        2,
        'a private image is shared with none',
    ),
)

#: What the schema leaves to us.
_BY_HAND = (
    'twice',
    '<<',
    'not a URL; down',
    'https is needed',
    'to have none',
    'shared with none',
    'headroom: there is no source',
)


_PAGES = pathlib.Path(amiclient.__file__).parent.parent / 'doc/source/user'


def declaration_keys() -> list[str]:
    schema = json.loads(declaration.SCHEMA.read_text())
    return [*schema['properties'], *schema['$defs']['ami']['properties']]


class DeclarationCase(base.TestCase):
    def write(self, text: str, name: str = 'images.yaml') -> pathlib.Path:
        path = self.tmp() / name
        text = textwrap.dedent(text)
        text = text.replace('SHA512', SHA512).replace('SHA256', SHA256)
        path.write_text(text)
        return path

    def read(self, text: str) -> declaration.Declaration:
        return declaration.read([self.write(text)])

    def refused(self, *paths: pathlib.Path) -> list[str]:
        """Read what is wrong; tell what is said, without directories."""
        with self.assertLogs(declaration.LOG, 'ERROR') as logs:
            declaration.LOG.error('-')
            error = self.assertRaises(errors.AmiError, declaration.read, paths)
        said = [str(record.getMessage()) for record in logs.records[1:]]
        found = []
        for line in said or [str(error)]:
            for path in paths:
                line = line.replace(str(path), path.name)
            found.append(line)
        return found


class TestRead(DeclarationCase):
    def test_all_keys(self) -> None:
        path = self.write("""\
            collection: web
            amis:
            - family: debian
              version: 1.10
              source: in/a.img
              kernel: vmlinuz
              ramdisk: initrd
              properties: {n: yes, v: 1.10, gone: ~, at: 2026-12-01}
              tags: [b, 2026-12-01, b]
              headroom: 5%
              leave_out: [/var]
            - name: "13"
              source: /a
            """)
        (path.parent / 'vmlinuz').touch()
        one, two = declaration.read([path]).amis
        self.assertEqual(
            ('debian', 'debian', 'debian', '1.10', 'web'),
            (one.title, one.name, one.family, one.version, one.collection),
        )
        # From where the file is; what is no file there is an image.
        self.assertEqual(str(path.parent / 'in/a.img'), one.source)
        self.assertEqual(str(path.parent / 'vmlinuz'), one.kernel)
        self.assertEqual('initrd', one.ramdisk)
        # As it is written, whatever YAML makes of it.
        self.assertEqual(
            {'n': 'yes', 'v': '1.10', 'gone': None, 'at': '2026-12-01'},
            one.properties,
        )
        self.assertEqual(('b', '2026-12-01'), one.tags)
        self.assertEqual({'headroom': '5%', 'leave_out': ['/var']}, one.making)
        self.assertEqual(f'{path}:9', one.lines['tags'])
        self.assertEqual(f'{path}:12', two.where)
        self.assertEqual(('/a', None), (two.source, two.tags))

    def test_documentation(self) -> None:
        page = _PAGES / 'apply.rst'
        if not page.exists():
            self.skipTest('this is not the repository')
        _, _, text = page.read_text().partition('code-block:: yaml\n\n')
        text = text.partition('\n\n::')[0]
        self.assertEqual(2, len(self.read(text).amis))
        # Each key is described.
        keys = [*declaration_keys()[2:], 'collection']
        self.assertIn('signature_url', keys)
        for key in keys:
            self.assertIn(f'``{key}``', page.read_text())

    def test_anchors(self) -> None:
        found = self.read("""\
            amis:
            - name: a
              tags: &all [x]
            - name: b
              tags: *all
            """)
        self.assertEqual([('x',), ('x',)], [ami.tags for ami in found.amis])

    def test_mistakes(self) -> None:
        for keys, line, said in WRONG:
            text = textwrap.indent(keys, '  ')
            path = self.write(f'amis:\n- name: x\n{text}\n')
            (told,) = self.refused(path)
            self.assertIn(said, told)
            self.assertStartsWith(f'images.yaml:{line + 2}: ', told)

    def assertStartsWith(self, begin: str, text: str) -> None:
        self.assertEqual(begin, text[: len(begin)])

    def test_all_of_them(self) -> None:
        one = self.write('amis:\n- {name: a, x: 1}\n- {tags: 2}\n')
        two = self.write('amis: [{name: a}, {name: b}, {}]\n', 'b.yaml')
        three = self.write('amis:\n- {name: b}\n- {family: b}', 'c.yaml')
        told = self.refused(one, two, three)
        self.assertEqual(
            [
                'images.yaml:2',
                'images.yaml:3',
                'b.yaml:1',
                'c.yaml:2',
            ],
            [line.partition(': ')[0] for line in told],
        )
        self.assertIn("name 'b' already; see b.yaml:1", told[-1])

    def test_no_declaration(self) -> None:
        for text, said in (
            ('', 'the file is empty'),
            ('a: [', 'images.yaml:1: no valid YAML: '),
            ('a: &x {b: *y}', "undefined alias 'y'"),
            ('a: \x01', 'no valid YAML: '),
            ('amis: []\n---\namis: []\n', 'expected a single document'),
            ('[' * 500, 'nested too deeply'),
            ('x' * (2**20 + 1), 'longer than'),
            ('- name: a', 'the file: keys with values is needed'),
            ('amis: &a [*a]', 'amis: keys with values is needed, not a list'),
            ('{}', "the key 'amis' is missing"),
            ('amis: []\n[a]: b', 'the file: a key is not a text'),
            ('amis: !!python/name:os.system []', 'amis: a list is needed'),
        ):
            (told,) = self.refused(self.write(text))
            self.assertIn(said, told)
        path = self.tmp() / 'nosuch.yaml'
        (told,) = self.refused(path)
        self.assertEqual('nosuch.yaml: no such file', told)


class TestSchema(DeclarationCase):
    """What editors say of a file is what is said here."""

    def setUp(self) -> None:
        super().setUp()
        schema = json.loads(declaration.SCHEMA.read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        self.validator = jsonschema.Draft202012Validator(schema)

    def is_valid(self, text: str) -> bool:
        text = text.replace('SHA512', SHA512).replace('SHA256', SHA256)
        found: Any = yaml.safe_load(text)
        return bool(self.validator.is_valid(found))

    def test_right(self) -> None:
        for keys in RIGHT:
            keys = keys.replace('{', '{name: x, ', 1)
            text = f'amis: [{keys}]'
            self.assertEqual(1, len(self.read(text).amis), keys)
            self.assertTrue(self.is_valid(text), keys)

    def test_wrong(self) -> None:
        for keys, _, said in WRONG:
            text = textwrap.indent(keys, '  ')
            text = f'amis:\n- name: x\n{text}\n'
            by_hand = any(word in said for word in _BY_HAND)
            self.assertEqual(by_hand, self.is_valid(text), keys)
        for text in ('amis: [{}]', 'amis: 1', '{}', 'x: 1\namis: []'):
            self.refused(self.write(text))
            self.assertFalse(self.is_valid(text), text)
