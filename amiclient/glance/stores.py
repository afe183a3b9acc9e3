# SPDX-License-Identifier: Apache-2.0

"""Where a cloud keeps the data of images, and copies from one store to others.

Glance copies by itself (``copy-image``), but only for those who may: usually
administrators. Whoever asks is answered at once; the work is through when the
image has lost the property that names its task, whatever its status is. What
became of it, only its list of stores tells.
"""

from collections.abc import Collection, Iterator
import logging
import math
import time

from amiclient import errors
from amiclient.glance import answers
from amiclient.glance.client import Catalog
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import ImageStore

LOG = logging.getLogger(__name__)

#: Glance's name of the method.
COPY = 'copy-image'

#: The property that an image has while data is imported to it, or copied.
TASK = 'os_glance_import_task'

#: Stores that are still to be written, as text with commas.
_WRITING = 'os_glance_importing_to_stores'

#: Bytes that a store takes in a second, at least.
SLOWEST = 1 << 20

#: Seconds between two looks at what goes on, at most: somebody waits for it.
_SELDOM = 2.0

#: A role that Keystone has from the start; case does not matter.
ADMIN = 'admin'


def choose(
    catalog: Catalog, names: Collection[str], *, every: bool = False
) -> tuple[str, ...]:
    """Tell which stores are meant.

    :param names: ids that the user gave.
    :param every: whether all that can be written are meant.
    :returns: ids, each once; none if it is all the same.
    :raises CloudError: if one cannot be written.
    """
    if not names and not every:
        return ()
    option = '--store' if names else '--all-stores'
    known = catalog.stores()
    if known is None:
        raise errors.CloudError(
            'this cloud has no choice of stores', hint=f'leave out {option}'
        )
    writable = [store.id for store in known if not store.read_only]
    for problem in _problems(names, known):
        raise errors.CloudError(
            problem, hint=f'choose one of: {", ".join(writable)}'
        )
    if every:
        # The default first: there, data is looked for first.
        chosen = sorted(known, key=lambda store: not store.default)
        return tuple(store.id for store in chosen if store.id in writable)
    return tuple(dict.fromkeys(names))


def _problems(
    names: Collection[str], known: Collection[ImageStore]
) -> Iterator[str]:
    there = {store.id: store for store in known}
    for name in names:
        if name not in there:
            yield f'this cloud has no store {name!r}'
        elif there[name].read_only:
            yield f'the store {name!r} is read-only'


def lacking(image: ImageRecord, names: Collection[str]) -> tuple[str, ...]:
    """Tell which of some stores an image is not in."""
    return tuple(name for name in names if name not in image.stores)


def named(names: Collection[str]) -> str:
    """Name stores within a sentence."""
    some = 'stores' if len(names) > 1 else 'store'
    return f'{some} {", ".join(map(repr, names))}'


def may_copy(catalog: Catalog) -> bool:
    """Tell whether Glance is likely to copy images for this user.

    Glance tells no rights: this goes by its policies' defaults
    (``copy_image`` in glance/policies/image.py), which operators may change.
    """
    roles = {role.lower() for role in catalog.roles()}
    return ADMIN in roles and COPY in catalog.import_methods()


def copy(
    catalog: Catalog,
    image: ImageRecord,
    names: Collection[str],
    *,
    all_must_succeed: bool = True,
) -> tuple[str, ...]:
    """Have an image copied to stores, and wait for it.

    :param names: ids of stores; it may be in some of them.
    :param all_must_succeed: whether it has to be in all of them in the end,
        or in one at least.
    :returns: those that it is not in.
    :raises CloudError: if Glance refuses; then it has a status.
    :raises TransferError: if it could not be done.
    """
    # Another import may not be quite through.
    wanted = lacking(through(catalog, image.id), names)
    if not wanted:
        return ()
    catalog.import_data(
        image.id, COPY, wanted, all_must_succeed=all_must_succeed
    )
    try:
        failed = lacking(through(catalog, image.id), names)
    except errors.CloudError as error:
        raise errors.TransferError(error.message, hint=error.hint) from error
    if failed and (all_must_succeed or len(failed) == len(names)):
        raise errors.TransferError(
            f'Glance could not copy image {image.id} to the {named(failed)}',
            hint='Glance does not tell why: the operator finds it in the log',
        )
    return failed


def through(catalog: Catalog, id: str) -> ImageRecord:
    """Wait until an image is imported or copied no more.

    :returns: it as it is then.
    :raises TransferError: if there is no progress for too long.
    """
    pause, last, begin = catalog.patience.poll, '', time.monotonic()
    while True:
        image = catalog.get(id)
        if not image.properties.get(TASK) or _is_given_up(catalog, image):
            return image
        state = image.properties.get(_WRITING) or ''
        if state != last:
            last, begin = state, time.monotonic()
        patience = catalog.patience.settle + (image.size or 0) / SLOWEST
        waited = time.monotonic() - begin
        # Where the time is limited, a last look came at the limit.
        if waited > patience or not catalog.clock.left(1):
            raise errors.TransferError(
                f'image {id} was still being copied to the stores {state!r} '
                f'after {waited:.0f} s',
                hint='see `openstack image task list`; --timeout waits longer',
            )
        catalog.clock.sleep(pause)
        pause = min(pause * 2, catalog.patience.longest, _SELDOM)


def _is_given_up(catalog: Catalog, image: ImageRecord) -> bool:
    """Tell whether Glance will never be through with an image.

    If the data of ``glance-download`` gets to no store, what is to undo the
    import fails itself (base_download.py in glance/async_/flows): the image
    is ``queued``, as it is while data comes, and names its task for good.
    """
    if image.status != 'queued':
        return False
    doing = f'asking what became of image {image.id}'
    try:
        answer = catalog.once('GET', f'/images/{image.id}/tasks', doing)
        tasks = answers.read(answer, 'a list of tasks', doing)
        return any(
            task.text('id') == image.properties[TASK]
            and task.text('status') == 'failure'
            for task in tasks.objects('tasks', 'a task')
        )
    except errors.CloudError:
        # Then only time can tell.
        return False


def await_end(catalog: Catalog, image: ImageRecord) -> bool:
    """Wait until no store is being written, before something is deleted.

    What is written then would stay in the store for good.

    :param image: as it is now.
    :returns: whether there was something to wait for.
    :raises CloudError: if the cloud does not tell.
    """
    if not image.properties.get(TASK):
        return False
    LOG.warning(
        'waiting until the cloud has written image %s: if it were deleted '
        'before, its data would stay in the store',
        image.id,
    )
    try:
        through(catalog.within(math.inf), image.id)
    except errors.TransferError as error:
        # Glance itself may have been killed, and will never be done.
        LOG.warning('%s', error.sentence)
    return True
