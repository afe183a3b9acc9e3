# SPDX-License-Identifier: Apache-2.0

"""AMIs that are declared: what is changed, and that nothing else is."""

from collections.abc import Iterator, Mapping
import contextlib
import hashlib
import json
import os
from typing import Any

from amiclient import errors
from amiclient.glance.change import apply
from amiclient.glance.change import export
from amiclient.glance.change import inventory
from amiclient.glance import declaration
from amiclient.glance.declaration import DeclaredAmi
from amiclient.glance import places
from amiclient.glance import retry
from amiclient.glance.upload import request
from amiclient import progress
from amiclient.tests.cloud import memory
from amiclient.tests.unit.glance import failing
from amiclient.tests.unit.rootfs import samples

SOURCE = b'what the AMI is made of'
SHA512 = hashlib.sha512(SOURCE).hexdigest()

PATIENCE = retry.Patience(attempts=1, backoff=0.01)


class _WouldUpload(Exception):
    """Says which properties tell where the AMI comes from."""


class ApplyCase(failing.GlanceCase):
    """The AMI "web" is there; a source was made into it, or was not."""

    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.source = self.directory / 'web.img'
        self.source.write_bytes(SOURCE)
        self.here = places.CloudPlace('', '', self.catalog._proxy)
        self.ami = self.glance.images[memory.AMI]
        self.glance.writes = []

    @contextlib.contextmanager
    def upload(
        self, ami: DeclaredAmi, origin: Mapping[str, str]
    ) -> Iterator[request.RegisterPlan]:
        raise _WouldUpload(origin)
        yield

    def declare(self, text: str) -> tuple[DeclaredAmi, ...]:
        path = self.directory / 'images.yaml'
        path.write_text(text)
        return declaration.read([path]).amis

    def applying(self, text: str, *, dry_run: bool = False) -> apply.Applying:
        asked = apply.ApplyRequest(
            amis=self.declare(text),
            home=self.here,
            others={},
            upload=self.upload,
            project=lambda name: name,
            users=lambda project: [],
            patience=PATIENCE,
            dry_run=dry_run,
        )
        return apply.Applying(asked, progress=progress.QUIET)

    def run_apply(
        self, keys: str, *, dry_run: bool = False, head: str = ''
    ) -> list[str]:
        text = f'{head}\namis: [{{name: web, {keys}}}]'
        applying = self.applying(text, dry_run=dry_run)
        for ami in applying._asked.amis:
            applying.apply(ami)
        return [each.change for each in applying.changes]

    def applied(self, keys: str, **more: Any) -> list[str]:
        """Apply it: as a dry run says; then there is nothing to do."""
        before = self.glance.state()
        planned = self.run_apply(keys, dry_run=True, **more)
        self.assertEqual([], self.glance.writes)
        self.assertEqual(before, self.glance.state())
        done = self.run_apply(keys, **more)
        self.assertEqual(planned, done)
        self.assertEqual([], self.glance.broken)
        self.glance.writes = []
        self.assertEqual([], self.run_apply(keys, **more))
        self.assertEqual([], self.glance.writes)
        return done

    def title(self, kind: str = 'image', name: str = 'web') -> str:
        ids = {'image': memory.AMI, 'kernel': memory.KERNEL}
        return f'{kind} {name!r} ({ids[kind]})'


