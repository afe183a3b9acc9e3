# SPDX-License-Identifier: Apache-2.0

"""The data of an image, read where it lies.

A filesystem says where everything is: to read some of its files takes a few
parts of it. They come by ``Range`` (RFC 9110, section 14), where the cloud's
store can do so. There is no hash for a part, so what is read like this is
good for telling what is in an image, and for nothing that is kept.

What is in an image decides what is read of it, and may be anybody's: there is
a limit to the requests and the bytes.
"""

from collections.abc import Iterable, Iterator
import contextlib
import dataclasses
import http
import logging
import re
from typing import TYPE_CHECKING

import requests

from amiclient import errors
from amiclient.glance import http_errors
from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance import sessions
from amiclient.glance.transfer import download
from amiclient.glance.transfer import receive
from amiclient import sparse

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy

LOG = logging.getLogger(__name__)

#: Bytes that are asked for together: an inode and its neighbours, say.
_BLOCK = 64 << 10

#: Most blocks of one request, and blocks that are kept.
_TOGETHER = 32
_KEPT = 256

#: What may be asked for at most to look into an image, and to take a kernel
#: out of it.
REQUESTS = 512
BYTES = 16 << 20
MANY = 256 << 20

_CONTENT_RANGE = re.compile(r'bytes (\d+)-(\d+)/(\d+|\*)')


class NoRangesError(errors.CloudError):
    """The cloud cannot read a part of an image."""


class LimitError(errors.CloudError):
    """To look into an image takes more than it should."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How parts of images are read.

    :param requests: that may be made for one image.
    :param bytes: likewise.
    """

    proxy: '_proxy.Proxy'
    patience: retry.Patience
    requests: int = REQUESTS
    bytes: int = BYTES

    @contextlib.contextmanager
    def opened(self, record: model.ImageRecord) -> Iterator['RangeMedium']:
        """Open the data of an image, and log what was read of it.

        :raises CloudError: if it has none.
        """
        size = download.check(record)
        sessions.bound(self.proxy.session)
        medium = RangeMedium(self, record.id, size)
        try:
            yield medium
        finally:
            LOG.info(
                '%s: %d of %d bytes read, in %d requests',
                medium.name,
                medium.bytes,
                size,
                medium.requests,
            )


class RangeMedium:
    """A disk in the cloud, which the readers of disks can read.

    All methods raise :class:`CloudError` if it cannot be read.
    """

    def __init__(self, reading: Reading, id: str, size: int) -> None:
        self.name = f'image {id}'
        self.size = size
        #: What was asked for by now.
        self.requests = 0
        self.bytes = 0
        self._reading = reading
        self._id = id
        self._doing = f'reading parts of image {id}'
        #: The blocks that are kept, by number, the one used last at the end.
        self._blocks: dict[int, bytes] = {}
        #: The block after the last request, and the blocks of the next one if
        #: that goes on there.
        self._next = -1
        self._ahead = 1

    def read(self, offset: int, count: int) -> bytes:
        """Read bytes, fewer only at the end of the disk."""
        end = min(offset + count, self.size)
        pieces = []
        while offset < end:
            number, start = divmod(offset, _BLOCK)
            block = self._block(number, end)
            pieces.append(block[start : start + end - offset])
            offset += len(pieces[-1])
        return b''.join(pieces)

    def stream(
        self, runs: Iterable[sparse.Run]
    ) -> Iterator[tuple[int, bytes]]:
        """Read ranges of bytes, in pieces."""
        return sparse.pieces(self.read, self.size, runs)

    def _block(self, number: int, end: int) -> bytes:
        """Get a block.

        :param end: where the bytes end that are going to be read.
        """
        if number not in self._blocks:
            self._fetch(number, -(-end // _BLOCK))
        found = self._blocks.pop(number)
        self._blocks[number] = found
        return found

    def _fetch(self, first: int, end: int) -> None:
        self._ahead = 2 * self._ahead if first == self._next else 1
        self._ahead = min(max(self._ahead, end - first), _TOGETHER)
        # Nothing is fetched twice.
        end = next(
            number
            for number in range(first + 1, first + self._ahead + 1)
            if number in self._blocks or number == first + self._ahead
        )
        start, stop = first * _BLOCK, min(end * _BLOCK, self.size)
        data = retry.call(
            lambda _: self._get(start, stop), patience=self._reading.patience
        )
        for number in range(first, end):
            place = number * _BLOCK - start
            self._blocks[number] = data[place : place + _BLOCK]
        for number in list(self._blocks)[:-_KEPT]:
            del self._blocks[number]
        self._next = end

    def _get(self, start: int, end: int) -> bytes:
        reading = self._reading
        if (
            self.requests >= reading.requests
            or self.bytes + end - start > reading.bytes
        ):
            raise LimitError(
                f'{self._doing} was given up after {self.requests} requests '
                f'and {self.bytes} bytes: what is in it lies too far apart',
                hint='download it: openstack ami save, or openstack ami '
                'verify --deep',
            )
        self.requests += 1
        self.bytes += end - start
        data = bytearray()
        with (
            http_errors.understood(self._doing),
            contextlib.closing(
                receive.received(
                    lambda: download.ask(
                        reading.proxy,
                        self._id,
                        reading.patience,
                        f'bytes={start}-{end - 1}',
                    ),
                    retry.Clock(),
                    reading.patience.stall,
                )
            ) as pieces,
        ):
            self._check(next(pieces), start, end)
            for piece in pieces:
                data += piece
                if len(data) > end - start:
                    break
        if len(data) != end - start:
            raise self._odd(f'{len(data)} bytes, not {end - start}')
        return bytes(data)

    def _check(
        self, response: requests.Response, start: int, end: int
    ) -> None:
        """Make sure that what follows is what was asked for."""
        status = response.status_code
        if status == http.HTTPStatus.OK or status in receive.NO_RANGES:
            raise NoRangesError(
                f'{self._doing} failed: the store of this cloud gives whole '
                f'images only (HTTP {status})',
                status=status,
            )
        if status == http.HTTPStatus.GONE:
            failure = http_errors.from_response(response, self._doing)
            raise errors.NotFoundError(failure.message, status=status)
        if status >= 300:
            raise http_errors.from_response(response, self._doing)
        if status != http.HTTPStatus.PARTIAL_CONTENT:
            raise self._odd(f'no data (HTTP {status})')
        found = _CONTENT_RANGE.fullmatch(
            response.headers.get('Content-Range', '')
        )
        wanted = (str(start), str(end - 1))
        if (
            found is None
            or found.groups()[:2] != wanted
            or found[3] not in (str(self.size), '*')
            or response.headers.get('Content-Encoding', 'identity')
            != 'identity'
        ):
            raise self._odd('a part that was not asked for')

    def _odd(self, what: str) -> errors.TransferError:
        return errors.TransferError(
            f'{self._doing} failed: the cloud sent {what}',
            hint='try again; if it fails again, tell the operator',
            again=0.0,
        )
