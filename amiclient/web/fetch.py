# SPDX-License-Identifier: Apache-2.0

"""What a user names by a URL, on its way here.

It comes by HTTPS, and nothing is opened before its hash is what the user, or
the vendor, says. Requests have nothing of the cloud's: no token, and no
certificate authority but those of ``requests``, which the variable
REQUESTS_CA_BUNDLE changes. Proxies are those of the environment, too.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import logging
import pathlib
import re
import time
from typing import Any
import urllib.parse

import requests
from requests import adapters

from amiclient import errors
from amiclient.glance import http_errors
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance import sessions
from amiclient.glance.transfer import image_data
from amiclient.glance.transfer import receive
from amiclient import interrupts
from amiclient.progress import Progress
from amiclient.progress import QUIET
from amiclient.progress import Task
from amiclient import scratch
from amiclient import staging
from amiclient import units
from amiclient.web import cache
from amiclient.web import checksums
from amiclient.web import signatures

LOG = logging.getLogger(__name__)

#: Seconds between two looks at whether another run has fetched the same.
_PAUSE = 1.0

#: Bytes of a name that are kept; NAME_MAX is 255.
_NAME = 120

_KEPT = 'run the command again to continue'
_LATER = 'try again; if it fails again, tell whoever runs the server'
_SERVER = receive.Sender(
    name='the server',
    wrong='check the hash: the file may have been replaced by another version',
    odd=_LATER,
    network='check the network',
    short=_LATER,
    whole=1,
)
_ADVICE = http_errors.Advice(
    tls='check the URL: this server may have no https',
    authority='if a certificate authority of your own has signed it, name its '
    'file with the variable REQUESTS_CA_BUNDLE',
    name='check the URL, and the DNS',
    answer='check the URL: this should be a small file',
    connection='check the URL, the network, and the variable https_proxy',
    time='check the network, and try again',
)
_HINTS = {
    401: 'this server wants a login: put it into ~/.netrc',
    403: 'this server does not give it to you; check the URL',
    404: 'check the URL: there may be a newer version',
    410: 'check the URL: there may be a newer version',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Remote:
    """A file on a server, and what proves that it is the right one.

    :param url: where it is. The other URLs may be relative to it.
    :param digest: its hash.
    :param checksum_url: a file with it, in place of that.
    :param signature_url: an OpenPGP signature of the file with the hashes; if
        there is none, of the file itself.
    :param keyring: the keys that may have signed it. Without a signature,
        that is in the file with the hashes.
    :param insecure: whether http is all right, and no hash.
    """

    url: str
    digest: image_data.Digest | None = None
    checksum_url: str | None = None
    signature_url: str | None = None
    keyring: pathlib.Path | None = None
    insecure: bool = False

    @property
    def path(self) -> str:
        """Where it is on its server."""
        return urllib.parse.unquote(urllib.parse.urlsplit(self.url).path)

    @property
    def name(self) -> str:
        """What to call the file."""
        last = self.path.rpartition('/')[2]
        base = re.sub(r'[^\w.+~-]', '_', last, flags=re.ASCII)
        return base.lstrip('.')[-_NAME:] or 'image'

    def check(self) -> None:
        """Check all that can be checked before anything is asked for.

        :raises UsageError: if it contradicts itself.
        """
        for url in (self.url, self.checksum_url, self.signature_url):
            if url is not None:
                self._check_url(url)
        if self.digest and self.checksum_url:
            raise errors.UsageError(
                'the hash is given twice',
                subject=shown(self.url),
                hint='give either --sha512, --sha256 or --checksum-url',
            )
        if not (self.digest or self.checksum_url or self.insecure):
            raise errors.UsageError(
                'nothing tells whether what is downloaded is right',
                subject=shown(self.url),
                hint='give its hash with --sha512, or --checksum-url; or, '
                'if you trust the server, --insecure-source',
            )
        if self.signature_url and not self.keyring:
            raise errors.UsageError(
                'a signature needs keys to verify it with',
                subject='--signature-url',
                hint='give --keyring FILE',
            )
        if self.keyring and not (self.signature_url or self.checksum_url):
            raise errors.UsageError(
                'there is no signature to verify',
                subject='--keyring',
                hint='give --signature-url, or --checksum-url with a file '
                'that is signed',
            )

    def _check_url(self, url: str) -> None:
        try:
            parts = urllib.parse.urlsplit(self.absolute(url))
            host, _ = parts.hostname, parts.port
            url.encode()
        except ValueError as error:
            raise errors.UsageError(
                f'{url} is not a URL: {error}', hint='check it'
            ) from error
        if parts.scheme == 'http' and not self.insecure:
            raise errors.UsageError(
                'anybody on the way can change what comes by http',
                subject=shown(self.absolute(url)),
                hint='use https; or, if you trust the network, '
                '--insecure-source',
            )
        if parts.scheme not in ('http', 'https') or not host:
            raise errors.UsageError(
                'this is not the https URL of a file',
                subject=shown(self.absolute(url)),
                hint='correct it, or download the file and give its name',
            )

    def absolute(self, url: str) -> str:
        """Complete a URL that is relative to that of the file."""
        return urllib.parse.urljoin(self.url, url)


def shown(url: str) -> str:
    """Write a URL without what may be a secret in it."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        return url
    host = parts.netloc.rpartition('@')[2]
    return f'{parts.scheme}://{host}{parts.path}'


