# SPDX-License-Identifier: Apache-2.0

"""Whose unfinished images are: the mark that an upload puts on them.

An image has the property ``amiclient_upload`` from when it is created until
the whole upload is complete. Its value tells which run of this program is at
work on it, so that another run can tell an image that is about to be filled
from one that a killed run left behind:

- A run on the same host, in the same namespace of process ids, and since the
  same boot: by its process. Number and time of start tell it from a later
  process that got the same number. The same host has the same machine id,
  name and boot id. Another boot id proves nothing: copies of a virtual
  machine, and containers, share all the rest.
- Any other, on another host or in another container, cannot be asked. It is
  taken for ended when Glance has not changed the image for long: for a day if
  it is ``queued``, for nothing is shrunk for so long; for a week if it is in
  any other state. And while a kernel is ``active``, its run may still be
  sending the root filesystem.

An image that is ``saving`` is left alone for the week in any case: Glance is
busy with a connection, and changes nothing until all data is there (100 GB at
1 MB/s take 28 hours). If nobody sends any more, Glance makes it ``queued``.
The same goes for one that is ``uploading`` and has no size yet. One that is
``importing`` is removed once Glance is through with it, or has given up: see
:mod:`amiclient.glance.transfer.imports`.

A run that is killed, or whose host loses power, cannot undo anything. What it
leaves in any of these states has no data, so nothing can be won by going on
with it, and to remove an image is something that two runs at once can do
without harm. An image of such a run that is ``active`` is complete: it is
reused by its content, if it is needed, and then loses the mark.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import datetime
import functools
import hashlib
import logging
import os
import pathlib
import platform
import re
from typing import Any
from typing import Self

from amiclient import errors
from amiclient.glance import client
from amiclient.glance import model
from amiclient.glance import stores
from amiclient.glance.upload import request

#: The property.
PROPERTY = 'amiclient_upload'

#: After this, a run that cannot be asked is taken for ended, if its image is
#: queued: nothing is shrunk for so long.
_LATE_QUEUED = datetime.timedelta(days=1)

#: The same for an image in any other state: nothing is sent for so long.
_LATE = datetime.timedelta(weeks=1)

#: A machine id that is one; "uninitialized" is none: machine-id(5).
_MACHINE = re.compile(r'[0-9a-f]{32}')

#: States of an image that is not complete.
_INCOMPLETE = ('queued', 'saving', 'uploading', 'importing')

#: States of a process that is no more: zombie, dead; proc(5).
_ENDED = ('Z', 'X')

_PROC = pathlib.Path('/proc')


@dataclasses.dataclass(frozen=True)
class UploadRun:
    """A process, among all those of all hosts.

    :param host: tells hosts apart, and says nothing else of them; empty if
        this one has no machine id.
    :param boot: tells apart when the host was booted.
    :param space: the namespace that ``pid`` is a number in.
    :param born: when it started, in ticks since the boot.
    """

    host: str
    boot: str
    space: str
    pid: int
    born: str

    @classmethod
    def this(cls) -> Self:
        """Describe the process that asks."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Self:
        """Describe a process here."""
        return cls(
            host=_host(),
            boot=_read(_PROC / 'sys/kernel/random/boot_id'),
            space=_space(),
            pid=pid,
            born=_status(pid)[1] or '0',
        )

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read a mark; None if it is none that this version writes."""
        words = dict(word.partition('=')[::2] for word in text.split())
        try:
            return cls(
                host=words['host'],
                boot=words['boot'],
                space=words['space'],
                pid=int(words['pid']),
                born=words['born'],
            )
        except (KeyError, ValueError):
            return None

    def __str__(self) -> str:
        return (
            f'host={self.host} boot={self.boot} space={self.space} '
            f'pid={self.pid} born={self.born}'
        )

    def ended(self, record: model.ImageRecord) -> bool:
        """Tell whether it is certain, or likely for long, that the run ended.

        :param record: an image of the run, as it is now.
        """
        changed = record.updated_at
        if self._is_here():
            if self._runs():
                return False
            if not _is_sent(record):
                return True
        now = datetime.datetime.now(datetime.UTC)
        late = _LATE_QUEUED if record.status == 'queued' else _LATE
        return changed is not None and changed + late < now

    def _is_here(self) -> bool:
        """Tell whether its process would be one of those that we see."""
        here = UploadRun.this()
        place = self.host, self.boot, self.space
        return all(place) and place == (here.host, here.boot, here.space)

    def _runs(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            # Somebody else's; who may not be shown when it was started.
            pass
        state, born = _status(self.pid)
        if state in _ENDED:
            # Killed, but its parent has not asked how it ended.
            return False
        return born is None or born == self.born


def _is_sent(record: model.ImageRecord) -> bool:
    """Tell whether Glance may be busy with a connection."""
    is_staged = record.status == 'uploading' and record.size is None
    return record.status == 'saving' or is_staged


def is_marked(record: model.ImageRecord) -> bool:
    """Tell whether an image has a mark, of whatever run."""
    return PROPERTY in record.properties


def is_alive(record: model.ImageRecord) -> bool:
    """Tell whether a run may still be at work on an image, or undo it."""
    return is_marked(record) and not is_left(record)


def is_left(record: model.ImageRecord) -> bool:
    """Tell whether a run that has ended left its mark on an image."""
    run = UploadRun.parse(str(record.properties.get(PROPERTY, '')))
    return run is not None and run.ended(record)


@functools.cache
def _host() -> str:
    """Make an id of this host that cannot be traced back to it.

    A machine id should not be told to others as it is: machine-id(5). Copies
    of a machine share it, so the name of the host is part of this, too.
    """
    for name in ('/etc/machine-id', '/var/lib/dbus/machine-id'):
        machine = _read(pathlib.Path(name))
        if _MACHINE.fullmatch(machine):
            break
    else:
        # Such as in a container: others may have the same name.
        return ''
    text = f'amiclient {machine} {platform.node()}'
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _space() -> str:
    try:
        # That of another namespace may be mounted, with other numbers.
        if os.readlink(_PROC / 'self') == str(os.getpid()):
            return str((_PROC / 'self/ns/pid').stat().st_ino)
    except OSError:
        pass
    return ''


def _status(pid: int) -> tuple[str | None, str | None]:
    """Tell the state of a process, and when it started: proc(5)."""
    text = _read(_PROC / str(pid) / 'stat')
    # The name of the program comes before, and may hold anything.
    fields = text.rpartition(')')[2].split()
    return (fields[0], fields[19]) if len(fields) > 19 else (None, None)


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(errors='replace').strip()
    except OSError:
        # Some containers have no such file; then less is certain.
        return ''


LOG = logging.getLogger(__name__)


def find(
    catalog: client.Catalog,
    settings: request.Settings,
    *,
    but: model.ImageRecord | None = None,
) -> tuple[model.ImageRecord, ...]:
    """Find images without data that nobody is going to send any more.

    They belong to the project that the new images will belong to.

    :param but: one that is made use of.
    """
    query: dict[str, Any] = {
        'status': f'in:{",".join(_INCOMPLETE)}',
        'os_hidden': settings.hidden,
    }
    project = settings.owner or catalog.project()
    if project is not None:
        query['owner'] = project
    listed = catalog.images(**query)
    return tuple(
        image
        for image in listed
        if _is_orphan(image) and (but is None or image.id != but.id)
    )


def warnings(orphans: Iterable[model.ImageRecord]) -> Iterator[str]:
    """Say what is going to be removed, in one line if there is any."""
    ids = [image.id for image in orphans]
    if ids:
        yield (
            'an upload that was killed left images without data; they are '
            f'removed first: {", ".join(ids)}'
        )


def remove(
    catalog: client.Catalog, orphans: Iterable[model.ImageRecord]
) -> None:
    """Remove what was found; say what could not be removed.

    Another run may be at it as well: may have removed it, or go on with it,
    which gives it a mark of that run. It may be minutes since it was found,
    so each is looked at again, right before. Glance has no request that does
    both at once.
    """
    for image in orphans:
        try:
            now = catalog.get(image.id)
            # An import goes on by itself; what it makes, nobody has verified.
            was_left = image.status == 'importing' and is_left(now)
            if was_left or _is_orphan(now):
                stores.await_end(catalog, now)
                catalog.delete(image.id)
            else:
                LOG.warning(
                    'image %s, which an upload that was killed left, was '
                    'changed in the meantime and is kept',
                    image.id,
                )
        except errors.NotFoundError:
            continue
        except errors.CloudError as error:
            LOG.warning(
                'an image that was left by a killed upload is kept: %s', error
            )


def _is_orphan(image: model.ImageRecord) -> bool:
    """Tell whether an image has no data, and nobody is going to send it."""
    return image.status in _INCOMPLETE and is_left(image)


def clear(
    catalog: client.Catalog, record: model.ImageRecord
) -> model.ImageRecord:
    """Take the mark off an image that a killed run completed, if need be."""
    if not is_left(record):
        return record
    try:
        return catalog.update(record.id, {PROPERTY: None}, present={PROPERTY})
    except errors.CloudError as error:
        # It may be another project's, and is of use as it is.
        LOG.debug('the mark stays on image %s: %s', record.id, error)
        return record
