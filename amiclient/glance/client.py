# SPDX-License-Identifier: Apache-2.0

"""Look-ups and changes of image records.

The requests are made on openstacksdk's proxy, which knows the endpoint, the
token and the region, but the answers are taken as Glance gives them: the
proxy's own ``create_image`` adds properties nobody asked for, and its list
evaluates here what Glance can filter there. The session below is told to
repeat nothing: here it is known what may be repeated, how often, and until
when.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import contextlib
from dataclasses import replace
import http
import itertools
import logging
import time
import types
from typing import Any, cast, Self, TYPE_CHECKING, TypeVar
import urllib.parse

from keystoneauth1 import adapter
from keystoneauth1 import exceptions

from amiclient import errors
from amiclient.errors import CloudError
from amiclient.errors import NotFoundError
from amiclient.glance import answers
from amiclient.glance import http_errors
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import ImageStore
from amiclient.glance.model import literal
from amiclient.glance.model import Member
from amiclient.glance.model import NewImage
from amiclient.glance.model import UUID
from amiclient.glance import retry
from amiclient.glance import sessions

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy
    import requests

LOG = logging.getLogger(__name__)

_T = TypeVar('_T')

#: Filters for what Glance leaves out of a list unless it is asked for. Shared
#: images that were not accepted boot all the same.
ALL: Mapping[str, Any] = types.MappingProxyType(
    {'visibility': 'all', 'member_status': 'all'}
)

#: Without it Glance writes its errors in HTML.
_HEADERS = {'Accept': 'application/json'}

#: RFC 6902 within Glance: here ``add`` replaces what is there already.
_PATCH = {
    **_HEADERS,
    'Content-Type': 'application/openstack-images-v2.1-json-patch',
}

#: Seconds for the cloud to accept a connection, at most.
_CONNECT = 30.0

#: Images in one answer. Glance's own default is 25, its limit 1000. More
#: are not quicker: Glance takes as long for each, and we wait for all.
_PAGE = 250

#: Images in one list, and how many times longer than any other answer all of
#: it may take: a cloud that is broken may have no end of them.
_MOST = 500_000
_PAGES = 10

#: Ids in one request: 40 bytes each in a URL, of which 8 KiB are safe.
_IDS = 100

#: So many images are listed when a name is ambiguous.
_LISTED = 5


class Catalog:
    """The images of one cloud, as far as the user can see them.

    All methods raise :class:`CloudError` if the cloud refuses, or does not
    answer as it should; for an image that is not there, or cannot be seen,
    :class:`NotFoundError`.

    :param proxy: openstacksdk's, for version 2 of the image service.
    :param patience: how often to try, and how long to wait; if None, the
        default, but the time-out that clouds.yaml may set (api_timeout).
    :param clock: says when to give up.
    """

    def __init__(
        self,
        proxy: '_proxy.Proxy',
        *,
        patience: retry.Patience | None = None,
        clock: retry.Clock | None = None,
    ) -> None:
        sessions.bound(proxy.session)
        self._proxy = proxy
        self._given = patience
        self.patience = patience or retry.Patience()
        self.clock = clock or retry.Clock()

    def within(self, seconds: float | None = None) -> Self:
        """Make another that gives up after some seconds; None for undoing."""
        limit = self.patience.undo if seconds is None else seconds
        clock = retry.Clock(seconds=limit)
        return type(self)(self._proxy, patience=self._given, clock=clock)

    def _repeat(self, work: Callable[[int], _T]) -> _T:
        return retry.call(work, patience=self.patience, clock=self.clock)

    def once(
        self, method: str, url: str, doing: str, **kwargs: Any
    ) -> 'requests.Response':
        """Make a request that must not, or need not, be repeated.

        :param url: below that of the image service.
        :param doing: what is tried, such as ``deleting image 8f0c``.
        :param kwargs: further ones of :meth:`requests.Session.request`.
        :returns: an answer that is a success.
        """
        kwargs.setdefault('headers', _HEADERS)
        # Unless it is given one, a session waits for ever.
        if self._given or self._proxy.session.timeout is None:
            kwargs.setdefault('timeout', self._timeout(doing))
        timeout = kwargs.get('timeout', self._proxy.session.timeout)
        # It may log in again meanwhile, or be sent somewhere else.
        whole = sum(timeout) if isinstance(timeout, tuple) else timeout
        whole = self.clock.left(whole or retry.TIMEOUT)
        with http_errors.understood(doing), sessions.within(whole):
            response = self._proxy.request(
                url,
                method,
                raise_exc=False,
                connect_retries=0,
                status_code_retries=0,
                hooks=sessions.HOOKS,
                **kwargs,
            )
        return http_errors.check(response, doing)

    def _timeout(self, doing: str) -> tuple[float, float]:
        connect = self.clock.left(min(_CONNECT, self.patience.stall))
        reply = self.clock.left(self.patience.reply)
        if not connect or not reply:
            raise CloudError(f'{doing} was not tried: there was no time left')
        return connect, reply

    def beside(self, service: str, **versions: Any) -> Self:
        """Make another that asks another service of the same region.

        It asks once only: that service is not what the user came for.
        """
        proxy = self._proxy
        place = (proxy.interface, proxy.region_name)
        other = adapter.Adapter(
            proxy.session, service, None, *place, auth=proxy.auth, **versions
        )
        patience = replace(self.patience, attempts=1)
        return type(self)(cast('_proxy.Proxy', other), patience=patience)

    def ask(
        self, url: str, what: str, doing: str, method: str = 'GET', **more: Any
    ) -> answers.Object:
        """Make a request that may be repeated as it is, for an object.

        :param url: below that of the service.
        :param what: that the answer has to be, such as ``an image``.
        """
        answer = self._repeat(lambda _: self.once(method, url, doing, **more))
        return answers.read(answer, what, doing)

    def _remove(self, url: str, doing: str, method: str = 'DELETE') -> None:
        answer = self.once(method, url, doing)
        if answer.status_code != http.HTTPStatus.NO_CONTENT:
            raise CloudError(
                f'{doing} failed: a proxy answered (HTTP '
                f'{answer.status_code}), not Glance',
                hint='ask the operator about the proxy in front of Glance',
            )

    def get(self, id: str) -> ImageRecord:
        """Get an image by its id."""
        body = self.ask(
            f'/images/{id}', f'the image {id}', f'getting image {id}'
        )
        return _record(body, id)

    def find(
        self,
        name_or_id: str,
        *,
        fits: Callable[[ImageRecord], bool] | None = None,
        strict: bool = False,
    ) -> ImageRecord:
        """Find an image by its id or name; a hidden one if no other has it.

        :param fits: tells images that may be meant; others are found only if
            none of these has the name.
        :param strict: whether hidden ones are looked at in any case.
        """
        if UUID.fullmatch(name_or_id):
            # It makes a poor name, but it can be one.
            with contextlib.suppress(NotFoundError):
                return self.get(name_or_id.lower())
        found: list[ImageRecord] = []
        for hidden in (False, True):
            found += self.named(name_or_id, hidden=hidden)
            fitting = [i for i in found if fits is None or fits(i)]
            if fitting and not strict:
                break
        return _only(fitting or found, name_or_id)

    def named(self, name: str, *, hidden: bool = False) -> list[ImageRecord]:
        """List the images that have a name, to the letter."""
        if not name:
            return []
        listed = self.images(name=literal(name), os_hidden=hidden)
        # Some databases compare without regard to case and trailing spaces.
        return [image for image in listed if image.name == name]

    def images(
        self,
        *,
        limit: int | None = None,
        marker: str | None = None,
        page_size: int = _PAGE,
        **filters: str | bool | int | Collection[str],
    ) -> Iterator[ImageRecord]:
        """List images.

        :param limit: how many at most.
        :param marker: the id of the image after which to begin.
        :param page_size: how many to ask for at a time.
        :param filters: query parameters of ``GET /v2/images``, by Glance's
            names: ``visibility``, ``os_hidden``, ``tag`` (one or several),
            ``sort``, any property.
        """
        params: dict[str, Any] = {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in filters.items()
        }
        params['limit'] = min(limit or page_size, page_size)
        listed = self._pages(params, marker)
        return itertools.islice(listed, limit)

    def _pages(
        self, params: dict[str, Any], marker: str | None
    ) -> Iterator[ImageRecord]:
        doing, what = 'listing images', 'a list of images'
        markers, count, took = {marker}, 0, 0.0
        while True:
            if marker:
                params['marker'] = marker
            begin = time.monotonic()
            body = self.ask('/images', what, doing, params=params)
            took += time.monotonic() - begin
            images = body.objects('images', 'an image')
            yield from map(ImageRecord.from_json, images)
            if not body.text('next') or not images:
                return
            marker = images[-1].id()
            if marker in markers:
                body.refuse(f'what comes after image {marker} comes again')
            markers.add(marker)
            count += len(images)
            if count > _MOST or took > _PAGES * self.patience.reply:
                raise CloudError(
                    f'{doing} failed: the list had no end after {count} '
                    f'images and {took:.0f} s',
                    hint='ask for fewer; a longer --timeout waits longer',
                )

    def get_many(
        self,
        ids: Collection[str],
        *,
        hidden: Collection[bool] = (False, True),
    ) -> dict[str, ImageRecord]:
        """Get several images, hidden and community ones too.

        :param hidden: whether to look among hidden ones, among others, or
            among both, which Glance has to be asked for one after the other
            (glance.api.v2.images: ``os_hidden`` is true or false).
        :returns: those that exist and can be seen, by their ids.
        """
        found: dict[str, ImageRecord] = {}
        for are_hidden in hidden:
            missing = sorted({i for i in ids if UUID.fullmatch(i)} - {*found})
            for start in range(0, len(missing), _IDS):
                some = missing[start : start + _IDS]
                listed = self.images(
                    id=f'in:{",".join(some)}', os_hidden=are_hidden, **ALL
                )
                found.update((i.id, i) for i in listed if i.id in some)
        return found

    def project(self) -> str | None:
        """Tell the id of the user's project; None if there is none."""
        with http_errors.understood('asking for the project'):
            return self._proxy.get_project_id()

    def newest_microversion(self, service: str) -> tuple[int, int] | None:
        """Tell the newest microversion of another service of the cloud.

        :returns: None if there is none, or it does not answer or tell.
        """
        doing = f'asking for the {service} service'
        waited = self._proxy.session.timeout or self.patience.stall
        try:
            with http_errors.understood(doing), sessions.within(waited):
                found = self.beside(service)._proxy.get_endpoint_data()
        except CloudError as error:
            LOG.debug('%s', error)
            return None
        newest = found and found.max_microversion
        return (int(newest[0]), int(newest[1])) if newest else None

    def endpoint(self, service: str) -> str | None:
        """Tell where Keystone's catalog has another service; None if not."""
        missing = contextlib.suppress(exceptions.EndpointNotFound)
        with http_errors.understood(f'looking for {service}'), missing:
            us = self._proxy.get_endpoint()  # Of all, without Keystone.
            found = self.beside(service)._proxy.get_endpoint()
            return None if found == us else found
        return None

    def roles(self) -> tuple[str, ...]:
        """Name the user's roles; none if the kind of login does not tell."""
        session = self._proxy.session
        auth = self._proxy.auth or session.auth
        if auth is None or not hasattr(auth, 'get_access'):
            return ()
        with http_errors.understood('asking for the roles'):
            return tuple(auth.get_access(session).role_names or ())

    def create(self, new: NewImage) -> ImageRecord:
        """Create an image that has no data yet."""
        body = new.to_json()
        doing = f'creating image {new.name}'

        def attempt(number: int) -> ImageRecord:
            try:
                answer = self.once('POST', '/images', doing, json=body)
            except CloudError as error:
                if new.id is None:
                    # There is no telling whether it was created.
                    error.again = None
                elif number > 1 and error.status == http.HTTPStatus.CONFLICT:
                    found = self.get(new.id)
                    if (found.name, found.status) == (new.name, 'queued'):
                        return found
                raise
            what = f'the image {new.id}' if new.id else 'an image'
            return _record(answers.read(answer, what, doing), new.id)

        return self._repeat(attempt)

    def update(
        self,
        id: str,
        properties: Mapping[str, Any],
        *,
        present: Collection[str] | None = None,
    ) -> ImageRecord:
        """Change attributes and properties of an image.

        :param properties: new values, by Glance's names; None removes one.
        :param present: the properties that it has, to save looking.
        """
        doing = f'changing image {id}'
        changes = [
            {'op': 'add', 'path': _pointer(name), 'value': value}
            for name, value in properties.items()
            if value is not None
        ]
        removed = {name for name, value in properties.items() if value is None}

        def attempt(number: int) -> ImageRecord:
            gone = removed
            if gone:
                # To remove what is not there is a conflict; and the answer to
                # the first attempt may be all that was lost.
                known = present if number == 1 else None
                if known is None:
                    known = self.get(id).properties
                gone = gone & {*known}
            patch = changes + [
                {'op': 'remove', 'path': _pointer(name)}
                for name in sorted(gone)
            ]
            if not patch:
                return self.get(id)
            answer = self.once(
                'PATCH', f'/images/{id}', doing, json=patch, headers=_PATCH
            )
            return _record(answers.read(answer, f'the image {id}', doing), id)

        return self._repeat(attempt)

    def delete(self, id: str) -> None:
        """Delete an image."""

        def attempt(number: int) -> None:
            try:
                self._remove(f'/images/{id}', f'deleting image {id}')
            except NotFoundError:
                # Only the answer to the first was lost, then.
                if number == 1:
                    raise

        self._repeat(attempt)

    def activate(self, id: str, how: str = 'reactivate') -> None:
        """Have the data of an image given again, or not: ``deactivate``."""
        url, doing = f'/images/{id}/actions/{how}', f'having image {id} {how}d'
        self._repeat(lambda _: self._remove(url, doing, 'POST'))

    def schema(self) -> Mapping[str, Any]:
        """Get the JSON schema of images, which operators may change."""
        doing = 'asking for the schema of images'
        schema = self.ask('/schemas/image', 'a schema', doing)
        schema.object('properties')
        return schema.members

    def usage(self) -> Mapping[str, Any]:
        """Tell what the project uses of its quotas.

        :returns: ``{name: {"usage": N, "limit": N}}``, as in
            ``GET /v2/info/usage``; nothing where there are no such quotas.
        """
        try:
            return self.ask(
                '/info/usage', 'a list of quotas', 'asking for quotas'
            ).object('usage')
        except NotFoundError:
            # Glance has it since API 2.13.
            return {}

    def stores(self) -> tuple[ImageStore, ...] | None:
        """Tell where this cloud can keep data.

        :returns: the stores of ``GET /v2/info/stores``; None if the operator
            gives no choice.
        """
        try:
            stores = self.ask(
                '/info/stores', 'a list of stores', 'asking for stores'
            ).objects('stores', 'a store')
        except NotFoundError:
            return None
        return tuple(
            ImageStore(
                store.word('id'),
                default=store.text('default') == 'true',
                read_only=store.text('read-only') == 'true',
            )
            for store in stores
        )

    def import_methods(self) -> tuple[str, ...]:
        """Tell how this cloud imports data, if it does."""
        try:
            body = self.ask(
                '/info/import', 'a list of methods', 'asking for import'
            )
            return body.within('import-methods').texts('value')
        except NotFoundError:
            # Glance has it since API 2.6.
            return ()

    def import_data(
        self,
        id: str,
        method: str,
        stores: Collection[str] = (),
        *,
        all_must_succeed: bool = True,
        **details: str,
    ) -> None:
        """Have data imported, which goes on after the answer.

        :param method: by Glance's name: ``copy-image``.
        :param stores: where to; none for the cloud's default.
        :param all_must_succeed: whether a store that fails ends it.
        :param details: what else the method needs: ``uri``.
        """
        doing = f'importing the data of image {id} by {method}'
        body: dict[str, Any] = {
            'method': {'name': method, **details},
            'all_stores_must_succeed': all_must_succeed,
        }
        if stores:  # An empty list stands for no store at all.
            body['stores'] = [*stores]

        def attempt(number: int) -> None:
            try:
                self.once('POST', f'/images/{id}/import', doing, json=body)
            except CloudError as error:
                # Only the answer to the first was lost, then.
                if number == 1 or error.status != http.HTTPStatus.CONFLICT:
                    raise

        self._repeat(attempt)

    def delete_copy(self, id: str, store: str) -> None:
        """Delete the data of an image in one store; it may be gone."""
        doing = f'deleting image {id} from the store {store!r}'
        url = f'/stores/{urllib.parse.quote(store, safe="")}/{id}'
        with contextlib.suppress(NotFoundError):
            self._repeat(lambda _: self._remove(url, doing))

    def members(self, image: ImageRecord) -> tuple[Member, ...]:
        """Tell whom an image is shared with.

        Glance lets only images of visibility ``shared`` have members, but
        remembers those of an image that is made private or public: they are
        back when it is shared again, and cannot be asked for until then.
        Another project's image tells only that it is shared with the user's.

        :returns: none, without a request, of an image that cannot have any.
        """
        if image.visibility != 'shared':
            return ()
        body = self.ask(
            f'/images/{image.id}/members',
            'a list of members',
            f'asking who shares image {image.id}',
        )
        return tuple(
            Member(member.word('member_id'), member.word('status'))
            for member in body.objects('members', 'a member')
        )

    def member_ids(self, image: ImageRecord) -> frozenset[str]:
        """Tell the ids of the projects that an image is shared with."""
        return frozenset(member.project for member in self.members(image))

    def add_member(self, id: str, project: str) -> None:
        """Share an image with a project; it may be shared with it already.

        :param project: its id, which Glance does not look up.
        """
        doing = f'sharing image {id} with {project}'
        url, body = f'/images/{id}/members', {'member': project}
        try:
            added = self.ask(url, 'a member', doing, 'POST', json=body)
        except CloudError as error:
            if error.status != http.HTTPStatus.CONFLICT:
                raise
        else:
            if added.word('member_id') != project:
                added.refuse('it is another project')

    def remove_member(self, id: str, project: str) -> None:
        """Share an image with a project no longer; it may not have been."""
        doing = f'sharing image {id} with {project} no longer'
        url = f'/images/{id}/members/{urllib.parse.quote(project, safe="")}'
        try:
            self._repeat(lambda _: self._remove(url, doing))
        except NotFoundError:
            # Then it is as it was to be, unless the image is gone.
            self.get(id)


def _only(found: Sequence[ImageRecord], name: str) -> ImageRecord:
    """Take the only image that has a name."""
    if not found:
        raise NotFoundError(
            f'no image has the name or id {name!r}',
            hint='see `openstack image list`; images of other projects must '
            'be shared with yours',
        )
    if len(found) > 1:
        some = [f'{each.id} ({", ".join(each.traits)})' for each in found]
        raise CloudError(
            f'{len(found)} images are named {name!r}: '
            f'{errors.some(some, _LISTED)}',
            hint='give the id of one',
        )
    return found[0]


def _record(body: answers.Object, id: str | None) -> ImageRecord:
    """Read an image that has to have an id; None for any."""
    record = ImageRecord.from_json(body)
    if id is not None and record.id.lower() != id.lower():
        body.refuse(f'it is {record.id}')
    return record


def _pointer(name: str) -> str:
    """Write a name as a JSON pointer (RFC 6901, section 3)."""
    return '/' + name.replace('~', '~0').replace('/', '~1')