@contextlib.contextmanager
def opened(
    remote: Remote,
    *,
    progress: Progress = QUIET,
    patience: retry.Patience | None = None,
) -> Iterator[pathlib.Path]:
    """Have a file here, verified, for as long as the block lasts.

    It is kept for the next run if its hash is known, and so is a part of it
    after a break or a Ctrl-C. What is kept is verified again each time.

    :returns: its path, with the name that it has on its server.
    :raises UsageError: as :meth:`Remote.check` does.
    :raises SourceError: if it is not what its hash or signature says.
    :raises CloudError: if the server does not give it.
    :raises NoSpaceError: if there is no room for it.
    """
    remote.check()
    patience = patience or retry.Patience()
    place = cache.directory()
    # Before it takes time.
    cache.limit()
    with contextlib.ExitStack() as stack:
        stack.callback(cache.trim, place)
        web = stack.enter_context(contextlib.closing(_Web(patience)))
        scratch.sweep(place)
        room = stack.enter_context(scratch.workshop(place))
        digest = remote.digest or _published(remote, web, room)
        if digest is None:
            path = room / remote.name
        else:
            path = stack.enter_context(cache.entry(place, digest, remote.name))
        _Fetch(remote, digest, web, place, progress).bring(path)
        if remote.keyring is not None and remote.checksum_url is None:
            _verify(remote, remote.keyring, web, path, room)
        with errors.renamed(path, shown(remote.url)):
            yield path


def _published(
    remote: Remote, web: '_Web', room: pathlib.Path
) -> image_data.Digest | None:
    """Get the hash that the vendor says, if there is a file with it."""
    if remote.checksum_url is None:
        return None
    url = remote.absolute(remote.checksum_url)
    path = room / 'checksums'
    path.write_bytes(web.small(url))
    if remote.keyring is not None:
        path = _verify(remote, remote.keyring, web, path, room)
    # Editors of Windows begin a file with a mark.
    text = path.read_text('utf-8-sig', 'replace')
    return checksums.find(text, remote.path, shown(url))


def _verify(
    remote: Remote,
    keyring: pathlib.Path,
    web: '_Web',
    path: pathlib.Path,
    room: pathlib.Path,
) -> pathlib.Path:
    """Verify the signature of what was downloaded.

    :returns: what was signed.
    """
    signature = None
    if remote.signature_url is not None:
        signature = web.small(remote.absolute(remote.signature_url))
    signed = remote.absolute(remote.checksum_url or '')
    return signatures.verify(
        path, signature, keyring, room=room, name=shown(signed)
    )


class _Web:
    """Makes requests."""

    def __init__(self, patience: retry.Patience) -> None:
        self.patience = patience
        self._session = requests.Session()
        for prefix in ('https://', 'http://'):
            self._session.mount(
                prefix, sessions.Adapter(adapters.HTTPAdapter())
            )
        self._session.hooks['response'].append(_stay_secure)

    def close(self) -> None:
        self._session.close()

    def get(self, url: str, **kwargs: Any) -> requests.Response:
        stall = self.patience.stall
        with sessions.within(stall + self.patience.reply):
            return self._session.get(url, timeout=(stall, stall), **kwargs)

    def small(self, url: str) -> bytes:
        """Fetch what fits into memory."""
        doing = f'downloading {shown(url)}'

        def work(_: int) -> bytes:
            with http_errors.translated(doing, _ADVICE):
                answer = self.get(url)
            if answer.status_code != requests.codes.ok:
                raise _refusal(answer, doing)
            return answer.content

        return retry.call(work, patience=self.patience)


def _stay_secure(response: requests.Response, *_: Any, **__: Any) -> None:
    """Refuse to be sent from https to anything else; a hook of requests'."""
    location = response.headers.get('Location')
    if not (response.is_redirect and location):
        return
    target = urllib.parse.urljoin(response.url, location)
    if _is_https(response.url) and not _is_https(target):
        raise errors.CloudError(
            f'{shown(response.url)} redirects to {shown(target)}, which is '
            'not https',
            hint='ask for another URL of it',
        )


def _is_https(url: str) -> bool:
    return url.lower().startswith('https:')


def _refusal(response: requests.Response, doing: str) -> errors.CloudError:
    status = response.status_code
    words = f'{response.reason} ' if response.reason else ''
    message = f'{doing} failed: {words}(HTTP {status})'
    if status in (404, 410):
        return errors.NotFoundError(
            message, hint=_HINTS[status], status=status
        )
    again = None
    if status in retry.TRANSIENT:
        again = retry.retry_after(response.headers)
    hint = _HINTS.get(status, 'check the URL, or try again later')
    return errors.CloudError(message, hint=hint, status=status, again=again)


