# SPDX-License-Identifier: Apache-2.0

"""Whether an AMI holds what a local source does.

An upload sends the source as it is, or a shrunk copy of it. Both can be made
again here: shrinking gives the same bytes from the same source, with the same
options and the same e2fsprogs. So in most cases a hash is all that is needed
of the cloud. Where the bytes differ, the files can still be the same. A disk
image such as qcow2 has other bytes each time it is packed: there, only the
very file that was uploaded or saved has the same.
"""

from collections.abc import Iterator
import dataclasses
import pathlib
import shlex
import shutil

from amiclient import errors
from amiclient.ext import compare
from amiclient.ext.layout import RootImage
from amiclient.ext import shrink
from amiclient.findings import Finding
from amiclient.glance.model import Kind
from amiclient.glance.model import Payload
from amiclient.glance.model import PLAIN
from amiclient.glance.transfer import image_data
from amiclient.glance.verify.context import Context
from amiclient.progress import Progress
from amiclient.source import manifest
from amiclient.source import probe
from amiclient.source import resolve
from amiclient.source import uec

#: How the file itself, as it is, is compared.
_SAME = 'the bytes of'


@dataclasses.dataclass(frozen=True)
class Local:
    """A local source, and how it was shrunk, or may have been.

    :param path: the file or block device with the root filesystem.
    :param name: what the user named.
    :param choice: how it is taken.
    :param kernel: a file that came with it; None if there is none.
    :param ramdisk: the same.
    :param saved: what its manifest says of the image's file, which was
        compared with that; None if there is no manifest.
    """

    path: pathlib.Path
    name: pathlib.Path
    choice: resolve.Choice
    kernel: pathlib.Path | None = None
    ramdisk: pathlib.Path | None = None
    saved: manifest.ManifestPart | None = None

    @property
    def title(self) -> str:
        """Name what is compared, within a sentence."""
        made = 'what --fix makes of ' if self.choice.fix else ''
        return f'{made}{self.name}'


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An AMI, and a local source that it may have been made of.

    :param directory: where a shrunk copy can be made.
    :param fetched: a file with the AMI's data, if there is one.
    """

    context: Context
    local: Local
    directory: pathlib.Path
    fetched: pathlib.Path | None
    progress: Progress

    def parts(self) -> Iterator[Finding]:
        """Compare the kernel and the ramdisk.

        :raises SourceError: if one of the files cannot be read.
        """
        files = {Kind.AKI: self.local.kernel, Kind.ARI: self.local.ramdisk}
        for kind, image in self.context.ami.parts:
            path, digest = files[kind], image_data.expected(image)
            if path is None or digest is None:
                continue
            if not self._has(Payload.of(path), digest):
                message = f'{self.context.name(kind, image)} does not hold the'
                message += f' bytes of the {kind.noun} in {self.local.name}; '
                message += 'what is right has to be uploaded'
                yield self.context.found('differs', kind, message)

    def image(self) -> Finding:
        """Compare the data of the AMI itself.

        :returns: a note if it is the same, else what differs.
        :raises SourceError: if the source cannot be read.
        :raises NoSpaceError: if there is no room for the copy.
        """
        image, title = self.context.image, self.context.title
        digest = image_data.expected(image)
        if digest is None and self.fetched is not None:
            value = self._digest(Payload.of(self.fetched), 'sha512')
            digest = image_data.Digest('sha512', value)
        if digest is None or not image.size:
            message = f'{title} has no hash, so nothing but its data could be '
            return self._undecided('not-comparable', f'{message}compared')
        if self._is_as_it_came(digest):
            return self._same(f'{_SAME} {self.local.title}, byte by byte')
        for how, payload in self._candidates():
            if payload.size == image.size and self._has(payload, digest):
                return self._same(f'{how} {self.local.title}, byte by byte')
        return self._differing()

    def _digest(self, payload: Payload, algorithm: str) -> str:
        return image_data.digest(
            payload,
            'Hashing the local source',
            self.progress,
            algorithm=algorithm,
        )

    def _has(self, payload: Payload, digest: image_data.Digest) -> bool:
        return self._digest(payload, digest.algorithm) == digest.value

    def _same(self, what: str) -> Finding:
        message = f'{self.context.title} holds {what}'
        return self.context.found('same', Kind.AMI, message)

    def _undecided(self, rule: str, message: str) -> Finding:
        """Tell what the bytes do not.

        The remedy is to look at the data, unless that was done. Everybody
        may, whoever owns the AMI.
        """
        found = self.context.found(rule, Kind.AMI, message)
        if self.fetched is not None:
            return found
        words = ['openstack', 'ami', 'verify', '--deep', '--against']
        words.append(str(self.local.name.absolute()))
        words += [*_options(self.local.choice), self.context.image.id]
        return dataclasses.replace(found, remedy=shlex.join(words))

    def _is_as_it_came(self, digest: image_data.Digest) -> bool:
        """Tell whether the AMI holds the very file that the user has.

        What is at ``local.path`` by now may be what was taken out of it.
        """
        image, local, saved = self.context.image, self.local, self.local.saved
        if local.choice.fix:
            return False
        if saved is None:
            if image.disk_format in PLAIN or not local.name.is_file():
                return False
            return self._holds(local.name, digest)
        if saved.size != image.size:
            return False
        if digest.algorithm == 'sha512':
            return digest.value == saved.sha512
        if local.name.is_dir():
            return self._holds(local.name / saved.file, digest)
        if not uec.is_tar(local.name):
            return self._holds(local.name.parent / saved.file, digest)
        # Once more, for what was unpacked may have been a disk image, of
        # which nothing is left but what was in it.
        made = self.directory / 'saved'
        made.mkdir()
        try:
            unpacked = uec.unpack(local.name, made, progress=self.progress)
            return unpacked is not None and self._holds(
                unpacked.paths['image'], digest
            )
        finally:
            shutil.rmtree(made)

    def _holds(self, path: pathlib.Path, digest: image_data.Digest) -> bool:
        payload = Payload.of(path)
        is_as_large = payload.size == self.context.image.size
        return is_as_large and self._has(payload, digest)

    def _candidates(self) -> Iterator[tuple[str, Payload]]:
        """Make what may have been sent, the cheapest first."""
        local = self.local
        root = probe.open_root(local.path)
        yield _SAME, Payload(local.path, root.size, state=root.state)
        blank = root.boot_sector
        size = root.superblock.size
        if blank or size != root.size:
            payload = Payload(local.path, size, blank, state=root.state)
            yield 'the filesystem of', payload
        if (
            self.context.image.disk_format not in PLAIN
            and self.fetched is None
        ):
            return
        plan = shrink.plan(
            shrink.ShrinkRequest(
                image=root,
                output=self.directory / 'shrunk',
                options=local.choice.options,
                durable=False,
            ),
            progress=self.progress,
        )
        shrunk = shrink.execute(plan, progress=self.progress)
        yield 'a shrunk copy of', Payload(shrunk.output, shrunk.size, blank)

    def _differing(self) -> Finding:
        disk_format = self.context.image.disk_format
        is_plain = disk_format in PLAIN
        title, local = self.context.title, self.local.title
        if self.fetched is None and not is_plain:
            message = f'{title} is {_article(disk_format)} {disk_format} '
            message += 'image, whose bytes depend on how it was packed: they '
            message += f'are not those of {local}, but what is in it may be '
            return self._undecided('not-comparable', f'{message}the same')
        message = f'{title} does not hold the bytes of {local}, '
        if self.fetched is None:
            message += 'shrunk as the options say or as it is'
            return self._undecided('differs', message)
        try:
            there = probe.open_root(self.fetched)
        except errors.SourceError:
            # Why, the look at the data has told.
            message += 'nor a filesystem whose files could be compared'
            rule = 'differs' if is_plain else 'not-comparable'
            return self.context.found(rule, Kind.AMI, message)
        here = probe.open_root(self.directory / 'shrunk')
        differences = compare.differences(there.path, here.path)
        if not differences:
            layout = _layout(there, here)
            return self._same(
                f'the same files as {local}, with the same content; {layout}'
            )
        count, some = len(differences), errors.some(differences)
        files = '1 file' if count == 1 else f'{count} files'
        message = f'{title} differs from {local} in {files}: {some}; what is '
        message += 'right has to be uploaded'
        return self.context.found('differs', Kind.AMI, message)


def _options(choice: resolve.Choice) -> Iterator[str]:
    """Write the options without which it would be another source."""
    if choice.partition is not None:
        yield from ('--partition', str(choice.partition))
    if choice.allow_backing_file:
        yield '--allow-backing-file'
    if choice.strip_components:
        yield from ('--strip-components', str(choice.strip_components))
    if choice.architecture is not None:
        yield from ('--architecture', choice.architecture)
    if choice.fix:
        yield '--fix'
    if choice.options.repair:
        yield '--repair'


def _article(noun: str | None) -> str:
    return 'an' if noun and noun[0] in 'aeiou' else 'a'


def _layout(there: RootImage, here: RootImage) -> str:
    """Say how two filesystems of the same files differ."""
    if there.size != here.size:
        return f'it has {there.size} bytes, a shrunk copy {here.size}'
    return 'only their places differ'