class TestChange(ApplyCase):
    def test_nothing(self) -> None:
        self.assertEqual([], self.applied('tags: []'))
        self.assertNotIn(inventory.APPLIED, self.ami)
        # Two lists tell all, whatever there is.
        requests = [r for r in self.wire.request_history if 'v2' in r.path]
        self.assertEqual(6, len(requests))

    def test_attributes(self) -> None:
        self.glance.change(memory.AMI, tags=['old', 'kept'], gone='1')
        (done,) = self.applied(
            'tags: [kept, new], properties: {a: yes, gone: null, no: ~}, '
            'min_disk: 3, min_ram: 512, version: 1.10, architecture: x86_64'
        )
        self.assertIn('tags=kept,new', done)
        self.assertIn(' and remove gone', done)
        self.assertEqual(['kept', 'new'], self.ami['tags'])
        self.assertEqual(
            ('yes', 3, 512, '1.10', 'x86_64', None),
            tuple(
                self.ami.get(key)
                for key in (
                    'a',
                    'min_disk',
                    'min_ram',
                    'ami_version',
                    'architecture',
                    'gone',
                )
            ),
        )

    def test_properties_that_are_declared_no_more(self) -> None:
        """Those that somebody else has set stay."""
        self.glance.change(memory.AMI, theirs='1')
        self.applied('properties: {a: 1, b: 1, theirs: 1}')
        self.glance.change(memory.AMI, others='1')
        self.applied('properties: {b: 2}')
        found = {k: self.ami.get(k) for k in ('a', 'b', 'theirs', 'others')}
        # Now it was declared, and so it was ours.
        wanted = {'a': None, 'b': '2', 'theirs': None, 'others': '1'}
        self.assertEqual(wanted, found)
        self.glance.change(memory.AMI, **{inventory.APPLIED: '[1'})
        self.applied('properties: {c: 1}')
        self.assertEqual('2', self.ami['b'])

    def test_visibility_of_all_three(self) -> None:
        done = self.applied('visibility: community, protected: true')
        self.assertEqual(3, len(done))
        visibilities = {i['visibility'] for i in self.glance.images.values()}
        self.assertEqual({'community'}, visibilities)

    def test_projects(self) -> None:
        """All of them, and no others; and those of kernel and ramdisk."""
        done = self.applied('projects: [p2, p3]')
        self.assertEqual(6, len(done))
        done = self.applied('projects: [p3]')
        self.assertIn(f'{self.title()}: stop sharing with project p2', done)
        # What does not say whom, leaves them.
        self.assertEqual([], self.applied('visibility: shared'))
        members = [sorted(m) for m in self.glance.members.values()]
        self.assertEqual([['p3']] * 3, members)
        self.assertEqual(3, len(self.applied('projects: []')))

    def test_shared_after_all(self) -> None:
        for id in self.glance.images:
            self.glance.change(id, visibility='private')
        self.applied('visibility: shared, projects: [p2]')
        members = [sorted(m) for m in self.glance.members.values()]
        self.assertEqual([['p2']] * 3, members)

    def test_members_that_come_back(self) -> None:
        """Whom a public image was shared with before, nobody can see."""
        for id in self.glance.images:
            self.glance.change(id, visibility='public')
            self.glance.members[id] = {'p9': 'accepted'}
        self.run_apply('visibility: shared, projects: [p2]')
        members = [sorted(m) for m in self.glance.members.values()]
        self.assertEqual([['p2']] * 3, members)

    def test_kernel(self) -> None:
        data = samples.bzimage()
        (self.directory / 'new').write_bytes(data)
        self.glance.put('new', memory.OTHER, 'aki', data=data)
        (done,) = self.applied('kernel: new')
        self.assertEqual(
            f'{self.title()}: set {inventory.APPLIED}='
            f'{self.ami[inventory.APPLIED]}, kernel_id={memory.OTHER}',
            done,
        )
        # By its name, and by its id.
        (self.directory / 'new').unlink()
        self.assertEqual([], self.applied('kernel: new'))
        self.assertEqual([], self.applied(f'kernel: {memory.OTHER}'))
        self.applied('kernel: vmlinuz, no_ramdisk: true')
        self.assertEqual(memory.KERNEL, self.ami['kernel_id'])
        self.assertNotIn('ramdisk_id', self.ami)

    def test_relinked_and_shared(self) -> None:
        """A dry run says it of the kernel that would be linked."""
        self.glance.put('other', memory.OTHER, 'aki', shared_with=('p2',))
        done = self.applied('kernel: other, projects: [p2]')
        self.assertNotIn("share kernel 'other' with project p2", done)
        self.assertNotIn("share kernel 'vmlinuz' with project p2", done)
        self.assertIn("share image 'web' with project p2", done)

    def test_none_of_the_name(self) -> None:
        for keys in ('family: x', 'name: x'):
            (ami,) = self.declare(f'amis: [{{{keys}}}]')
            applying = self.applying(f'amis: [{{{keys}}}]')
            error = self.assertRaises(
                errors.NotFoundError, applying.apply, ami
            )
            self.assertIn("'x'; add a source", str(error))


