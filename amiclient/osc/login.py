# SPDX-License-Identifier: Apache-2.0

"""The first contact with a cloud, and what is said when it fails.

Keystone first, and then the image service, whose versions openstacksdk asks
for. Both libraries log or swallow what the user should know.
"""

from collections.abc import Iterator
import contextlib
import logging
import typing

from openstack import exceptions as sdk_exceptions

from amiclient.errors import CloudError
from amiclient.glance import http_errors
from amiclient.glance import retry
from amiclient.glance import sessions

if typing.TYPE_CHECKING:
    from openstack import connection
    from openstack.image.v2 import _proxy

#: Seconds that logging in may take at least: Keystone has to compute.
_SHORTEST = 5.0

#: These warn of what fails a moment later, and is told then.
_LOGGERS = (
    'keystoneauth.discover',
    'keystoneauth.identity.base',
    'keystoneauth.identity.generic.base',
)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what keystoneauth warns of; ``--debug`` shows the cause."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def limited(app: typing.Any, seconds: float | None) -> Iterator[None]:
    """Have no request wait for ever, not even those of the libraries.

    What clouds.yaml says (``api_timeout``) goes before our default.

    :param app: the shell, whose session is made in the block at the latest.
    :param seconds: what the user wants; None for no wish.
    """
    configured = app.cloud.config.get('api_timeout')
    wanted = max(float(seconds or configured or retry.TIMEOUT), _SHORTEST)
    # Where openstacksdk looks when it makes the session.
    app.options.api_timeout = str(wanted)
    app.cloud_config._session_constructor = sessions.create
    manager = app.client_manager
    # In an interactive shell, a command before may have made one.
    _set_timeout(manager, wanted)
    try:
        yield
    finally:
        del app.options.api_timeout
        _set_timeout(manager, configured and float(configured))


def _set_timeout(manager: typing.Any, seconds: float | None) -> None:
    connection_ = getattr(manager, 'sdk_connection', None)
    for session in (
        getattr(manager, 'session', None),
        getattr(connection_, 'session', None),
    ):
        if session is not None:
            sessions.bound(session).timeout = seconds


def image_service(sdk: 'connection.Connection') -> '_proxy.Proxy':
    """Find the image service, and say why if there is none.

    :raises CloudError: naming where it was looked for.
    """
    with http_errors.understood('asking for the image service'):
        try:
            with quiet():
                return typing.cast('_proxy.Proxy', sdk.image)
        except (
            sdk_exceptions.NotSupported,
            sdk_exceptions.ServiceDiscoveryException,
        ) as error:
            # The SDK keeps to itself where it looked, and what happened.
            where = sdk.config.get_endpoint('image')
            where = where or sdk.endpoint_for('image')
            _probe(sdk, where)
            raise CloudError(
                f'no image service answers at {where}',
                hint='check the endpoint, and that the service is up',
            ) from error


def _probe(sdk: 'connection.Connection', where: str | None) -> None:
    """Ask for what the SDK asked for, to learn what is wrong.

    :raises CloudError: unless the answer is a success.
    """
    if where is None:
        raise CloudError(
            'this cloud has no image service',
            hint='check the region, and the catalog: openstack catalog list',
        )
    doing = f'asking for the image service at {where}'
    with http_errors.translated(doing):
        answer = sdk.session.get(where, authenticated=False, raise_exc=False)
    # 300 is how a service with several versions lists them.
    if answer.status_code >= 400:
        raise http_errors.from_response(answer, doing)
