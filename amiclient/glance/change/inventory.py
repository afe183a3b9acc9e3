# SPDX-License-Identifier: Apache-2.0

"""What a project has of AMIs that are declared, and what these are made of.

Whether an AMI was made of the source as it is now is told by properties, so
that nothing of the source but its hash is needed: of a file, the SHA-512 that
all versions have; of anything else, what APPLIED says.
"""

from collections.abc import Mapping
import dataclasses
import json
import pathlib
from typing import Any

from amiclient import errors
from amiclient.glance.change import prune
from amiclient.glance import client
from amiclient.glance import declaration
from amiclient.glance.declaration import DeclaredAmi
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance.model import ImageRecord
from amiclient.glance import places
from amiclient.glance import retry
from amiclient.glance import signatures
from amiclient.glance.transfer import image_data
from amiclient.glance import versions
from amiclient.progress import Progress
from amiclient.source import bundle
from amiclient.source import directory
from amiclient.source import manifest
from amiclient.source import opening

#: The property with the name of the collection: only what has it is pruned.
COLLECTION = 'amiclient_collection'

#: The property with what was declared and cannot be told from the image: what
#: it is found by, which properties were set, and how the data was made. It is
#: an object in JSON.
APPLIED = 'amiclient_applied'


@dataclasses.dataclass(frozen=True)
class SourceState:
    """What tells a source from a changed one.

    :param sha512: of a file.
    :param other: anything else, with a word for what it is.
    """

    sha512: str | None = None
    other: str | None = None

    @classmethod
    def of(cls, ami: DeclaredAmi, progress: Progress) -> 'SourceState | None':
        """Look at the source of an AMI; None if there is none."""
        if ami.source is None:
            return None
        if ami.sha512 is not None:
            return cls(sha512=ami.sha512.lower())
        if ami.sha256 is not None:
            return cls(other=f'sha256:{ami.sha256.lower()}')
        path = pathlib.Path(ami.source)
        if opening.is_pipe(path):
            raise errors.UsageError(
                f'{ami.source} is a pipe, which cannot be looked at again',
                subject=ami.lines['source'],
                hint='name a file or a directory',
            )
        if bundle.is_saved(path):
            return cls(other=f'saved:{_sha512(path / manifest.NAME)}')
        if path.is_dir():
            return cls(other=f'files:{directory.fingerprint(path)}')
        return cls(sha512=_sha512(path, progress))


def _sha512(path: pathlib.Path, progress: Progress | None = None) -> str:
    if progress is None:
        return manifest.sha512(path)
    what = 'Hashing source'
    if path.is_block_device():
        return image_data.digest(model.Payload.of(path), what, progress)
    # This does not read holes.
    return manifest.sha512(
        path, wanted='a source', description=what, progress=progress
    )


def verify(ami: DeclaredAmi, progress: Progress) -> None:
    """Compare a file with the hash that was declared, before it is taken."""
    if ami.source is None or ami.is_web:
        return
    payload = model.Payload.of(pathlib.Path(ami.source))
    for algorithm in ('sha512', 'sha256'):
        given = getattr(ami, algorithm)
        if given is not None and given.lower() != image_data.digest(
            payload, 'Hashing source', progress, algorithm=algorithm
        ):
            raise errors.SourceError(
                f'the {algorithm} of {ami.source} is not {given[:16]}...',
                subject=ami.lines[algorithm],
                hint='get the file again, or change the hash',
            )


def applied(image: ImageRecord) -> Mapping[str, Any]:
    """Tell what was declared of an image, if it was."""
    try:
        found = json.loads(image.properties.get(APPLIED) or '{}')
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class Inventory:
    """All images of a project in one place, asked for once.

    :param place: the place.
    """

    def __init__(
        self, place: places.CloudPlace, patience: retry.Patience
    ) -> None:
        self.place = place
        self.catalog = place.catalog(patience)
        owner = self.catalog.project()
        query = {**client.ALL, **({'owner': owner} if owner else {})}
        images = [
            image
            for hidden in (False, True)
            for image in self.catalog.images(**query, os_hidden=hidden)
        ]
        self._known = {image.id: image for image in images}
        #: What may be a version of an AMI, the newest first.
        self.amis = prune.complete(versions.among(images))

    @property
    def title(self) -> str:
        """What to call the place; empty for where the user is."""
        return self.place.title if self.place.kind else ''

    def versions(self, ami: DeclaredAmi) -> list[ImageRecord]:
        """List what is there of an AMI, the newest first."""
        return [i for i in self.amis if key_of(i) == ami.key]

    def linked(self, image: ImageRecord) -> links.Ami:
        """Get what an image links to."""
        found = [
            self._known.get((link or '').lower())
            for link in (image.kernel_id, image.ramdisk_id)
        ]
        known = links.Ami(image, *found)
        if links.MISSING in (known.kernel_status, known.ramdisk_status):
            # It may be another project's, or new.
            return links.of(self.catalog, image)
        return known


def key_of(image: ImageRecord) -> tuple[bool, str] | None:
    """Tell what an AMI is declared by; None if it is none."""
    if family := image.properties.get(versions.FAMILY):
        return True, family
    if image.name and (image.kernel_id or image.disk_format == 'ami'):
        return False, image.name
    return None


def current(
    inventory: Inventory, ami: DeclaredAmi, state: SourceState | None
) -> ImageRecord | None:
    """Find the newest version that was made of the source as it is now."""
    for image in inventory.versions(ami):
        if image.status == 'active' and _is_of(image, inventory, ami, state):
            return image
    return None


def _is_of(
    image: ImageRecord,
    inventory: Inventory,
    ami: DeclaredAmi,
    state: SourceState | None,
) -> bool:
    if ami.format not in (None, 'auto', image.disk_format):
        return False
    if state is None:
        return True
    if ami.sign_cert_id and not _is_signed(image, ami.sign_cert_id):
        return False
    recorded = applied(image)
    if state.sha512 is not None:
        same = image.properties.get(versions.SOURCE) == state.sha512
    else:
        same = recorded.get('source') == state.other
    if recorded and same:
        made = {k: v for k, v in recorded.items() if k in declaration.MAKING}
        same = made == dict(ami.making)
    if not same or ami.no_kernel:
        return same and not image.kernel_id
    if ami.kernel is None and not image.kernel_id:
        return False
    there = inventory.linked(image)
    # A kernel that is declared can be linked again; one that came with the
    # source has to come again.
    return not (
        (ami.kernel is None and there.kernel_status == links.MISSING)
        or (ami.ramdisk is None and there.ramdisk_status == links.MISSING)
    )


def _is_signed(image: ImageRecord, given: str) -> bool:
    """Tell whether an image is signed with a certificate.

    :param given: its ID; or a file, which may be that of any certificate.
    """
    signature = signatures.Signature.of(image)
    if signature is None:
        return False
    id = given.rpartition('/')[2].lower()
    return not model.UUID.fullmatch(id) or id == signature.certificate.lower()
