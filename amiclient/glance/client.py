# SPDX-License-Identifier: Apache-2.0

"""Look-ups and changes of image records.

The requests are made on openstacksdk's proxy, which knows the endpoint, the
token and the region, but the answers are taken as Glance gives them: the
proxy's own ``create_image`` adds properties nobody asked for, and its list
evaluates here what Glance can filter there.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
import http
import itertools
import logging
import re
import time
from typing import Any, TYPE_CHECKING

from amiclient.errors import CloudError
from amiclient.errors import NotFoundError
from amiclient.glance import answers
from amiclient.glance import candidates
from amiclient.glance import channel
from amiclient.glance import http_errors
from amiclient.glance import model

if TYPE_CHECKING:
    import requests

LOG = logging.getLogger(__name__)

_UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', re.IGNORECASE)

#: RFC 6902 within Glance: here ``add`` replaces what is there already.
_PATCH = {
    'Accept': 'application/json',
    'Content-Type': 'application/openstack-images-v2.1-json-patch',
}

#: Images in one answer. Glance's own default is 25, its limit 1000. More
#: are not quicker: Glance takes as long for each, and we wait for all.
_PAGE = 250

#: Images in one list, and how many times longer than any other answer all of
#: it may take: a cloud that is broken may have no end of them.
_MOST = 500_000
_PAGES = 10

#: Ids in one request: 40 bytes each in a URL, of which 8 KiB are safe.
_IDS = 100


class Catalog(channel.Channel):
    """The images of one cloud, as far as the user can see them."""

    def get(self, id: str) -> model.ImageRecord:
        """Get an image by its id.

        :raises NotFoundError: if there is none, or none that can be seen.
        :raises CloudError: if the cloud does not answer as it should.
        """
        doing = f'getting image {id}'
        return _record(self.send('GET', f'/images/{id}', doing), id, doing)

    def find(
        self,
        name_or_id: str,
        *,
        fits: Callable[[model.ImageRecord], bool] | None = None,
        strict: bool = False,
    ) -> model.ImageRecord:
        """Find an image by its id or, if no id is like that, by its name.

        Hidden images are found only if no other has the name.

        :param fits: tells images that may be meant; others are found only if
            none of these has the name.
        :param strict: whether hidden ones are looked at in any case.
        :raises NotFoundError: if there is none.
        :raises CloudError: if several have that name.
        """
        if _UUID.fullmatch(name_or_id):
            try:
                return self.get(name_or_id.lower())
            except NotFoundError:
                pass  # A UUID makes a poor name, but it can be one.
        found: list[model.ImageRecord] = []
        for hidden in (False, True):
            found += self.named(name_or_id, hidden=hidden)
            fitting = [i for i in found if fits is None or fits(i)]
            if fitting and not strict:
                break
        return candidates.only(fitting or found, name_or_id)

    def named(
        self, name: str, *, hidden: bool = False
    ) -> list[model.ImageRecord]:
        """List the images that have a name, to the letter.

        :raises CloudError: if the cloud does not answer as it should.
        """
        if not name:
            return []
        # With a colon in it, Glance takes what is before that for an operator
        # (glance.common.utils.split_filter_op); what comes after its own
        # operator may hold anything: colons, commas, quotes.
        wanted = f'eq:{name}' if ':' in name else name
        listed = self.images(name=wanted, os_hidden=hidden)
        # Some databases compare without regard to case and trailing spaces.
        return [image for image in listed if image.name == name]

    def images(
        self,
        *,
        limit: int | None = None,
        marker: str | None = None,
        page_size: int = _PAGE,
        **filters: str | bool | int | Collection[str],
    ) -> Iterator[model.ImageRecord]:
        """List images.

        :param limit: how many at most.
        :param marker: the id of the image after which to begin.
        :param page_size: how many to ask for at a time.
        :param filters: query parameters of ``GET /v2/images``, by Glance's
            names: ``visibility``, ``os_hidden``, ``tag`` (one or several),
            ``sort``, any property.
        :raises CloudError: if the cloud does not answer as it should.
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
    ) -> Iterator[model.ImageRecord]:
        doing, what = 'listing images', 'a list of images'
        markers, count, took = {marker}, 0, 0.0
        while True:
            if marker:
                params['marker'] = marker
            begin = time.monotonic()
            body = self.request('GET', '/images', what, doing, params=params)
            took += time.monotonic() - begin
            images = body.objects('images', 'an image')
            yield from map(model.ImageRecord.from_json, images)
            if not body.text('next') or not images:
                return
            marker = images[-1].id()
            if marker in markers:
                body.refuse(f'what comes after image {marker} comes again')
            markers.add(marker)
            count += len(images)
            if count > _MOST or took > _PAGES * self._patience.reply:
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
    ) -> dict[str, model.ImageRecord]:
        """Get several images, hidden and community ones too.

        :param hidden: whether to look among hidden ones, among others, or
            among both, which Glance has to be asked for one after the other
            (glance.api.v2.images: ``os_hidden`` is true or false).
        :returns: those that exist and can be seen, by their ids.
        :raises CloudError: if the cloud does not answer as it should.
        """
        found: dict[str, model.ImageRecord] = {}
        for are_hidden in hidden:
            missing = sorted({i for i in ids if _UUID.fullmatch(i)} - {*found})
            for start in range(0, len(missing), _IDS):
                some = missing[start : start + _IDS]
                listed = self.images(
                    id=f'in:{",".join(some)}',
                    visibility='all',
                    # Shared ones that were not accepted boot all the same.
                    member_status='all',
                    os_hidden=are_hidden,
                )
                found.update((i.id, i) for i in listed if i.id in some)
        return found

    def project(self) -> str | None:
        """Tell the id of the user's project; None if there is none."""
        with http_errors.understood('asking for the project'):
            return self._proxy.get_project_id()

    def newest_microversion(self, service: str) -> tuple[int, int] | None:
        """Tell how far another service of the same cloud has come.

        :param service: its type: ``compute``.
        :returns: the newest microversion that it speaks; None if there is no
            such service, or it does not answer, or does not tell.
        """
        proxy, session = self._proxy, self._proxy.session
        before = session.timeout
        try:
            # Unless it is given one, a session waits for ever.
            session.timeout = before or self._patience.stall
            with http_errors.understood(f'asking for the {service} service'):
                found = session.get_endpoint_data(
                    proxy.auth,
                    service_type=service,
                    interface=proxy.interface,
                    region_name=proxy.region_name,
                )
        except CloudError as error:
            LOG.debug('%s', error)
            return None
        finally:
            session.timeout = before
        newest = found and found.max_microversion
        return (int(newest[0]), int(newest[1])) if newest else None

    def roles(self) -> tuple[str, ...]:
        """Name the roles that the user has there.

        :returns: none if the way in which the user logged in does not tell.
        """
        session = self._proxy.session
        auth = self._proxy.auth or session.auth
        if auth is None or not hasattr(auth, 'get_access'):
            return ()
        with http_errors.understood('asking for the roles'):
            return tuple(auth.get_access(session).role_names or ())

    def create(self, new: model.NewImage) -> model.ImageRecord:
        """Create an image that has no data yet.

        :raises CloudError: if the cloud refuses.
        """
        body: dict[str, Any] = {
            **new.properties,
            'name': new.name,
            'disk_format': new.disk_format,
            'container_format': new.container_format,
            'min_disk': new.min_disk,
            'min_ram': new.min_ram,
            'tags': list(new.tags),
        }
        optional = {
            'id': new.id,
            'visibility': new.visibility,
            'protected': new.protected,
            'os_hidden': new.hidden,
            'owner': new.owner,
        }
        body.update((k, v) for k, v in optional.items() if v is not None)
        doing = f'creating image {new.name}'

        def attempt(number: int) -> model.ImageRecord:
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
            return _record(answer, new.id, doing)

        return self.repeat(attempt)

    def update(
        self,
        id: str,
        properties: Mapping[str, Any],
        *,
        present: Collection[str] | None = None,
    ) -> model.ImageRecord:
        """Change attributes and properties of an image.

        :param properties: new values, by Glance's names; None removes one.
        :param present: the properties that it has, to save looking.
        :raises NotFoundError: if there is no such image.
        :raises CloudError: if the cloud refuses.
        """
        # The answer to the first attempt may be all that was lost.
        return self.repeat(
            lambda number: self._update(
                id, properties, present if number == 1 else None
            )
        )

    def _update(
        self,
        id: str,
        properties: Mapping[str, Any],
        present: Collection[str] | None,
    ) -> model.ImageRecord:
        doing = f'changing image {id}'
        gone = {name for name, value in properties.items() if value is None}
        if gone:
            # To remove what is not there is a conflict.
            gone &= set(
                self.get(id).properties if present is None else present
            )
        changes = [
            {'op': 'add', 'path': _pointer(name), 'value': value}
            for name, value in properties.items()
            if value is not None
        ] + [{'op': 'remove', 'path': _pointer(name)} for name in sorted(gone)]
        if not changes:
            return self.get(id)
        answer = self.once(
            'PATCH', f'/images/{id}', doing, json=changes, headers=_PATCH
        )
        return _record(answer, id, doing)

    def delete(self, id: str) -> None:
        """Delete an image.

        :raises NotFoundError: if there is no such image.
        :raises CloudError: if the cloud refuses: it is protected, or in use.
        """

        def attempt(number: int) -> None:
            try:
                self.remove(f'/images/{id}', f'deleting image {id}')
            except NotFoundError:
                # Only the answer to the first was lost, then.
                if number == 1:
                    raise

        self.repeat(attempt)

    def schema(self) -> Mapping[str, Any]:
        """Get the JSON schema of images, which the operator may have changed.

        :raises CloudError: if the cloud does not answer as it should.
        """
        schema = self.request(
            'GET',
            '/schemas/image',
            'a schema',
            'asking for the schema of images',
        )
        schema.object('properties')
        return schema.members

    def usage(self) -> Mapping[str, Any]:
        """Tell what the project uses of its quotas.

        :returns: ``{name: {"usage": N, "limit": N}}``, as in
            ``GET /v2/info/usage``; nothing where there are no such quotas.
        :raises CloudError: if the cloud does not answer as it should.
        """
        try:
            body = self.request(
                'GET', '/info/usage', 'a list of quotas', 'asking for quotas'
            )
        except NotFoundError:
            # Glance has it since API 2.13.
            return {}
        return body.object('usage')

    def stores(self) -> tuple[str, ...] | None:
        """Tell where this cloud can keep data.

        :returns: the stores' ids, from ``GET /v2/info/stores``; None if the
            operator gives no choice.
        :raises CloudError: if the cloud does not answer as it should.
        """
        try:
            body = self.request(
                'GET', '/info/stores', 'a list of stores', 'asking for stores'
            )
        except NotFoundError:
            return None
        return tuple(
            store.word('id') for store in body.objects('stores', 'a store')
        )


def _record(
    answer: 'requests.Response', id: str | None, doing: str
) -> model.ImageRecord:
    """Read the image that an answer holds.

    :param id: which it has to be; None for any.
    :raises CloudError: if it holds none, or another one.
    """
    what = 'an image' if id is None else f'the image {id}'
    body = answers.read(answer, what, doing)
    record = model.ImageRecord.from_json(body)
    if id is not None and record.id.lower() != id.lower():
        body.refuse(f'it is {record.id}')
    return record


def _pointer(name: str) -> str:
    """Write a name as a JSON pointer (RFC 6901, section 3)."""
    return '/' + name.replace('~', '~0').replace('/', '~1')
