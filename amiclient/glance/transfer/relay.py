# SPDX-License-Identifier: Apache-2.0

"""The data of an image, on its way from one cloud to another.

It is sent as it comes, and no file has it. What a break interrupts goes on
where it was, within the same request to the other cloud: see
:class:`amiclient.glance.transfer.receive.Download`.
"""

from collections.abc import Iterator
import dataclasses
import threading
from typing import TYPE_CHECKING

from amiclient.glance import model
from amiclient.glance import retry
from amiclient.glance import sessions
from amiclient.glance.transfer import download
from amiclient.glance.transfer import receive
from amiclient.progress import QUIET

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy


@dataclasses.dataclass(frozen=True)
class Relay:
    """An image of a cloud, as what another is sent.

    :param cancel: when set, the work is given up.
    """

    proxy: '_proxy.Proxy'
    record: model.ImageRecord
    patience: retry.Patience
    cancel: threading.Event | None = None

    @property
    def size(self) -> int:
        """How many bytes there are.

        :raises CloudError: if the image is not active.
        """
        return download.check(self.record)

    def pieces(self) -> Iterator[bytes]:
        """Fetch it from the beginning.

        The last piece is kept back until all of it was compared with the hash
        that the cloud has: nobody takes what is wrong for complete.

        :raises TransferError: if it is not what the cloud says it has.
        :raises CloudError: if the cloud refuses.
        :raises CancelledError: if ``cancel`` was set meanwhile.
        """
        sessions.bound(self.proxy.session)
        clock = retry.Clock(cancel=self.cancel)
        last = b''
        # Whoever sends it tells how far it is.
        with QUIET.task('') as task:
            for piece in receive.Download(
                download.ImageSupply(self.proxy, self.record, self.patience),
                None,
                task,
                clock,
                self.patience,
            ).pieces():
                if piece and last:
                    yield last
                last = piece or last
        yield last
