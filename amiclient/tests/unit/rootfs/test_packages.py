# SPDX-License-Identifier: Apache-2.0

"""What is installed in a root filesystem, and who asks for it."""

import dataclasses

from amiclient import errors
from amiclient.ext import reader
from amiclient import process
from amiclient.rootfs import packages
from amiclient.rootfs.packages import Asked
from amiclient.rootfs.packages import Package
from amiclient.rootfs.packages import Verdict
from amiclient.tests import base
from amiclient.tests.unit.rootfs import databases
from amiclient.tests.unit.rootfs import images

_OPTIONS = ('-t', 'ext4', '-O', '^has_journal', '-N', '64')
_ROOT: dict[str, images.Content] = {
    'etc/os-release': b'ID=x\n',
    'usr/bin/sh': b'',
}


class PackagesCase(base.TestCase):
    def read(
        self, files: dict[str, images.Content], root=_ROOT, options=_OPTIONS
    ) -> packages.Installed:
        path = images.image(
            self.tmp(), {**root, **files}, options=options, size=2 << 20
        )
        with reader.opened(path) as opened:
            return packages.read(opened, 'web.img')

    def refused(self, *arguments, **options) -> str:
        return str(
            self.assertRaises(
                errors.SourceError, self.read, *arguments, **options
            )
        )


