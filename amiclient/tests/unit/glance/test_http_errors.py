# SPDX-License-Identifier: Apache-2.0

"""What the libraries below raise, in one line that helps."""

import socket
import ssl
import threading
from typing import Any
import urllib.parse

import fixtures
from keystoneauth1 import exceptions as keystone_exceptions
from openstack import exceptions as sdk_exceptions
import requests
import urllib3

from amiclient.errors import CloudError
from amiclient.errors import NotFoundError
from amiclient.errors import SourceError
from amiclient.errors import UsageError
from amiclient.glance import http_errors
from amiclient.tests import base


_ENUM = "'x' is not one of ['y']"


def response(
    status: int, text: str = '', kind: str = 'text/html', **headers: str
) -> requests.Response:
    made = requests.Response()
    made.status_code = status
    made.reason = 'Reason'
    made.headers['Content-Type'] = kind
    made.headers.update(headers)
    made._content = text.encode()
    return made


class ExplainTest(base.TestCase):
    def test_every_form(self) -> None:
        for text, expected in (
            ('', 'Reason'),
            ('<html><body></body></html>', 'Reason'),
            ('No room.\n', 'No room'),
            ('<h1>413 Too Large</h1>No <b>room</b>.<br />', 'No room'),
            ('<style>b {\ncolor: red}</style>&quot;No&quot;', '"No"'),
            ('{"message": "No room<br /><br />\\n", "code": 1}', 'No room'),
            ('{"error": {"code": 413, "message": "No"}}', 'No'),
            ('{"title": "No"}', 'No'),
            ('{"oops": 1}', '{"oops": 1}'),
            ('[1]', '[1]'),
            (f'{_ENUM}\n\nFailed validating because of y', _ENUM),
            ('a < b\nc', 'a < b c'),
        ):
            self.assertEqual(
                expected, http_errors.explain(response(413, text))
            )

    def test_not_too_long(self) -> None:
        self.assertEqual(
            300, len(http_errors.explain(response(500, 'x' * 999)))
        )


class CheckTest(base.TestCase):
    def test_success(self) -> None:
        fine = response(204)
        self.assertIs(fine, http_errors.check(fine, 'trying'))

    def test_failures(self) -> None:
        for status, hint in (
            (302, 'the endpoint redirects to http://a/: correct it'),
            (400, None),
            (401, 'check the credentials; the token may have expired'),
            (403, http_errors.NO_ROLE),
            (409, None),
            (429, 'try again later'),
            (502, 'try again later, or tell the operator'),
        ):
            error = self.assertRaises(
                CloudError,
                http_errors.check,
                response(status, 'because', Location='http://a/'),
                'trying',
            )
            self.assertEqual(
                f'trying failed: because (HTTP {status})', error.message
            )
            self.assertEqual(hint, error.hint)
            self.assertNotIsInstance(error, NotFoundError)

    def test_protected(self) -> None:
        text = 'Image x is protected and cannot be deleted.'
        error = http_errors.from_response(
            response(403, text), 'deleting image x'
        )
        self.assertEqual('unprotect it first', error.hint)

    def test_public_needs_a_right(self) -> None:
        text = 'You are not authorized to complete publicize_image action.'
        error = http_errors.from_response(
            response(403, text), 'creating image x'
        )
        self.assertIn('--community does not need that permission', str(error))

    def test_request_id(self) -> None:
        for header, told in (
            ({'X-Openstack-Request-Id': 'req-1'}, ' (Request-ID: req-1)'),
            ({'x-compute-request-id': 'req-2'}, ' (Request-ID: req-2)'),
            ({'X-Openstack-Request-Id': 'a\x1b[1m b'}, ''),
            ({'X-Openstack-Request-Id': 'a' * 101}, ''),
        ):
            made = response(409, 'busy')
            made.headers.update(header)
            error = http_errors.from_response(made, 'trying')
            self.assertEqual(
                f'trying failed: busy (HTTP 409){told}', error.message
            )

    def test_spoken_to_without_tls(self) -> None:
        for text in (
            'The plain HTTP request was sent to HTTPS port',
            "You're speaking plain HTTP to an SSL-enabled server port.",
            'Client sent an HTTP request to an HTTPS server.',
        ):
            error = http_errors.from_response(response(400, text), 'trying')
            self.assertIn('it has to begin with https', str(error))

    def test_an_answer_of_a_proxy(self) -> None:
        self.useFixture(
            fixtures.EnvironmentVariable(
                'http_proxy', 'http://me:secret@squid:3128'
            )
        )
        for status, headers, told in (
            (407, {}, True),
            (503, {}, True),
            (404, {}, False),
            (503, {'X-Openstack-Request-Id': 'req-1'}, False),
        ):
            made = response(status, 'no')
            made.headers.update(headers)
            made.url = 'http://cloud:9292/v2/images'
            text = str(http_errors.from_response(made, 'trying'))
            self.assertEqual(told, 'proxy http://squid:3128: correct' in text)
            self.assertNotIn('secret', text)

    def test_not_found(self) -> None:
        self.assertRaises(
            NotFoundError, http_errors.check, response(404), 'trying'
        )


