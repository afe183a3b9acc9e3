# SPDX-License-Identifier: Apache-2.0

"""Images of containers: what their layers come to, and what is refused."""

import contextlib
import json
import os
import pathlib
import tarfile

import fixtures

from amiclient import errors
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import archives
from amiclient.tests.disks import containers
from amiclient.tests.oracle import exttree

member = archives.member
DIRECTORY = tarfile.DIRTYPE

OS_RELEASE = (member('usr/lib/os-release'), b'ID=debian\nVERSION_ID="12"\n')


def base_layer() -> bytes:
    """Make a layer with what others replace and take away."""
    return containers.layer(
        [
            member('etc/', DIRECTORY),
            (member('etc/passwd'), b'root:x:0:0::/root:/bin/sh\n'),
            (member('etc/secret', mode=0o600), b'secret' * 1000),
            member('usr/lib/', DIRECTORY),
            OS_RELEASE,
            member('lib', tarfile.SYMTYPE, linkname='usr/lib'),
            (member('usr/bin/ping', uid=1, mode=0o4755), b'ping' * 100),
            member('usr/bin/ping6', tarfile.LNKTYPE, linkname='usr/bin/ping'),
            member('var/cache/', DIRECTORY),
            (member('var/cache/old/a'), b'a'),
            (member('var/cache/b'), b'b'),
            member('srv/', DIRECTORY, mode=0o700),
            (member('srv/www/index'), b'old'),
            (member('opt/tree/deep/file'), b'x'),
            (member('opt/file'), b'file'),
        ]
    )


def upper_layer() -> bytes:
    """Make a layer over that."""
    return containers.layer(
        [
            # Whiteouts may come before or after what is new.
            member('etc/.wh.secret'),
            member('usr/bin/.wh.ping6'),
            (member('lib/new'), b'by way of a link'),
            (member('var/cache/new'), b'new'),
            member('var/cache/.wh..wh..opq'),
            member('srv/', DIRECTORY, mode=0o750, uid=33),
            (member('srv/www/more'), b'more'),
            # A file in place of a directory, and the other way round.
            (member('opt/tree'), b'no tree any more'),
            member('opt/file/', DIRECTORY),
            (member('opt/file/in'), b'in'),
            member('.wh..wh.aufs'),
            (member('.wh..wh.plnk/1.2'), b'of AUFS'),
            member('etc/.wh.nothing'),
        ]
    )


FILES = {
    b'/etc/passwd',
    b'/usr/lib/os-release',
    b'/usr/lib/new',
    b'/usr/bin/ping',
    b'/var/cache/new',
    b'/srv/www/index',
    b'/srv/www/more',
    b'/opt/tree',
    b'/opt/file/in',
}