class TestDatabases(PackagesCase):
    def test_dpkg(self) -> None:
        status = databases.dpkg(
            ('liblzma5', '5.4.1-0.2'), source='xz-utils (5.4.1-0)'
        )
        status += databases.dpkg(('bash', '5.2'), ('half', '1'))
        status += (
            b'Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n'
            b'package:   held\nStatus: hold ok installed\nVersion: 2\n'
        )
        interrupted = status[status.index(b'Package: half') :].replace(
            b'Version: 1', b'Version: 9'
        )
        found = self.read(
            {
                'var/lib/dpkg/status': status,
                'var/lib/dpkg/updates/0001': interrupted,
                'var/lib/dpkg/updates/tmp.i': b'\0',
            }
        )
        self.assertIsNone(found.note)
        self.assertEqual(
            (
                Package('dpkg', 'bash', '5.2', 'amd64', 'bash', '5.2'),
                Package('dpkg', 'half', '9', 'amd64', 'half', '9'),
                Package('dpkg', 'held', '2', None, 'held', '2'),
                Package(
                    *('dpkg', 'liblzma5', '5.4.1-0.2', 'amd64'),
                    *('xz-utils', '5.4.1-0'),
                ),
            ),
            found.packages,
        )

    def test_as_dpkg_says(self) -> None:
        source = 'xz-utils (5.4.1-0)'
        status = databases.dpkg(('liblzma5', '5.4.1-0.2'), source=source)
        status += databases.dpkg(('bash', '1:5.2-2'), ('libc6', '2.36-9'))
        directory = self.tmp()
        (directory / 'status').write_bytes(status)
        shown = '${Package} ${Version} ${Architecture} ${source:Package} '
        argv = ['dpkg-query', '--admindir', directory, '--show']
        argv += ['--showformat', shown + '${source:Version}\\n']
        told = process.run(argv, access=None).text.splitlines()
        found = self.read({'var/lib/dpkg/status': status}).packages
        self.assertEqual(
            sorted(told),
            [' '.join(map(str, dataclasses.astuple(p)[1:])) for p in found],
        )

    def test_distroless(self) -> None:
        one = b'Package: base-files\nVersion: 12.4\nArchitecture: arm64\n'
        directory = 'var/lib/dpkg/status.d'
        found = self.read(
            {
                f'{directory}/base': one,
                f'{directory}/base.md5sums': b'd41d8cd98f  usr/x\n',
            }
        )
        self.assertEqual(
            [('base-files', '12.4')],
            [(each.name, each.version) for each in found.packages],
        )

    def test_rpm(self) -> None:
        headers = [
            databases.header('xz-libs', '5.4', source='xz-5.4-1.src.rpm'),
            databases.header('gpg-pubkey', '1', source='(none)'),
        ]
        data, wal = databases.sqlite(headers[:1], headers[1:])
        wanted = (
            Package('rpm', 'gpg-pubkey', '1-1', 'x86_64', None, None),
            Package('rpm', 'xz-libs', '5.4-1', 'x86_64', 'xz', '5.4-1'),
        )
        empty, _ = databases.sqlite([])
        link = images.Link('../../usr/lib/sysimage/rpm')
        for files in (
            {
                'usr/lib/sysimage/rpm/rpmdb.sqlite': data,
                'usr/lib/sysimage/rpm/rpmdb.sqlite-wal': wal,
                'var/lib/rpm': link,
            },
            {'var/lib/rpm/Packages.db': databases.ndb(headers)},
            {
                'usr/share/rpm/Packages.db': databases.ndb(headers),
                'var/lib/rpm/rpmdb.sqlite': empty,
            },
        ):
            self.assertEqual(wanted, self.read(files).packages)

    def test_apk(self) -> None:
        data = databases.apk(('xz-libs', '5.6.1-r2'), origin='xz')
        for path in ('lib/apk/db/installed', 'usr/lib/apk/db/installed'):
            self.assertEqual(
                (
                    Package(
                        *('apk', 'xz-libs', '5.6.1-r2', 'x86_64'),
                        *('xz', '5.6.1-r2'),
                    ),
                ),
                self.read({path: data}).packages,
            )

    def test_pacman(self) -> None:
        desc = b'%NAME%\nxz\n\n%VERSION%\n5.6.1-1\n\n%BASE%\nxz-base\n\n'
        found = self.read(
            {
                'var/lib/pacman/local/xz-5.6.1-1/desc': desc,
                'var/lib/pacman/local/ALPM_DB_VERSION': b'9\n',
            }
        )
        self.assertEqual(
            (Package('pacman', 'xz', '5.6.1-1', None, 'xz-base', '5.6.1-1'),),
            found.packages,
        )

    def test_ostree(self) -> None:
        top = 'ostree/deploy/fedora/deploy/0123abcd.0'
        data, _ = databases.sqlite([databases.header('bash', '5')])
        found = self.read({f'{top}/usr/share/rpm/rpmdb.sqlite': data}, root={})
        self.assertEqual(['bash'], [each.name for each in found.packages])

    def test_a_journal(self) -> None:
        path = images.image(
            self.tmp(),
            {'lib/apk/db/installed': databases.apk(('musl', '1.2-r1'))},
            edit=('feature +needs_recovery',),
        )
        with reader.opened(path) as opened:
            found = packages.read(opened, 'web.img')
        self.assertIn('journal', found.note)
        verdicts = list(found.judge([Asked.parse('musl<2'), Asked.parse('x')]))
        self.assertEqual(
            ['affected', 'not affected'], [each.state for each in verdicts]
        )
        self.assertEqual({found.note}, {each.note for each in verdicts})

    def test_none(self) -> None:
        self.assertIn('web.img: no packages of dpkg', self.refused({}))
        empty = {'var/lib/dpkg/status': b'\n\n'}
        self.assertIn('no packages of dpkg', self.refused(empty))

    def test_what_makes_no_sense(self) -> None:
        for path, data in (
            ('var/lib/dpkg/status', bytes(500)),
            ('var/lib/dpkg/status', b'Package: a\n\nno field\n'),
            ('var/lib/dpkg/status', b'Package: a\n'),
            ('var/lib/dpkg/status.d/a', b'Version: 1\n'),
            ('lib/apk/db/installed', b'P:a\n'),
            ('var/lib/pacman/local/a-1-1/desc', b'%NAME%\na\n'),
            ('var/lib/rpm/rpmdb.sqlite', bytes(5000)),
            ('var/lib/rpm/Packages.db', b'RpmP' + bytes(9)),
            ('usr/lib/sysimage/rpm/Packages', b''),
        ):
            told = self.refused({path: data})
            self.assertIn('makes no sense', told, path)
            self.assertIn(path.partition('/status')[0], told)

    def test_bounds(self) -> None:
        many = databases.apk(*((f'p{n}', '1') for n in range(5)))
        self.patch(packages, '_MOST', 4)
        told = self.refused({'lib/apk/db/installed': many})
        self.assertIn('more than 4 packages', told)
        many = databases.dpkg(*((f'p{n}', '1') for n in range(5)))
        told = self.refused({'var/lib/dpkg/status': many})
        self.assertIn('more than 4 packages', told)
        self.patch(packages, '_TEXT', 100)
        told = self.refused({'lib/apk/db/installed': many})
        self.assertIn('more than 100', told)

    def test_headers_that_say_the_same(self) -> None:
        data = bytes(1000)
        headers = [bytes(600)] * 3
        self.assertEqual(headers, [*packages._few(headers, data)])
        self.assertRaises(
            ValueError, list, packages._few([*headers, bytes(600)], data)
        )


