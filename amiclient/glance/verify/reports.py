# SPDX-License-Identifier: Apache-2.0

"""AMIs with what was found about them, as far as their records tell."""

from collections.abc import Iterable, Iterator
import dataclasses
import http

from amiclient import errors
from amiclient import findings
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance.verify import context
from amiclient.glance.verify import health

#: Whom Glance's policies let change what belongs to others.
_ADMIN = 'admin'

#: Who may change nothing. What other roles may is up to the operator.
_READER = frozenset({'reader'})


@dataclasses.dataclass(frozen=True)
class Report:
    """One AMI, and what was found about it; None if nobody looked."""

    ami: links.Ami
    found: tuple[findings.Finding, ...] | None = None


def viewer(catalog: client.Catalog) -> context.Viewer:
    """Tell who asks."""
    roles = frozenset(catalog.roles())
    return context.Viewer(
        catalog.project(), admin=_ADMIN in roles, reader=roles == _READER
    )


def check(
    catalog: client.Catalog, ami: links.Ami
) -> tuple[findings.Finding, ...]:
    """Find what keeps an AMI from booting, and whom.

    :raises CloudError: if the cloud does not answer as it should.
    """
    return health.examine(gather(catalog, ami))


def gather(catalog: client.Catalog, ami: links.Ami) -> context.Case:
    """Find out what an AMI's records do not tell: whom it is shared with.

    :raises CloudError: if the cloud does not answer as it should.
    """
    known = context.Case(ami, {}, viewer(catalog))
    members = {}
    for image in _shared(known):
        found = _members(catalog, image, known.viewer)
        if found is not None:
            members[image.id] = found
    return context.Case(ami, members, known.viewer)


def _shared(case: context.Case) -> list[model.ImageRecord]:
    """Choose the images whose members make a difference."""
    limited = [i for _, i in case.images if i.visibility == 'shared']
    owners = {image.owner for _, image in case.images}
    if case.image.visibility in context.OPEN:
        return []
    if case.image.visibility == 'private' and len(owners) == 1:
        return []
    return limited


def _members(
    catalog: client.Catalog,
    image: model.ImageRecord,
    viewer: context.Viewer,
) -> frozenset[str] | None:
    """Tell whom an image is shared with; None if that cannot be seen."""
    if not viewer.owns(image):
        # Glance tells a member of itself alone.
        return None
    try:
        return catalog.member_ids(image)
    except errors.CloudError as error:
        if error.status != http.HTTPStatus.FORBIDDEN:
            raise
        return None


def report(catalog: client.Catalog, ami: links.Ami) -> Report:
    """Check one AMI as :func:`check` does."""
    return Report(ami, check(catalog, ami))


def reports(
    catalog: client.Catalog, amis: Iterable[links.Ami], *, check: bool
) -> Iterator[Report]:
    """Report on many AMIs, without asking for more than is known of them.

    Whether kernel and ramdisk are shared with the same projects takes a
    request for each, so that remains for a check of one.

    :param check: whether to look for anything that is wrong with them.
    """
    if not check:
        yield from map(Report, amis)
        return
    who = viewer(catalog)
    for ami in amis:
        case = context.Case(ami, viewer=who)
        yield Report(ami, health.examine(case))
