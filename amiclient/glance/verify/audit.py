# SPDX-License-Identifier: Apache-2.0

"""Which AMIs have a package: what ``ami packages`` and ``ami audit`` tell.

The package databases are read where they lie, of several images at once.
"""

from collections.abc import Iterable
import dataclasses
from typing import TYPE_CHECKING

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance.transfer import ranges
from amiclient.glance.verify import deep
from amiclient import jobs
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient.rootfs import packages

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy

#: Images that are looked into at once.
_AT_ONCE = 4

#: Requests that may be made for one: its database may be in many pieces.
_REQUESTS = 4096


@dataclasses.dataclass(frozen=True)
class AuditRequest:
    """Where to look for what.

    :param amis: names or ids.
    :param all: whether to look into all that ``ami list`` lists, and hidden
        ones.
    """

    asked: tuple[packages.Asked, ...]
    amis: tuple[str, ...] = ()
    all: bool = False
    patience: retry.Patience = dataclasses.field(
        default_factory=retry.Patience
    )


@dataclasses.dataclass(frozen=True)
class Audited:
    """What an image has of a package.

    :param id: None if it is not one of the cloud.
    """

    id: str | None
    name: str | None
    verdict: packages.Verdict


def find(catalog: client.Catalog, name_or_id: str) -> model.ImageRecord:
    """Find an image that may be looked into; it need not be an AMI."""
    return catalog.find(
        name_or_id, fits=lambda each: each.may_be(model.Kind.AMI)
    )


def look(
    image: model.ImageRecord, proxy: '_proxy.Proxy', patience: retry.Patience
) -> packages.Installed:
    """Read which packages are in an image.

    :raises CloudError: if the cloud does not give parts of it.
    :raises SourceError: if there are none that can be read like that.
    """
    reading = ranges.Reading(proxy, patience, _REQUESTS, ranges.MANY)
    with reading.opened(image) as medium, errors.about(medium.name):
        whole, root = deep.root_in(image, medium)
        return packages.read(whole.files(root), medium.name)


def run(
    request: AuditRequest,
    proxy: '_proxy.Proxy',
    *,
    progress: Progress = QUIET,
) -> tuple[Audited, ...]:
    """Tell which AMIs have packages that somebody asks for.

    What cannot be looked into has the state ``unknown``, and a note.

    :raises CloudError: if there is no such image, or the cloud does not list
        them.
    """
    catalog = client.Catalog(proxy, patience=request.patience)
    images = [find(catalog, each) for each in request.amis]
    if request.all:
        images += [
            ami.image
            for hidden in (False, True)
            for ami in links.list_amis(catalog, {'os_hidden': hidden})
        ]

    def judge(image: model.ImageRecord) -> list[Audited]:
        verdicts: Iterable[packages.Verdict]
        try:
            found = look(image, proxy, request.patience)
        except (
            errors.CloudError,
            errors.ProgramError,
            errors.SourceError,
        ) as error:
            verdicts = [
                packages.Verdict(each.title, None, 'unknown', str(error))
                for each in request.asked
            ]
        else:
            verdicts = found.judge(request.asked)
        return [Audited(image.id, image.name, each) for each in verdicts]

    distinct = {image.id: image for image in images}.values()
    what = 'image' if len(distinct) == 1 else 'images'
    with progress.task(f'Looking into {len(distinct)} {what}'):
        done = jobs.spread(judge, distinct, at_once=_AT_ONCE)
    return ranked(row for rows in done for row in rows)


def ranked(found: Iterable[Audited]) -> tuple[Audited, ...]:
    """Put the worst first, and leave out what is said twice."""
    return tuple(
        sorted(
            dict.fromkeys(found),
            key=lambda each: (
                packages.STATES.index(each.verdict.state),
                each.name or '',
            ),
        )
    )