class TestSource(ApplyCase):
    def setUp(self) -> None:
        super().setUp()
        self.glance.change(memory.AMI, ami_source_sha512=SHA512)

    def origin(self, keys: str, **more: Any) -> Mapping[str, str]:
        """Tell what an upload would be told."""
        error = self.assertRaises(_WouldUpload, self.run_apply, keys, **more)
        found: Mapping[str, str] = error.args[0]
        return found

    def test_as_it_was(self) -> None:
        self.assertEqual([], self.applied('source: web.img'))
        self.assertEqual([], self.applied(f'source: nosuch, sha512: {SHA512}'))
        url = 'https://vendor.example/web.img'
        keys = f'source: "{url}", sha512: {SHA512.upper()}'
        self.assertEqual([], self.applied(keys))

    def test_another(self) -> None:
        self.source.write_bytes(SOURCE + b'!')
        head = 'collection: all'
        origin = self.origin(
            'source: web.img, fix: true, properties: {a: 1}', head=head
        )
        digest = hashlib.sha512(SOURCE + b'!').hexdigest()
        self.assertEqual(digest, origin['ami_source_sha512'])
        self.assertEqual('all', origin[inventory.COLLECTION])
        self.assertEqual(
            {'ami': 'web', 'fix': True, 'properties': ['a']},
            json.loads(origin[inventory.APPLIED]),
        )

    def test_another_way_of_making(self) -> None:
        """What was not applied may have been made in any way."""
        self.assertEqual([], self.applied('source: web.img, fix: true'))
        text = '{"ami":"web","fix":true,"leave_out":["/a"]}'
        self.glance.change(memory.AMI, **{inventory.APPLIED: text})
        keys = 'source: web.img, fix: true, leave_out: [/a]'
        self.assertEqual([], self.applied(keys))
        self.origin('source: web.img, fix: true')
        self.origin(f'{keys}, format: raw')
        self.origin(f'{keys}, no_kernel: true')

    def test_hash_that_is_declared(self) -> None:
        """What is not of it is not taken."""
        sha256 = hashlib.sha256(SOURCE).hexdigest()
        origin = self.origin(f'source: web.img, sha256: {sha256}')
        known = json.loads(origin[inventory.APPLIED])
        self.assertEqual(f'sha256:{sha256}', known['source'])
        self.glance.change(memory.AMI, **origin)
        keys = f'source: web.img, sha256: {sha256}'
        self.assertEqual([], self.applied(keys))
        for name, digits in (('sha512', 128), ('sha256', 64)):
            keys = f'source: web.img, {name}: {"a" * digits}'
            error = self.assertRaises(errors.SourceError, self.run_apply, keys)
            self.assertIn(f'images.yaml:2: the {name} of', str(error))

    def test_directory(self) -> None:
        tree = self.directory / 'tree'
        (tree / 'etc').mkdir(parents=True)
        (tree / 'etc/hostname').write_text('web\n')
        origin = self.origin('source: tree')
        self.assertNotIn('ami_source_sha512', origin)
        self.glance.change(memory.AMI, **origin)
        self.assertEqual([], self.applied('source: tree'))
        os.utime(tree / 'etc/hostname', (1, 1))
        self.origin('source: tree')

    def test_saved(self) -> None:
        """Its manifest has the hashes of all files."""
        saved = self.directory / 'saved'
        saved.mkdir()
        (saved / 'manifest.json').write_text('{}')
        origin = self.origin('source: saved')
        self.glance.change(memory.AMI, **origin)
        os.utime(saved / 'manifest.json', (1, 1))
        self.assertEqual([], self.applied('source: saved'))
        (saved / 'manifest.json').write_text('{ }')
        self.origin('source: saved')

    def test_what_boots_no_more(self) -> None:
        for id in (memory.RAMDISK, memory.KERNEL):
            del self.glance.images[id]
            self.origin('source: web.img')
        self.glance.change(memory.AMI, kernel_id=None)
        self.origin('source: web.img')

    def test_no_source(self) -> None:
        for name, said in (('nosuch', 'no such file'), ('pipe', 'a pipe')):
            if name == 'pipe':
                os.mkfifo(self.directory / name)
            error = self.assertRaises(
                errors.AmiError, self.run_apply, f'source: {name}'
            )
            self.assertIn(said, str(error))


