# SPDX-License-Identifier: Apache-2.0

"""Which servers use an image, as far as Nova tells.

A server does not keep what it was made of. Nova fetches the image again to
rebuild it, and the kernel and the ramdisk for each host that has not cached
them; snapshots link to the same kernel. So what a server uses must not go.

A server tells its image, unless it boots from a volume. Its kernel and its
ramdisk, which may be others than those that the image links to by now, it
tells administrators only (``OS-EXT-SRV-ATTR:kernel_id``, microversion 2.3).
"""

from collections.abc import Iterable, Iterator, Mapping
import dataclasses
import http
from typing import Any

from amiclient import errors
from amiclient.glance import answers
from amiclient.glance import client
from amiclient.glance.model import Kind
from amiclient.glance import stores

#: Nova's names for filters of a list of servers; and those, in a list, of
#: what administrators see. Both are of one API version.
_FILTERS = {Kind.AMI: 'image', Kind.AKI: 'kernel_id', Kind.ARI: 'ramdisk_id'}
_LINKS = ('OS-EXT-SRV-ATTR:kernel_id', 'OS-EXT-SRV-ATTR:ramdisk_id')
_VERSION = '2.3'

#: Servers in one answer: with their user data, each may have 90 KB.
_PAGE = 200

#: Pages in one list. No cloud has so many servers.
_MOST = 5_000

#: Images of which an administrator asks for the servers one by one. For more,
#: it takes fewer requests to look at all servers.
_SINGLY = 4

#: So many servers are named; the rest is counted.
_NAMED = 3

#: What no longer works.
_LOST = 'cannot be rebuilt or evacuated any more'
_LOST_PARTS = (
    f'{_LOST}, their next snapshots do not boot, and unshelving or migrating '
    'them fails on hosts that have not cached the kernel'
)


@dataclasses.dataclass(frozen=True)
class Server:
    """A server, as Nova describes it.

    :param uses: the ids of its image, kernel and ramdisk, as far as told.
    :param is_clear: whether that is all that it uses.
    """

    id: str
    name: str
    uses: frozenset[str]
    is_clear: bool

    @property
    def title(self) -> str:
        """What to call it in a sentence, after a noun."""
        return f'{self.name!r} ({self.id})'


@dataclasses.dataclass(frozen=True)
class Usage:
    """Which servers use which images.

    :param servers: those that use one of the images that were asked for, and
        those that do not tell what they use.
    :param everywhere: whether servers of all projects were looked at.
    :param unknown: why Nova could not be asked, as a clause; None if it was.
    """

    servers: tuple[Server, ...] = ()
    everywhere: bool = False
    unknown: str | None = None

    def of(self, id: str) -> tuple[Server, ...]:
        """Tell which servers use an image."""
        return tuple(each for each in self.servers if id in each.uses)

    def gaps(self, *, parts: bool) -> Iterator[str]:
        """Say what could not be known, and what may not work any more.

        :param parts: whether kernels and ramdisks are deleted, too.
        """
        if self.unknown is not None:
            yield (
                'whether servers use what is deleted is not known '
                f'({self.unknown}): those that do {lost(parts=parts)}'
            )
        unclear = [each for each in self.servers if not each.is_clear]
        if parts and unclear:
            verb = (
                'boot from volumes' if unclear[1:] else 'boots from a volume'
            )
            yield (
                f'{named(unclear)} {verb}: whether a kernel or ramdisk that '
                'is deleted is needed for that cannot be seen'
            )


def lost(*, parts: bool) -> str:
    """Say what servers cannot do any more without their image.

    :param parts: whether its kernel and its ramdisk are gone as well.
    """
    return _LOST_PARTS if parts else _LOST


def named(servers: Iterable[Server]) -> str:
    """Name some servers, and count the rest."""
    titles = [each.title for each in servers]
    noun = 'servers' if titles[1:] else 'server'
    return f'the {noun} {errors.some(titles, _NAMED)}'


def find(catalog: client.Catalog, images: Mapping[str, Kind]) -> Usage:
    """Ask Nova which servers use some images.

    Administrators are told of the servers of all projects, others of those of
    their own. However many images there are, there are few requests.

    :param images: ids, and what they are within a triple.
    """
    if not images:
        return Usage(everywhere=True)
    compute = catalog.beside('compute', default_microversion=_VERSION)
    try:
        if stores.ADMIN in {role.lower() for role in catalog.roles()}:
            try:
                return Usage(_of_all(compute, images), everywhere=True)
            except errors.CloudError as error:
                if error.status != http.HTTPStatus.FORBIDDEN:
                    raise
        return Usage(_those(_listed(compute, {}), images))
    except errors.CloudError as error:
        return Usage(unknown=error.message)


def _of_all(
    compute: client.Catalog, images: Mapping[str, Kind]
) -> tuple[Server, ...]:
    queries: list[dict[str, Any]] = [{}]
    if len(images) <= _SINGLY:
        queries = [{_FILTERS[kind]: id} for id, kind in images.items()]
    found = {
        server.id: server
        for query in queries
        for server in _listed(compute, {'all_tenants': 1, **query})
    }
    return _those(found.values(), images)


def _those(
    servers: Iterable[Server], images: Mapping[str, Kind]
) -> tuple[Server, ...]:
    """Choose those that use some images, or may use them."""
    return tuple(
        each
        for each in servers
        if not each.is_clear or not each.uses.isdisjoint(images)
    )


def _listed(
    compute: client.Catalog, query: Mapping[str, Any]
) -> Iterator[Server]:
    params: dict[str, Any] = {**query, 'limit': _PAGE}
    markers: set[str] = set()
    doing, what = 'listing servers', 'a list of servers'
    while True:
        body = compute.ask('/servers/detail', what, doing, params=params)
        servers = body.objects('servers', 'a server')
        yield from map(_server, servers)
        if not servers or not body.objects('servers_links', 'a link'):
            return
        marker = params['marker'] = servers[-1].id()
        if marker in markers or len(markers) > _MOST:
            body.refuse('it has no end')
        markers.add(marker)


def _server(body: answers.Object) -> Server:
    # Of a server that boots from a volume, it is an empty text.
    image = body.members.get('image') or None
    if image is not None:
        image = answers.taken(image, 'an image', body.doing).id()
    links = [body.text(key) for key in _LINKS]
    return Server(
        id=body.id(),
        name=body.text('name') or '',
        uses=frozenset(id.lower() for id in (image, *links) if id),
        is_clear=image is not None or _LINKS[0] in body.members,
    )