class _WebSupply:
    """A file on a server."""

    #: Only an answer tells.
    size: int | None = None

    def __init__(
        self, url: str, digest: image_data.Digest | None, web: _Web
    ) -> None:
        self.name = shown(url)
        self.doing = f'downloading {self.name}'
        self.digest = digest
        self.sender = _SERVER
        if digest is not None:
            self.sender = dataclasses.replace(
                _SERVER, network=f'{_SERVER.network}; {_KEPT}'
            )
        self._url = url
        self._web = web
        #: What tells the version that came first from another one.
        self._version: str | None = None

    def ask(self, part: str | None) -> requests.Response:
        # As it lies there: its hash is that of the file.
        headers = {'Accept-Encoding': 'identity'}
        if part and self._version:
            headers |= {'Range': part, 'If-Range': self._version}
        elif part and self.digest:
            headers |= {'Range': part}
        with self.understood():
            answer = self._web.get(self._url, headers=headers, stream=True)
        # Some say so of what ends in .gz, and mean the file.
        answer.raw.headers.pop('Content-Encoding', None)
        answer.headers.pop('Content-Encoding', None)
        if answer.ok:
            self._version = _version(answer)
            self._check_length(answer)
        return answer

    def _check_length(self, answer: requests.Response) -> None:
        known = {'Content-Length', 'Transfer-Encoding'} & {*answer.headers}
        if not known and self.digest is None:
            raise errors.CloudError(
                f'{self.doing} failed: the server does not tell how large it '
                'is, so nothing would tell a part from the whole',
                hint='give its hash with --sha512',
            )

    def refusal(self, response: requests.Response) -> errors.CloudError:
        return _refusal(response, self.doing)

    def understood(self) -> contextlib.AbstractContextManager[None]:
        return http_errors.translated(self.doing, _ADVICE)


def _version(answer: requests.Response) -> str | None:
    """Find what ``If-Range`` takes (RFC 9110, section 13.1.5)."""
    tag = answer.headers.get('ETag', '')
    if tag.startswith('"'):
        return tag
    return None if tag else answer.headers.get('Last-Modified')


class _Fetch:
    """Brings one file here, unless it is here."""

    def __init__(
        self,
        remote: Remote,
        digest: image_data.Digest | None,
        web: _Web,
        place: pathlib.Path,
        progress: Progress,
    ) -> None:
        self._remote = remote
        self._digest = digest
        self._web = web
        self._place = place
        self._progress = progress

    def bring(self, path: pathlib.Path) -> None:
        told = False
        while not self._is_here(path):
            try:
                part = staging.Partial(path, 'download')
            except errors.BusyError:
                if not told:
                    LOG.warning(
                        'waiting for another process that downloads %s',
                        shown(self._remote.url),
                    )
                told = True
                time.sleep(_PAUSE)
                continue
            with (
                part,
                _said(part, self._digest),
                self._progress.task('Downloading') as task,
            ):
                self._receive(part, task)
            return

    def _is_here(self, path: pathlib.Path) -> bool:
        """Verify what an earlier run has kept."""
        if not path.is_file():
            return False
        if self._digest is None:
            return True
        found = image_data.digest(
            model.Payload.of(path),
            'Checking download',
            self._progress,
            algorithm=self._digest.algorithm,
        )
        if found == self._digest.value:
            return True
        LOG.warning('%s was changed: it is downloaded again', path)
        path.unlink(missing_ok=True)
        return False

    def _receive(self, part: staging.Partial, task: Task) -> None:
        supply = _WebSupply(self._remote.url, self._digest, self._web)
        patience = self._web.patience
        download = receive.Download(
            supply, part, task, retry.Clock(), patience
        )
        download.take_over(part)
        begun = False
        try:
            for _ in download.pieces():
                if not begun and download.size is not None:
                    self._make_room(part, download.size)
                begun = True
                if download.size is None and part.offset > cache.limit():
                    raise errors.TooLargeError(
                        f'{supply.name} has more than {cache.limit()} bytes, '
                        'and the server does not tell how many',
                        hint=f'if that is right, set {cache.SIZE}',
                    )
        except (
            errors.NotFoundError,
            errors.NoSpaceError,
            errors.TooLargeError,
        ):
            part.discard()
            raise
        part.finish()

    def _make_room(self, part: staging.Partial, size: int) -> None:
        missing = max(0, size - part.offset)
        cache.trim(self._place, missing)
        scratch.check_room(
            part.target.parent,
            missing,
            part.target.name,
            shown=self._place,
            hint='make room there, or choose another directory with '
            'XDG_CACHE_HOME',
        )


@contextlib.contextmanager
def _said(
    part: staging.Partial, digest: image_data.Digest | None
) -> Iterator[None]:
    """Say after a Ctrl-C that what came is of use."""
    try:
        yield
    except interrupts.Interrupted as error:
        if digest is not None and part.offset:
            size = units.format_size(part.offset)
            error.add_note(f'{size} of the download are kept: {_KEPT}')
        raise