class TestVersions(ApplyCase):
    """Three versions, of three sources; the newest is "web"."""

    def setUp(self) -> None:
        super().setUp()
        for number in range(2):
            self.glance.put(
                'web',
                f'{number}5555555-4444-4444-8444-444444444444',
                'ami',
                kernel_id=memory.KERNEL,
                created_at=f'2026-01-0{number + 1}T01:02:03Z',
                ami_source_sha512=hashlib.sha512(b'%d' % number).hexdigest(),
            )
        self.glance.change(memory.AMI, ami_source_sha512=SHA512)

    def left(self) -> list[str]:
        return [
            id
            for id, image in self.glance.images.items()
            if image['name'] == 'web'
        ]

    def test_keep(self) -> None:
        self.assertEqual([], self.applied('source: web.img'))
        self.assertEqual([], self.applied('source: web.img, keep: 3'))
        (done,) = self.applied('source: web.img, keep: 2')
        self.assertIn('delete image', done)
        self.assertEqual(2, len(self.left()))

    def test_never_what_is_used(self) -> None:
        used = self.left()[1]
        self.glance.servers = [
            {'id': 's', 'name': 'db', 'image': {'id': used, 'links': []}}
        ]
        self.applied('keep: 1')
        self.assertEqual([memory.AMI, used], self.left())

    def test_hide(self) -> None:
        self.assertEqual(2, len(self.applied('replace: hide')))
        hidden = [self.glance.images[id]['os_hidden'] for id in self.left()]
        self.assertEqual([False, True, True], hidden)

    def test_back_to_an_older_one(self) -> None:
        """Nothing is sent: it becomes the newest."""
        self.applied('source: web.img, replace: hide')
        self.source.write_bytes(b'0')
        done = self.applied('source: web.img, replace: hide')
        self.assertIn('image_build_date=now', done[0])
        hidden = [self.glance.images[id]['os_hidden'] for id in self.left()]
        self.assertEqual([True, False, True], hidden)


