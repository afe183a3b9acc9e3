# SPDX-License-Identifier: Apache-2.0

"""What the tests of faults in downloads have in common.

There are three commands that fetch data. Each ends in one of two ways: what
it has made is what the cloud holds, or it says in one line why not, and what
is not whole and verified does not have its final name.
"""

from collections.abc import Iterator
import json
import shutil
import tarfile

from amiclient.rootfs import check
from amiclient.tests.faults import proxy as faults
from amiclient.tests.functional import faulty

KINDS = ('kernel', 'ramdisk', 'image')


class DownloadCase(faulty.FaultCase):
    """A test that has an AMI in the cloud, and a directory to save it to."""

    def setUp(self) -> None:
        super().setUp()
        self.ids = {
            'kernel': self.register(self.kernel, 'aki'),
            'ramdisk': self.register(self.ramdisk, 'ari'),
        }
        self.ids['image'] = self.register(
            self.root,
            'ami',
            name='web',
            min_disk=1,
            kernel_id=self.ids['kernel'],
            ramdisk_id=self.ids['ramdisk'],
        )
        self.target = self.directory / 'saved'
        save = ('ami', 'save', 'web', '--directory', self.target)
        self.commands = {
            'directory': save,
            'archive': (*save, '--layout', 'uec'),
            'verify': (
                *('ami', 'verify', 'web', '--deep'),
                *('--ignore', 'no-init'),
            ),
        }
        self.glance.clear()

    def each(self, *commands: str) -> Iterator[str]:
        """Go through the commands, each with nothing there yet."""
        for command in commands or self.commands:
            self.glance.clear()
            self.keystone.clear()
            yield command
            shutil.rmtree(self.target, ignore_errors=True)

    def disturb(
        self, kind: str, *actions: faults.Action, times: int | None = 1
    ) -> None:
        """Have something happen to the data of one of the three images."""
        for action in actions:
            path = f'{self.ids[kind]}/file$'
            self.glance.rule(action, method='GET', path=path, times=times)

    def fetched(self, kind: str) -> int:
        """Count the requests for the data of one of the three images."""
        return self.glance.count('GET', f'{self.ids[kind]}/file$')

    def succeed(self, kind: str, *words: object) -> None:
        """Run a command that succeeds, and compare what it made.

        :param kind: which of the commands.
        """
        told = self.openstack_json(*self.commands[kind], *words)
        if kind == 'directory':
            found = {
                path.name: path.read_bytes() for path in self.target.iterdir()
            }
        elif kind == 'archive':
            (path,) = self.target.iterdir()
            with tarfile.open(path) as archive:
                found = {
                    member.name: archive.extractfile(member).read()
                    for member in archive
                    if member.isfile()
                }
        else:
            # It has looked at all three; the root filesystem is a poor one.
            rules = {row['rule'] for row in told} - check.RULES
            self.assertLessEqual(rules, {'no-hash'})
            self.assertFalse(self.target.exists())
            return self.assertNothingLeft()
        found.pop('manifest.json')
        self.assertEqual(3, len(found), found.keys())
        for name in KINDS:
            source = self.files[name].read_bytes()
            self.assertIn(source, found.values(), f'{name} differs')
        return self.assertNothingLeft()

    def refuse(self, kind: str, *words: object) -> str:
        """Run a command that fails, and tell what it says.

        :param kind: which of the commands.
        """
        finished = self.run_openstack(
            *self.commands[kind], *words, *('-f', 'json')
        )
        self.assertEqual(1, finished.status, finished)
        self.assertNothingLeft()
        self.assertOnlyWhole()
        if kind == 'verify' and finished.stdout:
            # What it could not fetch is what it found.
            self.assertEqual('', finished.stderr)
            found = json.loads(finished.stdout)
            failed = [r for r in found if r['severity'] == 'error']
            self.assertEqual({'unreadable'}, {row['rule'] for row in failed})
            return '\n'.join(row['message'] for row in failed)
        self.assertEqual('', finished.stdout)
        self.assertEqual(1, finished.stderr.count('\n'), finished.stderr)
        return finished.stderr

    def assertOnlyWhole(self) -> None:
        """Check that what has a final name is one of the three, and whole.

        What is kept of others has a name with a dot.
        """
        whole = [self.files[name].read_bytes() for name in KINDS]
        found = [p for p in self.directory.glob('saved/*') if p.name[0] != '.']
        self.assertLess(len(found), len(KINDS))
        for path in found:
            self.assertIn(path.read_bytes(), whole, path.name)
