# SPDX-License-Identifier: Apache-2.0

"""What a project has, written as a declaration.

An image does not tell what it was made of: no AMI has a source, so that it is
changed when this is applied, but never uploaded.
"""

from collections.abc import Collection, Iterator
from typing import Any

import yaml

from amiclient import errors
from amiclient.glance.change import inventory
from amiclient.glance import model
from amiclient.glance.model import ImageRecord
from amiclient.glance import versions
from amiclient.source import manifest

#: Properties that have a key of their own, or that an upload sets.
_OWN = (versions.BUILT, versions.FAMILY, versions.SOURCE, versions.VERSION)

_HEAD = '# Written by "openstack ami export", for "openstack ami apply".\n'


class Export:
    """A declaration of what a project has.

    ``notes`` has what is not in it.

    :param there: the images of the project.
    :param names: of AMIs, or of their families; none for all.
    :raises NotFoundError: if there is none of a name.
    """

    def __init__(
        self, there: inventory.Inventory, names: Collection[str] = ()
    ) -> None:
        self._there = there
        self.notes: list[str] = []
        self._has_choice = len(there.catalog.stores() or ()) > 1
        found: dict[tuple[bool, str], list[ImageRecord]] = {}
        for image in there.amis:
            if key := inventory.key_of(image):
                found.setdefault(key, []).append(image)
        self._found = {
            key: images
            for key, images in found.items()
            if not names or {key[1], images[0].name} & {*names}
        }
        known = {key[1] for key in self._found}
        known |= {images[0].name or '' for images in self._found.values()}
        for name in names:
            if name not in known:
                raise errors.NotFoundError(
                    f'no AMI of this project has the name or the family '
                    f'{name!r}',
                    hint='see `openstack ami list`',
                )

    def lines(self) -> Iterator[str]:
        """Write it."""
        chosen: list[ImageRecord] = []
        for (_, title), images in sorted(self._found.items()):
            active = [i for i in images if i.status == 'active']
            chosen += active[:1]
            if not active:
                self.notes.append(f'left out {title!r}: it is deactivated')
            elif len(images) > 1:
                self.notes.append(
                    f'{title!r}: the newest of {len(images)} images is taken'
                )
        yield _HEAD
        marks = {i.properties.get(inventory.COLLECTION) for i in chosen}
        if len(marks) == 1 and (collection := marks.pop()):
            yield from _dumped({'collection': collection})
        if not chosen:
            yield 'amis: []\n'
            return
        yield 'amis:\n'
        for image in chosen:
            comments = {
                f'  {noun}: ': part and part.name
                for noun, part in self._parts(image).items()
            }
            for line in _dumped([self._entry(image)]):
                for begin, name in comments.items():
                    if name and line.startswith(begin):
                        line = f'{line[:-1]}  # {errors.shown(name)}\n'
                yield line

    def _parts(self, image: ImageRecord) -> dict[str, ImageRecord | None]:
        found = self._there.linked(image)
        return {'kernel': found.kernel, 'ramdisk': found.ramdisk}

    def _entry(self, image: ImageRecord) -> dict[str, Any]:
        properties = manifest.travelling(image.properties)
        family = properties.get(versions.FAMILY)
        members: Collection[str] = ()
        if image.visibility == 'shared':
            members = self._there.catalog.member_ids(image)
        formats = (*model.PLAIN, 'qcow2')
        known = {
            'name': image.name or family,
            'family': family,
            'version': properties.get(versions.VERSION),
            'kernel': image.kernel_id,
            'ramdisk': image.ramdisk_id,
            'no_kernel': not image.kernel_id,
            'format': image.disk_format
            if image.disk_format in formats
            else None,
            'min_disk': image.min_disk,
            'min_ram': image.min_ram,
            'properties': {
                key: value
                for key, value in properties.items()
                if key not in _OWN
            },
            'tags': sorted(image.tags),
            'visibility': image.visibility,
            'protected': image.protected,
            'hidden': image.hidden,
            'projects': sorted(members),
            'stores': list(image.stores) if self._has_choice else None,
        }
        return {key: value for key, value in known.items() if value}


def _dumped(value: Any) -> Iterator[str]:
    text: str = yaml.safe_dump(
        value, allow_unicode=True, sort_keys=False, width=float('inf')
    )
    yield from text.splitlines(keepends=True)
