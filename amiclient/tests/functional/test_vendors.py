# SPDX-License-Identifier: Apache-2.0

"""Images of vendors: uploaded by an ordinary user, and back, the same tree.

The commands are those of the page of sources. The truth is what Linux shows
where all of an image's filesystems are mounted.
"""

import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import unittest

import fixtures

import amiclient
from amiclient.ext import reader
from amiclient.ext import superblock
from amiclient.tests import base
from amiclient.tests.cloud import forkserver
from amiclient.tests.disks import machines
from amiclient.tests.disks import userland
from amiclient.tests.disks import vendor
from amiclient.tests.disks import vendors
from amiclient.tests.functional import upload
from amiclient.tests.unit.source import test_vendors as page

_ROOT = pathlib.Path(amiclient.__file__).parents[1]

_NOBODY = 65534

_FSTAB = b'/etc/fstab'
_CRYPTTAB = b'/etc/crypttab'

#: Makes a command that of an ordinary user. Python may be where this user
#: reads nothing: what it loads late is loaded before.
_PRELUDE = f"""
import codecs
import concurrent.futures.thread
import encodings
import getpass
import os
import pkgutil
import stringprep

for module in pkgutil.iter_modules(encodings.__path__):
    try:
        codecs.lookup(module.name)
    except (ImportError, LookupError):
        pass
os.setgroups([])
os.setgid({_NOBODY})
os.setuid({_NOBODY})
"""


@unittest.skipIf(os.geteuid(), 'only root mounts what Linux is to fill')
class VendorCase(upload.UploadCase):
    """A test whose commands are run by an ordinary user."""

    #: What has to be here: programs, and types of filesystems.
    programs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ('ext4',)

    def setUp(self) -> None:
        for program in self.programs:
            if shutil.which(program) is None:
                self.skipTest(f'{program} is not installed')
        for kind in self.kinds:
            if not machines.mounts(kind):
                self.skipTest(f'this kernel does not mount {kind}')
        super().setUp()
        clouds = self.directory / 'clouds.yaml'
        clouds.write_bytes(self.cloud.clouds_yaml.read_bytes())
        for path in (self.directory, self.work, clouds):
            os.chown(path, _NOBODY, _NOBODY)
        prelude = self.directory / 'prelude.py'
        prelude.write_text(_PRELUDE)
        for name, value in (
            ('OS_CLIENT_CONFIG_FILE', clouds),
            ('HOME', self.directory),
            (forkserver.PRELUDE, prelude),
        ):
            self.useFixture(fixtures.EnvironmentVariable(name, str(value)))
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)

    def make(self, name: str) -> vendor.Image:
        made = self.directory / 'made'
        made.mkdir()
        image = vendors.MAKERS[name](made)
        image.path.rename(self.directory / name)
        shutil.rmtree(made)
        # What commands read.
        for file, data in (
            ('vmlinuz', image.kernel),
            ('initrd', image.ramdisk),
            ('key', vendors.PASSPHRASE.encode()),
        ):
            pathlib.Path(file).write_bytes(data)
        return image

    def go(self, name: str) -> None:
        """Take an image there and back."""
        image = self.make(name)
        words = shlex.split(page.commands()[name])
        done = self.spawn_openstack(*words, '-f', 'json')
        self.assertEqual(0, done.status, done)
        self.assertEqual(
            sorted(image.notes),
            sorted(_kind(line, name) for line in done.stderr.splitlines()),
            done.stderr,
        )
        told = json.loads(done.stdout)
        for noun, data in (
            ('kernel', image.kernel),
            ('ramdisk', image.ramdisk),
        ):
            came = self.download(told[f'{noun}_id'])
            self.assertEqual(data, came.read_bytes())
        self.assertEqual(image.system, self.get(told['id'])['os_distro'])
        self.assertNothingLeft()
        done = self.spawn_openstack(
            *('ami', 'save', told['id'], '--directory', 'saved', '-f', 'json')
        )
        self.assertEqual(0, done.status, done)
        saved = json.loads(done.stdout)
        self.assertEqual(
            (image.kernel, image.ramdisk),
            tuple(
                pathlib.Path(saved[noun]).read_bytes()
                for noun in ('kernel', 'ramdisk')
            ),
        )
        root = pathlib.Path(saved['image'])
        self.compare(image, userland.stored(root))
        self.compare_fstab(image, root)
        # The holes are still there.
        self.assertLess(root.stat().st_size, 2 * userland.HOLE)
        self.assertNothingLeft()

    def compare(
        self, image: vendor.Image, found: dict[bytes, userland.Seen]
    ) -> None:
        """Compare all that is in an image with all that was."""
        expected = dict(image.seen)
        efi = next((p for p in image.merged if p.endswith('efi')), None)
        if efi is not None:
            self.compare_efi(image, found, efi.encode())
            expected.pop(efi.encode())
        for each in (expected, found):
            # A new filesystem has its own.
            for place in ('', *image.merged):
                each.pop(f'{place}/lost+found'.encode(), None)
            each.pop(_FSTAB)
            each.pop(_CRYPTTAB, None)
        wrong = [
            f'{path!r}: {expected.get(path)} is {found.get(path)}'
            for path in sorted(expected.keys() | found.keys())
            if expected.get(path) != found.get(path)
        ]
        self.assertEqual([], wrong[:5], len(wrong))

    def compare_efi(
        self,
        image: vendor.Image,
        found: dict[bytes, userland.Seen],
        top: bytes,
    ) -> None:
        """Compare what was on a FAT filesystem, which says no more."""
        inside = {
            path[len(top) + 1 :].decode(): found.pop(path)
            for path in list(found)
            if path == top or path.startswith(top + b'/')
        }
        self.assertEqual(
            {(0, 0)}, {(each.uid, each.gid) for each in inside.values()}
        )
        self.assertEqual(
            {
                name: hashlib.sha256(data).hexdigest()
                for name, data in image.files.items()
            },
            {
                name: each.sha256
                for name, each in inside.items()
                if each.type == 'file'
            },
        )

    def compare_fstab(self, image: vendor.Image, root: pathlib.Path) -> None:
        with reader.opened(root) as files:
            text = (files.read_file('/etc/fstab', 1 << 20) or b'').decode()
            opened = files.read_file('/etc/crypttab', 1 << 20) or b''
        block = superblock.read(root)
        lines = [
            ' '.join(line.split())
            for line in text.splitlines()
            if line.strip() and not line.startswith('#')
        ]
        # Nothing that the system waits for.
        self.assertEqual(
            [], [e for e in opened.splitlines() if not e.startswith(b'#')]
        )
        wanted = image.fstab.format(uuid=block.uuid).splitlines()
        self.assertEqual(wanted, lines)
        spec = wanted[0].split()[0]
        if spec.startswith('LABEL='):
            self.assertEqual(spec, f'LABEL={block.label}')


