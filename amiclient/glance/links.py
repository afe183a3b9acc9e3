#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""AMIs as they are in the cloud: images with what they link to."""

from collections.abc import Collection, Iterator, Mapping
import dataclasses
import itertools
from typing import Any

from amiclient import exceptions
from amiclient.glance import catalog as catalog_
from amiclient.glance import model

#: The status of an image that an AMI links to, but that is not there: it was
#: deleted, or belongs to somebody who does not share it.
MISSING = 'missing'


@dataclasses.dataclass(frozen=True)
class Ami:
    """An image, with its kernel and its ramdisk.

    :param kernel: None if it links to none, or to one that is not there.
    """

    image: model.ImageRecord
    kernel: model.ImageRecord | None = None
    ramdisk: model.ImageRecord | None = None

    @property
    def kernel_status(self) -> str | None:
        """What state the kernel is in; None if there is no link to one."""
        return _status(self.image.kernel_id, self.kernel)

    @property
    def ramdisk_status(self) -> str | None:
        """What state the ramdisk is in; None if there is no link to one."""
        return _status(self.image.ramdisk_id, self.ramdisk)


def _status(link: str | None, found: model.ImageRecord | None) -> str | None:
    if link is None:
        return None
    return MISSING if found is None else found.status


def show(catalog: catalog_.Catalog, name_or_id: str) -> Ami:
    """Get one AMI with what it links to.

    :raises NotFoundError: if there is no such image.
    :raises CloudError: if it is no AMI.
    """
    image = catalog.find(name_or_id)
    if image.kernel_id is None and image.disk_format != model.Kind.AMI.value:
        raise exceptions.CloudError(
            f'the image {image.name!r} ({image.id}) is no AMI: it links to no '
            'kernel',
            hint=f'see `openstack image show {image.id}`',
        )
    return next(_resolve(catalog, [image]))


def listed(
    catalog: catalog_.Catalog,
    filters: Mapping[str, Any],
    *,
    limit: int | None = None,
    marker: str | None = None,
    resolve: bool = False,
) -> Iterator[Ami]:
    """List AMIs: the images that link to a kernel, whatever their format.

    :param filters: query parameters of Glance's.
    :param limit: how many AMIs at most.
    :param marker: id of the image to begin after.
    :param resolve: whether kernels and ramdisks are looked up as well.
    """
    # Glance cannot be asked for images that have a property of any value.
    found = (
        image
        for image in catalog.images(marker=marker, **filters)
        if image.kernel_id is not None
    )
    chosen = itertools.islice(found, limit)
    if resolve:
        return _resolve(catalog, list(chosen))
    return (Ami(image) for image in chosen)


def _resolve(
    catalog: catalog_.Catalog, images: Collection[model.ImageRecord]
) -> Iterator[Ami]:
    links = {i.kernel_id for i in images} | {i.ramdisk_id for i in images}
    found = catalog.get_many({link for link in links if link})
    for image in images:
        yield Ami(
            image,
            found.get(image.kernel_id or ''),
            found.get(image.ramdisk_id or ''),
        )
