# SPDX-License-Identifier: Apache-2.0

"""Other regions and clouds than the one that the user's options lead to."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import logging
import typing

from amiclient import errors
from amiclient.osc import command
from amiclient.osc import options

if typing.TYPE_CHECKING:
    from openstack import connection

    from amiclient.glance import places

LOG = logging.getLogger(__name__)

#: How many names are listed.
_LISTED = 20


def add(parser: options.Container, prefix: str, what: str) -> None:
    """Add ``--to-region`` and ``--to-cloud``, or the like.

    :param prefix: what their names begin with, such as ``to-``.
    :param what: what is done there, such as ``Copy the AMI to``.
    """
    for kind, where in (
        ('region', 'this region of the cloud'),
        ('cloud', 'this cloud of clouds.yaml'),
    ):
        options.add_several(
            parser,
            f'--{prefix}{kind} <{kind}>',
            f'{what} {where}',
            dest=f'{kind}s',
        )


@contextlib.contextmanager
def opened(
    base: command._Base,
    parsed_args: argparse.Namespace,
    *,
    source: places.CloudPlace | None = None,
    lost: list[str] | None = None,
) -> Iterator[tuple[places.CloudPlace, ...]]:
    """Log in to what :func:`add` names, for as long as the block lasts.

    :param source: what none of them may be; None if any will do.
    :param lost: gets the titles of those that do not answer, which are named
        on stderr; if it is None, one such is one too many.
    :raises UsageError: if there is none of that name, or two names are for
        the same.
    :raises CloudError: if one of them does not answer.
    """
    app = base.app
    refuse_unknown(base, parsed_args.regions, parsed_args.clouds)
    with contextlib.ExitStack() as stack:
        found: list[places.CloudPlace] = []
        for name in dict.fromkeys(parsed_args.regions):
            with _lost('region', name, lost):
                sdk = _region(app.client_manager.sdk_connection, name)
                found.append(_place('region', name, sdk))
        for name in dict.fromkeys(parsed_args.clouds):
            with _lost('cloud', name, lost):
                sdk = _cloud(app, name)
                stack.callback(_hang_up, sdk)
                found.append(_place('cloud', name, sdk))
        seen = {source.identity: 'where the AMI is already'} if source else {}
        for place in found:
            if place.identity in seen:
                raise errors.UsageError(
                    f'{place.title} is {seen[place.identity]}',
                    hint=f'name another {place.kind}',
                )
            seen[place.identity] = f'the same as {place.title}'
        yield tuple(found)


@contextlib.contextmanager
def _lost(kind: str, name: str, lost: list[str] | None) -> Iterator[None]:
    """Name what does not answer, in errors or as one of those that do not."""
    title = f'{kind} {name}'
    try:
        with errors.about_cloud(title):
            yield
    except errors.CloudError as error:
        if lost is None:
            raise
        # No traceback for users.
        LOG.error('%s', error)  # noqa: TRY400
        lost.append(title)


def refuse_unknown(
    base: command._Base, regions: Sequence[str], clouds: Sequence[str]
) -> None:
    """Refuse names of regions and clouds that there are none of.

    :raises UsageError: if there is one.
    """
    from amiclient.glance import places

    if regions:
        here = places.CloudPlace('', '', base.proxy())
        _refuse_unknown('region', regions, here.regions)
    if clouds:
        known = sorted(base.app.cloud_config.get_cloud_names())
        _refuse_unknown('cloud', clouds, known)


def _refuse_unknown(
    kind: str, names: Sequence[str], known: Sequence[str]
) -> None:
    for name in names:
        if name not in known:
            raise errors.UsageError(
                f'there is no {kind} {name}',
                hint=f'choose one of: {errors.some(known, _LISTED)}'
                if known
                else 'this kind of login tells of none',
            )


def _region(sdk: connection.Connection, name: str) -> connection.Connection:
    """Connect to another region, with the login that there is already."""
    from openstack.config import cloud_region
    from openstack import connection

    config = {**sdk.config.config, 'region_name': name}
    # That of the first one.
    config.pop('image_endpoint_override', None)
    region = cloud_region.CloudRegion(
        sdk.config.name, name, config, session=sdk.session
    )
    return connection.Connection(config=region)


def _cloud(app: typing.Any, name: str) -> connection.Connection:
    """Connect to another cloud, as clouds.yaml says.

    The options and variables of the user are for the first one.
    """
    from openstack import connection

    from amiclient.glance import http_errors

    with http_errors.understood('logging in'):
        config = app.cloud_config.get_one(cloud=name)
        # What it says itself goes before what is waited for the first one.
        limit = config.config.get('api_timeout') or app.options.api_timeout
        config.config['api_timeout'] = float(limit)
        return connection.Connection(config=config)


def _place(
    kind: str, name: str, sdk: connection.Connection
) -> places.CloudPlace:
    from amiclient.glance import places

    place = places.CloudPlace(kind, name, command.image_service(sdk))
    # What that asks for may fail, too.
    place.identity  # noqa: B018
    return place


def _hang_up(sdk: connection.Connection) -> None:
    sdk.close()
    sdk.session.session.close()