class TestAsked(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.found = packages.Installed(
            (
                Package('dpkg', 'bind9', '1:9.18-1', 'amd64', 'bind9'),
                Package(
                    'dpkg', 'liblzma5', '5.6.1-1+b1', 'amd64', 'xz-utils',
                    '5.6.1-1',
                ),
                Package('apk', 'musl', 'odd', None, 'musl', 'odd'),
                Package('rpm', 'perl', '4:5.32-481', None, 'perl', '5.32-481'),
            )
        )  # fmt: skip

    def judge(self, text: str) -> list[Verdict]:
        return list(self.found.judge([Asked.parse(text)]))

    def test_names(self) -> None:
        for text, names in (
            ('liblzma5', ['liblzma5']),
            ('src:xz-utils', ['liblzma5']),
            ('*b*', ['bind9', 'liblzma5']),
            ('xz-utils', []),
            ('LIBLZMA5', []),
        ):
            asked = Asked.parse(text)
            found = [p.name for p in self.found.packages if asked.names(p)]
            self.assertEqual(names, found, text)

    def test_states(self) -> None:
        for text, state in (
            ('liblzma5', 'affected'),
            ('liblzma5<5.6.2', 'affected'),
            (' liblzma5 >= 5.6.0 , < 5.6.2 ', 'affected'),
            ('liblzma5>=5.6.0,<5.6.1', 'not affected'),
            ('liblzma5=5.6.1-1', 'not affected'),
            ('src:xz-utils=5.6.1-1', 'affected'),
            ('liblzma5>5.6.1-1,<=5.6.1-1+b1', 'affected'),
            ('xz-utils<99', 'not affected'),
            ('bind9<1:9.19', 'affected'),
            ('perl<4:5.32-482', 'affected'),
            ('perl<4:5.32-481', 'not affected'),
            ('src:perl<4:5.32-482', 'affected'),
            ('musl', 'affected'),
        ):
            (found,) = self.judge(text)
            self.assertEqual((state, None), (found.state, found.note), text)

    def test_not_installed(self) -> None:
        self.assertEqual(
            [Verdict('xz-utils', None, 'not affected')],
            self.judge('xz-utils<5.6.2'),
        )

    def test_what_cannot_be_compared(self) -> None:
        (found,) = self.judge('musl<1.2.5')
        self.assertEqual(('odd', 'unknown'), (found.version, found.state))
        self.assertEqual("'odd' is not a version of apk", found.note)

    def test_what_decides(self) -> None:
        for text, state, what in (
            ('bind9<9.19', 'not affected', 'epoch'),
            ('bind9>=9.18', 'affected', 'epoch'),
            ('src:xz-utils=5.6.1', 'not affected', 'revision'),
            ('src:xz-utils<=5.6.1', 'not affected', 'revision'),
            ('liblzma5>5.6.1', 'affected', 'revision'),
        ):
            (found,) = self.judge(text)
            self.assertEqual(state, found.state, text)
            self.assertEqual(
                f'its {what} decides: ask for one, too', found.note
            )
        # That makes no difference.
        for text in ('liblzma5<5.6.1', 'liblzma5<=5.6.0', 'src:perl=5.32'):
            (found,) = self.judge(text)
            self.assertIsNone(found.note, text)

    def test_refusals(self) -> None:
        for text in (
            *('', '<1', 'xz<', 'xz 5.6', 'xz<5,', 'xz<5,6', 'xz!=5', 'xz<<5'),
            *('xz=<5', 'src:', 'xz<5 <6', 'xz,<5'),
        ):
            error = self.assertRaises(errors.UsageError, Asked.parse, text)
            self.assertIn(repr(text), str(error))
