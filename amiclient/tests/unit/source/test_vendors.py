# SPDX-License-Identifier: Apache-2.0

"""What the page of sources says of the images of vendors, row by row.

Each command of the table is parsed as the shell does it, and its source, made
as the vendor makes it, is taken by these options.
"""

import argparse
from collections.abc import Callable
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import tarfile
import zipfile

import amiclient
from amiclient.osc import ami
from amiclient.osc import sources
from amiclient.source import resolve
from amiclient.tests import base
from amiclient.tests.disks import archives
from amiclient.tests.disks import containers
from amiclient.tests.disks import disks
from amiclient.tests.disks import vendors
from amiclient.tests.oracle import exttree

_PAGE = pathlib.Path(amiclient.__file__).parents[1]
_PAGE /= 'doc/source/user/sources.rst'
_ROW = re.compile(
    r'   \* - (.*(?:\n       .*)*)\n     - ``openstack (ami .*)``'
)

member = archives.member

MEMBERS = [
    member('etc/', tarfile.DIRTYPE),
    (member('etc/os-release'), b'ID=debian\n'),
    (member('etc/fstab'), b'LABEL=x / ext4 defaults 0 1\n'),
    member('usr/bin/', tarfile.DIRTYPE),
    (member('usr/bin/tool', mode=0o4755), b'tool' * 1000),
]


def text() -> str:
    """Read what the page says of images of vendors."""
    page = _PAGE.read_text()
    part = page.partition('Images of vendors\n=====')[2]
    return part.partition('\nDisks\n')[0]


def commands() -> dict[str, str]:
    """Read the table: commands, by the names of their sources."""
    found = [command for _, command in _ROW.findall(text())]
    return {shlex.split(command)[2]: command for command in found}


class TestVendors(base.TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.tmp()
        self.tree = self.directory / 'tree'
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        for name in ('vmlinuz', 'initrd'):
            pathlib.Path(name).touch()
        for each in MEMBERS:
            header, data = each if isinstance(each, tuple) else (each, None)
            path = self.tree / header.name
            if data is None:
                path.mkdir(parents=True)
            else:
                path.write_bytes(data)
                path.chmod(header.mode)

    def prefixed(self, name: str, prefix: str, mode: str) -> None:
        members = [
            (
                archives.member(prefix + each[0].name, mode=each[0].mode),
                each[1],
            )
            for each in MEMBERS
            if isinstance(each, tuple)
        ]
        archives.archive(pathlib.Path(name), members, mode=mode)

    def disk(self, tree: pathlib.Path | None = None) -> pathlib.Path:
        root = self.directory / 'root.img'
        root.unlink(missing_ok=True)
        with root.open('wb') as file:
            file.truncate(8 * disks.MIB)
        words = ['mke2fs', '-q', '-t', 'ext4', '-d', tree or self.tree, root]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        return disks.make(self.directory / 'disk.raw', [disks.Part(9, root)])

    def pack(self, name: str, *files: pathlib.Path | str) -> None:
        words = ['tar', '--create', '--auto-compress', '--file', name]
        pathlib.Path('text').write_text('text')
        names = [os.path.basename(file) for file in files]
        subprocess.run([*words, 'text', *names], check=True)

    def layout(self) -> containers.Layout:
        layout = containers.Layout(self.directory / 'layout')
        layers = [containers.layer(MEMBERS)]
        layout.index(layout.image(layers))
        return layout

    def live(self) -> None:
        for program in ('mksquashfs', 'sqfs2tar', 'xorriso'):
            if shutil.which(program) is None:
                self.skipTest(f'{program} is not installed')
        words = ['mksquashfs', 'tree', 'rootfs.squashfs', '-quiet']
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        casper = self.directory / 'medium' / 'casper'
        casper.mkdir(parents=True)
        shutil.copy('rootfs.squashfs', casper / 'filesystem.squashfs')
        words = ['xorriso', '-as', 'mkisofs', '-quiet', '-r', '-o', 'live.iso']
        subprocess.run(
            [*words, 'medium'], check=True, stderr=subprocess.DEVNULL
        )

    def coreos(self, name: str) -> None:
        tree = self.directory / 'sysroot'
        (tree / 'boot').mkdir(parents=True)
        place = tree / 'ostree/deploy/fedora-coreos'
        (place / 'var').mkdir(parents=True)
        shutil.copytree(self.tree, place / 'deploy/abc.0')
        disks.convert(self.disk(tree), 'qcow2').rename(name)

    def box(self, name: str) -> None:
        image = disks.convert(self.disk(), 'qcow2', '-c')
        self.pack('box.tar.gz', image.rename('box.img'))
        os.rename('box.tar.gz', name)

    def zipped(self, name: str) -> None:
        options = ('-o', 'subformat=fixed,force_size')
        image = disks.convert(self.disk(), 'vpc', *options)
        with zipfile.ZipFile(name, 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.write(image, 'disk.vhd')

    def cirros(self, name: str) -> None:
        self.disk()
        os.rename('root.img', 'cirros.img')
        shutil.copy('vmlinuz', 'cirros-vmlinuz')
        self.pack(name, 'cirros.img', 'cirros-vmlinuz')

    def arch(self, name: str) -> None:
        self.prefixed('a.tar', 'root.x86_64/', 'w')
        subprocess.run(['zstd', '-q', 'a.tar', '-o', name], check=True)

    def make(self, name: str) -> None:
        """Make the source of that name."""
        makers: dict[str, Callable[[str], object]] = {
            'coreos.qcow2': self.coreos,
            'generic.box': self.box,
            'disk.raw.tar.gz': lambda name: self.pack(name, self.disk()),
            'vhd.zip': self.zipped,
            'cirros.tar.gz': self.cirros,
            'saved.tar': lambda name: containers.saved(
                pathlib.Path(name), [containers.layer(MEMBERS)]
            ),
            'layout': lambda name: self.layout(),
            'exported.tar': lambda name: archives.archive(
                pathlib.Path(name), MEMBERS
            ),
            'archlinux-bootstrap-x86_64.tar.zst': self.arch,
            'incus.tar.gz': lambda name: self.prefixed(
                name, 'rootfs/', 'w:gz'
            ),
            'backup.tar': lambda name: self.prefixed(name, 'srv/backup/', 'w'),
            'live.iso': lambda name: self.live(),
            'rootfs.squashfs': lambda name: self.live(),
        }
        # What the last one made, or left.
        for each in ('layout', 'medium'):
            shutil.rmtree(each, ignore_errors=True)
        makers[name](name)

    def test_each_row(self) -> None:
        found = commands()
        self.assertLessEqual(vendors.MAKERS.keys(), found.keys())
        for name, command in found.items():
            if name in vendors.MAKERS:
                # A functional test has a whole system for each.
                continue
            noun, verb, *words = shlex.split(command)
            self.assertEqual(('ami', 'upload'), (noun, verb))
            command = ami.UploadAmi(None, argparse.Namespace())
            given = command.get_parser('upload').parse_args(words)
            if not given.source.exists():
                self.make(str(given.source))
            choice = sources.choice(given)
            with resolve.opened(given.source, choice) as source:
                tree = exttree.read_tree(source.root)
            tool = tree[b'/usr/bin/tool']
            self.assertEqual((4000, 0o4755), (tool.size, tool.mode), words)
            self.assertIn(b'/etc/os-release', tree)