class ContainerCase(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        work = self.directory / 'work'
        work.mkdir()
        self.choice = resolve.Choice(work_directory=work)
        self.layers = [base_layer(), upper_layer()]

    def layout(self, name: str = 'oci') -> containers.Layout:
        return containers.Layout(self.directory / name)

    @contextlib.contextmanager
    def taken(self, path: pathlib.Path, **choice):
        wanted = resolve.Choice(
            work_directory=self.choice.work_directory, **choice
        )
        with resolve.opened(path, wanted) as source:
            yield source
        self.assertEqual([], os.listdir(self.choice.work_directory))

    def tree(self, path: pathlib.Path, **choice):
        with self.taken(path, **choice) as source:
            self.assertEqual('container image', source.format)
            return exttree.read_tree(source.root)

    def refused(self, path: pathlib.Path, **choice) -> str:
        with contextlib.ExitStack() as stack:
            error = self.assertRaises(
                errors.SourceError,
                stack.enter_context,
                self.taken(path, **choice),
            )
        self.assertEqual([], os.listdir(self.choice.work_directory))
        text = str(error)
        self.assertIn(path.name, text)
        self.assertNotIn('\n', text)
        return text


class TestLayers(ContainerCase):
    def check(self, path: pathlib.Path) -> None:
        tree = self.tree(path)
        files = {name for name in tree if tree[name].type == 'file'}
        self.assertEqual(FILES, files)
        self.assertEqual((b'/usr/bin/ping',), tree[b'/usr/bin/ping'].names)
        self.assertEqual(0o4755, tree[b'/usr/bin/ping'].mode)
        self.assertEqual((0o750, 33), (tree[b'/srv'].mode, tree[b'/srv'].uid))
        self.assertEqual(b'usr/lib', tree[b'/lib'].target)
        self.assertNotIn(b'/var/cache/old', tree)

    def test_directory(self) -> None:
        for kind in ('gzip', 'zstd', ''):
            layout = self.layout(kind or 'plain')
            image = layout.image(self.layers, compression=kind)
            self.check(layout.index(image))

    def test_archive(self) -> None:
        layout = self.layout()
        layout.index(layout.image(self.layers))
        self.check(layout.archive(self.directory / 'oci.tar'))
        # As people compress it once more.
        self.check(layout.archive(self.directory / 'oci.tar.xz', mode='w:xz'))

    def test_docker_save(self) -> None:
        for name, mode in (('a.tar', 'w'), ('a.tar.gz', 'w:gz')):
            self.check(
                containers.saved(self.directory / name, self.layers, mode=mode)
            )

    def test_links_to_layers(self) -> None:
        """As skopeo and podman save: the old names are links."""
        path = containers.saved(
            self.directory / 'a.tar',
            self.layers,
            manifest={'Layers': ['one/layer.tar', 'two/layer.tar']},
        )
        with tarfile.open(path, 'a') as archive:
            target = f'../{0:064x}/layer.tar'
            archive.addfile(
                member('one/layer.tar', tarfile.SYMTYPE, linkname=target)
            )
            # As GNU tar packs what was unpacked, and is there twice.
            target = f'{1:064x}/layer.tar'
            archive.addfile(
                member('two/layer.tar', tarfile.LNKTYPE, linkname=target)
            )
        self.check(path)

    def test_build_takes_them_too(self) -> None:
        layout = self.layout()
        path = layout.index(layout.image(self.layers))
        with resolve.origin(path, self.choice) as (origin, notes):
            self.assertEqual('a container image', origin.kind)
            self.assertIn('2 layers', notes[0])

    def test_whiteout_in_a_layer_that_is_given_alone(self) -> None:
        path = archives.archive(
            self.directory / 'flat.tar',
            [member('etc/', DIRECTORY), member('etc/.wh.secret'), OS_RELEASE],
        )
        log = self.useFixture(fixtures.FakeLogger('amiclient'))
        with self.taken(path) as source:
            tree = exttree.read_tree(source.root)
        self.assertEqual(
            [b'/usr/lib/os-release'],
            [name for name in tree if tree[name].type == 'file'],
        )
        self.assertIn('etc/.wh.secret', log.output)

    def test_links_above_the_root_and_without_end(self) -> None:
        lower = containers.layer(
            [
                OS_RELEASE,
                member('up', tarfile.SYMTYPE, linkname='../../../usr'),
                member('to', tarfile.SYMTYPE, linkname='/up/lib'),
                member('a', tarfile.SYMTYPE, linkname='b'),
                member('b', tarfile.SYMTYPE, linkname='a'),
            ]
        )
        upper = containers.layer([(member('to/file'), b'x')])
        path = containers.saved(self.directory / 'a.tar', [lower, upper])
        self.assertIn(b'/usr/lib/file', self.tree(path))
        upper = containers.layer([(member('a/file'), b'x')])
        path = containers.saved(self.directory / 'b.tar', [lower, upper])
        self.assertIn('links without end', self.refused(path))


class TestChoice(ContainerCase):
    def test_platform(self) -> None:
        layout = self.layout()
        arm = containers.layer([OS_RELEASE, (member('etc/arm'), b'')])
        inner = layout.text(
            {
                'schemaVersion': 2,
                'manifests': [
                    layout.image([self.layers[0]]),
                    layout.image(
                        [arm], architecture='arm64', config={'variant': 'v8'}
                    ),
                    layout.image(
                        [b'about'],
                        annotations={
                            'vnd.docker.reference.type': 'attestation-manifest'
                        },
                    ),
                    # That of a platform that was not copied.
                    {
                        'mediaType': containers.MANIFEST,
                        'digest': 'sha256:' + '0' * 64,
                        'size': 7,
                    },
                ],
            },
            containers.INDEX,
            annotations={'org.opencontainers.image.ref.name': 'v1\n'},
        )
        path = layout.index(inner)
        text = self.refused(path)
        self.assertIn(r'v1\n (linux/amd64), v1\n (linux/arm64/v8)', text)
        self.assertIn('--architecture', text)
        for name in ('aarch64', 'arm64'):
            self.assertIn(b'/etc/arm', self.tree(path, architecture=name))
        tree = self.tree(path, architecture='x86_64')
        self.assertNotIn(b'/etc/arm', tree)
        text = self.refused(path, architecture='s390x')
        self.assertIn('no container image in it is for s390x', text)

    def test_several_of_a_platform(self) -> None:
        layout = self.layout()
        path = layout.index(
            layout.image([self.layers[0]]), layout.image(self.layers)
        )
        self.assertIn('skopeo', self.refused(path))
        # Another name for the same is no other image.
        one = layout.image(self.layers)
        layout.index(one, {**one, 'annotations': {'a': 'b'}})
        self.tree(path)

    def test_what_is_told(self) -> None:
        layout = self.layout()
        image = layout.image(
            self.layers,
            manifest={
                'annotations': {'org.opencontainers.image.version': '12.5'}
            },
            annotations={'org.opencontainers.image.ref.name': 'bookworm'},
        )
        with self.taken(layout.index(image)) as source:
            told = source.notes[0]
        self.assertIn('container image bookworm (linux/amd64)', told)
        self.assertIn('org.opencontainers.image.version=12.5', told)

    def test_nothing_else_has_an_architecture(self) -> None:
        layout = self.layout()
        path = layout.index()
        self.assertIn('no container image', self.refused(path))
        chart = layout.text(
            {
                'schemaVersion': 2,
                'config': layout.text({}, 'application/vnd.cncf.helm'),
                'layers': [],
            },
            containers.MANIFEST,
        )
        layout.index(chart)
        self.assertIn('no container image', self.refused(path))


class TestRefused(ContainerCase):
    def changed(self, **manifest) -> pathlib.Path:
        layout = self.layout(f'l{len(os.listdir(self.directory))}')
        return layout.index(layout.image(self.layers, manifest=manifest))

    def test_other_content(self) -> None:
        for old, new in ((b'"amd64"', b'"arm64"'), (b'\x1f\x8b', b'\x1f\x8c')):
            layout = self.layout(f'l{len(old)}')
            path = layout.index(layout.image(self.layers))
            for blob in (path / 'blobs' / 'sha256').iterdir():
                blob.write_bytes(blob.read_bytes().replace(old, new, 1))
            self.assertIn('damaged container image', self.refused(path))

    def test_other_content_of_docker_save(self) -> None:
        path = containers.saved(self.directory / 'a.tar', self.layers)
        data = path.read_bytes()
        path.write_bytes(data.replace(b'by way of', b'by wax of'))
        self.assertIn('another content', self.refused(path))

    def test_other_size(self) -> None:
        layout = self.layout()
        image = layout.image(self.layers)
        path = layout.index({**image, 'size': 1 << 80})
        self.assertIn('bytes, not 1208925', self.refused(path))

    def test_missing(self) -> None:
        layout = self.layout()
        path = layout.index(layout.image(self.layers))
        name = containers.digest(containers.packed(self.layers[1], 'gzip'))
        (path / 'blobs' / name.replace(':', '/')).unlink()
        self.assertIn(f'the layer {name} is not in it', self.refused(path))

    def test_names_that_lead_out(self) -> None:
        secret = self.directory / 'secret'
        secret.write_text('{"os": "secret"}')
        for given in (
            {'Config': '../secret'},
            {'Config': str(secret)},
            {'Layers': ['../secret', '/etc/shadow']},
            {'Layers': [None, 7]},
            {'Config': 'a\0b'},
            {'Layers': 'text'},
            {'Layers': ['x', 'y', 'z']},
        ):
            path = containers.saved(
                self.directory / 'a.tar', self.layers, manifest=given
            )
            self.assertNotIn('"secret"', self.refused(path))
        # A directory has the same, and links besides.
        path = self.directory / 'dir'
        path.mkdir()
        (path / 'manifest.json').write_text(
            json.dumps([{'Config': 'link', 'Layers': []}])
        )
        (path / 'link').symlink_to(secret)
        self.assertIn('leads out of it', self.refused(path))

    def test_indexes_without_end(self) -> None:
        layout = self.layout()
        index = layout.image(self.layers)
        for _ in range(10):
            index = layout.text(
                {'schemaVersion': 2, 'manifests': [index]}, containers.INDEX
            )
        self.assertIn('no end', self.refused(layout.index(index)))
        many = [layout.image(self.layers)] * 1000
        self.assertIn('256 images', self.refused(layout.index(*many)))

    def test_texts(self) -> None:
        layout = self.layout()
        path = layout.path
        for text in (
            '[' * 100_000,
            '{"manifests": 7}',
            '{"manifests": [7]}',
            '{"manifests": [{"digest": 7}]}',
            '{"manifests": [{"digest": "md5:' + '0' * 32 + '"}]}',
            '[]',
            'null',
            '{}' + ' ' * (5 << 20),
            '{"manifests": []} \ud800'.encode('utf-8', 'surrogatepass'),
        ):
            data = text if isinstance(text, bytes) else text.encode()
            (path / 'index.json').write_bytes(data)
            self.refused(path)

    def test_layers_of_other_kinds(self) -> None:
        for kind, words in (
            (containers.LAYER + '+encrypted', 'is encrypted'),
            ('text/plain', 'unknown type text/plain'),
        ):
            layout = self.layout(f'l{len(kind)}')
            blobs = [layout.blob(data, kind) for data in self.layers]
            image = layout.image(self.layers, manifest={'layers': blobs})
            self.assertIn(words, self.refused(layout.index(image)))
        ids = {'rootfs': {'diff_ids': ['x', 'y']}}
        layout = self.layout('ids')
        path = layout.index(layout.image(self.layers, config=ids))
        self.assertIn('makes no sense', self.refused(path))

    def test_members(self) -> None:
        for each, words in (
            (member('../x'), 'it contains ..'),
            (member('etc/.wh...'), 'a whiteout of nothing'),
            (member('etc/.wh.'), 'a whiteout of nothing'),
            (member('x', tarfile.LNKTYPE, linkname='y'), 'not there'),
        ):
            layers = [self.layers[0], containers.layer([each])]
            path = containers.saved(self.directory / 'a.tar', layers)
            self.assertIn(words, self.refused(path))

    def test_what_is_no_archive(self) -> None:
        path = containers.saved(
            self.directory / 'a.tar', [self.layers[0], b'x' * 2000]
        )
        self.refused(path)

    def test_cut_short(self) -> None:
        layout = self.layout()
        layout.index(layout.image(self.layers))
        for mode in ('w', 'w:gz'):
            path = layout.archive(self.directory / 'a.tar', mode=mode)
            data = path.read_bytes()
            for part in (3, 7):
                path.write_bytes(data[: len(data) * part // 10])
                self.refused(path)
