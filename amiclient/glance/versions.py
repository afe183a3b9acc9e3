# SPDX-License-Identifier: Apache-2.0

"""Versions of an AMI: images of one family, or of one name.

Glance knows no versions, and the data of an image cannot be changed: each
version is an image of its own. A property says which family it belongs to.

The date is that of the standard for images of the Sovereign Cloud Stack
(scs-0102-v1, "Image build info"), which also recommends what is done with
versions that were replaced: to hide them, or to rename them by their dates.
For the rest, there is no standard: these properties are ours.
"""

from collections.abc import Iterable, Mapping
import datetime
import re
from typing import Any

from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import LINKS

FAMILY = 'ami_family'
VERSION = 'ami_version'

#: The hash of the file that the root filesystem was made of.
SOURCE = 'ami_source_sha512'

#: In UTC: a date, maybe with hours, minutes and seconds.
BUILT = 'image_build_date'

#: How it is written.
DATE = '%Y-%m-%d %H:%M:%S'


def built(image: ImageRecord) -> datetime.datetime | None:
    """Tell when an image was built, or else when it was created."""
    if written := image.properties.get(BUILT):
        try:
            found = datetime.datetime.fromisoformat(written)
            return found.replace(tzinfo=found.tzinfo or datetime.UTC)
        except ValueError:
            pass
    return image.created_at


def _parts(version: str) -> list[tuple[str, int]]:
    """Split a version for sorting: 1.9 comes before 1.10."""
    found = re.findall(r'(\D*)(\d{0,99})', version)
    return [(word, int(number or -1)) for word, number in found]


def newest_first(images: Iterable[ImageRecord]) -> list[ImageRecord]:
    """Sort versions by when they were built, and then created.

    Glance counts whole seconds, in which a small AMI is uploaded and
    replaced: then the version decides.
    """
    never = datetime.datetime.min.replace(tzinfo=datetime.UTC)

    def age(image: ImageRecord) -> tuple[Any, ...]:
        return (
            built(image) or never,
            image.created_at or never,
            _parts(image.properties.get(VERSION) or ''),
            image.id,
        )

    return sorted(images, key=age, reverse=True)


def family(
    catalog: client.Catalog, name: str, filters: Mapping[str, Any]
) -> list[ImageRecord]:
    """List the versions of a family, as :func:`listed` does."""
    return listed(catalog, {**filters, FAMILY: model.literal(name)})


def listed(
    catalog: client.Catalog, query: Mapping[str, Any]
) -> list[ImageRecord]:
    """List images that may be versions of an AMI, the newest first.

    :param query: Glance's parameters. Without ``os_hidden``, hidden images
        are listed, too.
    """
    hidden = (query['os_hidden'],) if 'os_hidden' in query else (False, True)
    return among(
        image
        for each in hidden
        for image in catalog.images(**{**query, 'os_hidden': each})
    )


def among(images: Iterable[ImageRecord]) -> list[ImageRecord]:
    """Choose those that may be versions of an AMI, the newest first."""
    parts = [kind.value for kind in LINKS]
    return newest_first(
        image
        for image in images
        # A snapshot of a server has its properties from the image.
        if image.disk_format not in parts and not image.is_snapshot
    )