def _kind(line: str, name: str) -> str:
    """Tell what kind of message a line is."""
    told = line.removeprefix(f'{name}: ')
    return re.split(r': | \(| \d', told)[0]


class TestExt(VendorCase):
    """What this package reads itself."""

    def test_debian(self) -> None:
        self.go('debian.qcow2')

    def test_ubuntu(self) -> None:
        self.go('ubuntu.qcow2')

    def test_arch(self) -> None:
        self.go('arch.qcow2')

    def test_alpine(self) -> None:
        self.go('alpine.qcow2')

    def test_cirros(self) -> None:
        self.go('cirros.qcow2')

    def test_appliance(self) -> None:
        self.go('appliance.ova')

    def test_container(self) -> None:
        self.go('oci.tar')

    def test_flatcar(self) -> None:
        """It is refused, with the way that works."""
        for kind in ('ext4', 'btrfs'):
            if not machines.mounts(kind):
                continue
            made = self.directory / kind
            made.mkdir()
            vendors.flatcar(made, kind).rename('flatcar.img')
            done = self.spawn_openstack('ami', 'upload', 'flatcar.img')
            self.assertEqual((1, ''), (done.status, done.stdout))
            self.assertEqual(1, done.stderr.count('\n'), done.stderr)
            self.assertIn('its /usr is a partition of its own', done.stderr)
            self.assertIn('"openstack image create --file"', done.stderr)
            self.assertNothingLeft()
        command = re.search(
            r'``openstack (image create [^`]*flatcar)``', page.text()
        )
        assert command is not None
        self.openstack(*command[1].split())


class TestLive(VendorCase):
    """What is in squashfs."""

    programs = ('mksquashfs', 'sqfs2tar', 'xorriso')

    def test_debian(self) -> None:
        self.go('debian-live.iso')


class TestXfs(VendorCase):
    """XFS, and logical volumes."""

    programs = ('lvm', 'mkfs.xfs')
    kinds = ('xfs',)

    def test_rocky(self) -> None:
        self.go('rocky.qcow2')

    def test_azure(self) -> None:
        self.go('azure.vhd')

    def test_amazon(self) -> None:
        self.go('amazon.qcow2')


class TestBtrfs(VendorCase):
    """Subvolumes, which libguestfs reads."""

    programs = ('btrfs', 'guestfish')
    kinds = ('btrfs',)

    @base.slow
    def test_fedora(self) -> None:
        self.go('fedora.qcow2')

    def test_opensuse(self) -> None:
        self.go('opensuse.qcow2')


class TestBoot(VendorCase):
    """A whole Debian, from where it was installed to its login prompt."""

    def boot(self, kind: str) -> None:
        archive = _ROOT / '.test' / 'debian.tar'
        if not archive.exists():
            self.skipTest(f'there is no {archive}; tools/test makes it')
        made = self.directory / 'made'
        made.mkdir()
        disk = vendors.installed(made, archive, kind)
        done = self.spawn_openstack(
            *('ami', 'upload', disk, '--fix', '-f', 'json')
        )
        self.assertEqual(0, done.status, done)
        shutil.rmtree(made)
        told = json.loads(done.stdout)
        done = self.spawn_openstack(
            *('ami', 'save', told['id'], '--directory', 'saved')
        )
        self.assertEqual(0, done.status, done)
        done = self.spawn_openstack(
            *('ami', 'boot', 'saved', '--disk', '2G', '--append', 'quiet'),
            *('--until', 'demo login:', '--timeout', '600', '-f', 'json'),
        )
        # It warns of a root that stayed read-only, and of units that failed.
        self.assertEqual((0, ''), (done.status, done.stderr), done)
        told = json.loads(done.stdout)
        self.assertEqual('booted', told['result'])
        self.assertEqual(2 << 30, told['root_size'])
        self.assertNothingLeft()

    @base.slow
    def test_volumes(self) -> None:
        self.boot('xfs')

    @base.slow
    def test_subvolumes(self) -> None:
        """The same from another filesystem."""
        self.boot('btrfs')


class TestEncrypted(VendorCase):
    """LUKS, which libguestfs opens."""

    programs = ('cryptsetup', 'guestfish', 'lvm')

    @base.slow
    def test_debian(self) -> None:
        self.go('encrypted.qcow2')