class TestPrune(ApplyCase):
    def prune(self, text: str, *names: str) -> list[str]:
        applying = self.applying(text)
        applying.prune(names)
        return [each.change for each in applying.changes]

    def mark(self, id: str, ami: str | None, collection: str = 'all') -> None:
        self.glance.change(id, **{inventory.COLLECTION: collection})
        if ami is not None:
            known = json.dumps({'ami': ami})
            self.glance.change(id, **{inventory.APPLIED: known})

    def test_what_is_named_no_more(self) -> None:
        for number, (ami, collection) in enumerate(
            (
                ('gone', 'all'),
                ('kept', 'all'),
                ('gone', 'others'),
                (None, 'all'),
            )
        ):
            id = f'{number}5555555-4444-4444-8444-444444444444'
            self.glance.put('x', id, 'ami', kernel_id=memory.KERNEL)
            self.mark(id, ami, collection)
        done = self.prune('amis: [{name: kept}]', 'all')
        (line,) = [each for each in done if 'delete' in each]
        self.assertIn('(05555555', line)
        self.assertEqual(6, len(self.glance.images))
        # What nobody applied has no mark.
        self.assertEqual([], self.prune('amis: []', 'mine'))
        self.assertIn(memory.AMI, self.glance.images)

    def test_with_its_kernel(self) -> None:
        self.mark(memory.AMI, 'web')
        self.assertEqual(3, len(self.prune('amis: []', 'all')))
        self.assertEqual({}, self.glance.images)

    def test_never_what_is_needed(self) -> None:
        self.mark(memory.AMI, 'web')
        self.glance.change(memory.AMI, protected=True)
        self.assertEqual([], self.prune('amis: []', 'all'))
        self.glance.change(memory.AMI, protected=False)
        self.glance.servers = [
            {'id': 's', 'name': 'db', 'image': {'id': memory.AMI, 'links': []}}
        ]
        self.assertEqual([], self.prune('amis: []', 'all'))
        # Where nobody can be asked, nothing is known.
        self.glance.servers = None
        self.assertRaises(errors.CloudError, self.prune, 'amis: []', 'all')
        self.assertEqual(3, len(self.glance.images))


class TestExport(ApplyCase):
    def export(self, *names: str) -> tuple[str, list[str]]:
        there = inventory.Inventory(self.here, PATIENCE)
        found = export.Export(there, names)
        return ''.join(found.lines()), found.notes

    def test_round_trip(self) -> None:
        """Applied again, it changes nothing."""
        self.glance.change(
            memory.AMI,
            tags=['b', '2026-12-01'],
            n='yes',
            v='1.10',
            odd=' x: #"\u2028\n',
            ami_version='1.10',
            ami_family='on',
            hw_boot_menu='true',
            image_build_date='2026-01-01',
            min_ram=512,
            protected=True,
            **{inventory.COLLECTION: 'all'},
        )
        self.glance.members[memory.AMI] = {'p2': 'accepted'}
        self.glance.put('none', memory.OTHER, 'ami', os_hidden=True)
        self.glance.change(memory.OTHER, ami_family='x')
        self.mark_both()
        text, notes = self.export()
        self.assertEqual([], notes)
        self.assertIn(f'  kernel: {memory.KERNEL}  # vmlinuz\n', text)
        applying = self.applying(text)
        for ami in applying._asked.amis:
            applying.apply(ami)
        self.assertEqual([], applying.changes)
        self.assertEqual([], self.glance.writes)
        one, two = applying._asked.amis
        self.assertEqual(('on', 'x'), (one.title, two.title))
        self.assertEqual(('p2',), one.projects)
        self.assertTrue(two.no_kernel)

    def mark_both(self) -> None:
        for id in (memory.AMI, memory.OTHER):
            self.glance.change(id, **{inventory.COLLECTION: 'all'})

    def test_some(self) -> None:
        self.glance.put('x', memory.OTHER, 'ami', status='deactivated')
        text, notes = self.export()
        self.assertNotIn('name: x', text)
        self.assertEqual(["left out 'x': it is deactivated"], notes)
        text, notes = self.export('web')
        self.assertEqual([], notes)
        error = self.assertRaises(errors.NotFoundError, self.export, 'nosuch')
        self.assertIn("'nosuch'", str(error))
        self.glance.images.clear()
        text, _ = self.export()
        self.assertEqual((), self.applying(text)._asked.amis)

    def test_newest(self) -> None:
        self.glance.put(
            'web',
            memory.OTHER,
            'ami',
            kernel_id=memory.KERNEL,
            created_at='2026-01-01T00:00:00Z',
        )
        text, notes = self.export()
        self.assertIn(memory.RAMDISK, text)
        self.assertEqual(["'web': the newest of 2 images is taken"], notes)