class TranslatedTest(base.TestCase):
    def translate(self, error: Exception) -> CloudError:
        def fail() -> None:
            with http_errors.translated('trying'):
                raise error

        translated = self.assertRaises(CloudError, fail)
        self.assertIs(error, translated.__cause__)
        self.assertNotIn('\n', str(translated))
        return translated

    def test_our_own_pass(self) -> None:
        for error in (SourceError('x'), KeyError('x')):

            def fail(error: Exception = error) -> None:
                with http_errors.translated('trying'):
                    raise error

            self.assertRaises(type(error), fail)

    def test_answers(self) -> None:
        for error in (
            sdk_exceptions.HttpException('x', response=response(413, 'full')),
            keystone_exceptions.HttpError('x', response=response(413, 'full')),
        ):
            translated = self.translate(error)
            self.assertEqual(
                'trying failed: full (HTTP 413)', translated.message
            )

    def test_no_credentials(self) -> None:
        translated = self.translate(
            keystone_exceptions.MissingRequiredOptions([])
        )
        self.assertIn('trying failed: Auth plugin requires', str(translated))

    def test_what_cannot_be_asked_for(self) -> None:
        """That is no fault of an answer."""

        def ask() -> None:
            with http_errors.understood('listing images'):
                urllib.parse.quote('a\udcff')

        error = self.assertRaises(UsageError, ask)
        self.assertIn("'a\\xff' has bytes that are not UTF-8", str(error))

    def test_no_text(self) -> None:
        self.assertEqual(
            'trying failed: SDKException',
            str(self.translate(sdk_exceptions.SDKException(''))),
        )


class ConnectionTest(base.TestCase):
    """With real sockets: how the libraries nest the cause is theirs."""

    def connect(self, url: str, **kwargs: Any) -> str:
        from keystoneauth1 import session

        def get() -> None:
            with http_errors.translated('trying'):
                session.Session().get(url, **kwargs)

        return str(self.assertRaises(CloudError, get))

    def bind(self) -> tuple[socket.socket, int]:
        """Have a port that nobody else gets, and nobody listens on yet."""
        bound = socket.socket()
        self.addCleanup(bound.close)
        bound.bind(('127.0.0.1', 0))
        return bound, bound.getsockname()[1]

    def test_refused(self) -> None:
        _bound, port = self.bind()
        self.assertEqual(
            f'trying failed: no connection to http://127.0.0.1:{port}: '
            'Connection refused; check the endpoint, the network, and that '
            'the cloud is up',
            self.connect(f'http://127.0.0.1:{port}/v2/images'),
        )

    def test_no_answer(self) -> None:
        listener, port = self.bind()
        listener.listen()
        self.assertIn(
            f'http://127.0.0.1:{port}: timed out',
            self.connect(f'http://127.0.0.1:{port}/', timeout=0.1),
        )

    def answering(self, answer: bytes) -> int:
        """Have somebody answer that, once, and hang up."""
        listener, port = self.bind()
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as wire:
                wire.recv(65536)
                wire.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)
        return port

    def test_somebody_who_speaks_tls(self) -> None:
        # A fatal alert (RFC 8446, section 6), or nothing.
        for answer in (b'\x15\x03\x01\0\2\2\x46', b''):
            port = self.answering(answer)
            self.assertIn(
                'if it speaks TLS, the endpoint has to begin with https',
                self.connect(f'http://127.0.0.1:{port}/'),
            )

    def through(self, proxy: str, url: str) -> str:
        scheme = url.partition(':')[0]
        for name, value in ((f'{scheme}_proxy', proxy), ('NO_PROXY', None)):
            self.useFixture(fixtures.EnvironmentVariable(name, value))
        return self.connect(url)

    def test_proxy(self) -> None:
        _bound, closed = self.bind()
        denied = self.answering(b'HTTP/1.1 403 Forbidden\r\n\r\n')
        for proxy, url, why in (
            (f'http://127.0.0.1:{closed}', 'http://c/', 'Connection refused'),
            (f'127.0.0.1:{closed}', 'https://c/', 'Connection refused'),
            (
                f'http://127.0.0.1:{denied}',
                'https://c/',
                'it answered 403 Forbidden',
            ),
            ('http://:1', 'http://c/', 'it is not a URL'),
        ):
            scheme, _, where = proxy.rpartition('//')
            self.assertEqual(
                f'trying failed: no connection to {url[:-1]} by the proxy '
                f'{scheme or "http:"}//{where}: {why}; correct the variable '
                f'{url.partition(":")[0]}_proxy, or name the host in no_proxy',
                self.through(proxy, url),
            )

    def test_unknown_host(self) -> None:
        unknown = socket.gaierror(-2, 'Name or service not known')
        error = urllib3.exceptions.NewConnectionError(
            urllib3.connection.HTTPConnection('nosuch.example'),
            f'Failed to resolve nosuch.example ({unknown})',
        )
        error.__cause__ = unknown
        outer = requests.exceptions.ConnectionError(
            urllib3.exceptions.MaxRetryError(
                urllib3.HTTPConnectionPool('nosuch.example'), '/', error
            )
        )
        self.assertIn('Name or service not known', http_errors.cause(outer))

    def test_certificate(self) -> None:
        error = requests.exceptions.SSLError(
            ssl.SSLCertVerificationError(
                1, 'certificate verify failed: self-signed certificate'
            )
        )
        outer = keystone_exceptions.SSLError('SSL exception')
        outer.__context__ = error
        translated = http_errors.from_exception(outer, 'trying')
        self.assertIn('self-signed certificate', translated.message)
        self.assertIn('--os-cacert', str(translated.hint))
