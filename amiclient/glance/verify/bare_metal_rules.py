# SPDX-License-Identifier: Apache-2.0

"""What Ironic refuses, or would do with an image that is not what it seems.

The sources are those of :mod:`amiclient.glance.upload.bare_metal`.
"""

from collections.abc import Iterator

from amiclient.findings import Finding
from amiclient.glance.model import Kind
from amiclient.glance.model import LINKS
from amiclient.glance.model import OPEN
from amiclient.glance.verify.context import Context
from amiclient.glance.verify.context import setting

#: Those of roots that Ironic permits unless its configuration says otherwise.
_FORMATS = ('raw', 'qcow2')


def _format(context: Context) -> Iterator[Finding]:
    image = context.image
    if context.is_diskless or image.disk_format in _FORMATS:
        return
    message = f'{context.title} has the format {image.disk_format}: Ironic '
    message += 'deploys raw and qcow2 only, and refuses others after the node '
    message += 'has started'
    advice = 'upload it again with `openstack ami upload --for ironic SOURCE`'
    yield context.found('ironic-format', Kind.AMI, message, advice=advice)


def _links(context: Context) -> Iterator[Finding]:
    properties = context.image.properties
    lacking = [kind for kind, key in LINKS.items() if not properties.get(key)]
    is_whole = len(lacking) == len(LINKS) and not context.is_diskless
    for kind in lacking[:1] if is_whole else lacking:
        message = f'{context.title} links to no {kind.noun}: Ironic '
        message += (
            'takes it for the image of a whole disk, with a boot loader'
            if is_whole
            else 'boots no node with the ramdisk deploy interface then'
        )
        yield context.found(
            f'no-{kind.noun}',
            kind,
            message,
            severity='note' if is_whole else 'error',
            advice=f'if it is none, give it one with {context.relinking(kind)}'
            if is_whole
            else f'give it one with {context.relinking(kind)}',
        )


def _visibility(context: Context) -> Iterator[Finding]:
    for kind, image in context.images:
        if image.visibility in OPEN:
            continue
        is_shared = image.visibility == 'shared'
        message = f'{context.name(kind, image)} is {image.visibility}: Ironic '
        message += 'finds it only if its own project owns it'
        message += ', or is a member of it' if is_shared else ''
        yield context.found(
            'ironic-visibility',
            kind,
            message,
            setting(image, '--community'),
            # Nothing else boots; a partition image may be for administrators,
            # for whom Ironic reads all by default.
            severity='error' if context.is_diskless else 'warning',
            image=image,
        )


def whole_disk(context: Context) -> Iterator[Finding]:
    """Look at the links of what has partitions."""
    there = [
        f'--{kind.noun}'
        for kind, key in LINKS.items()
        if context.image.properties.get(key)
    ]
    if not context.for_metal or not there:
        return
    message = f'{context.title} is a disk with partitions, but links to a '
    message += 'kernel or a ramdisk: Ironic takes it for one partition'
    unset = ('openstack', 'ami', 'unset', *there, context.image.id)
    yield context.found('whole-disk', Kind.AMI, message, unset)


RULES = (_format, _links, _visibility)
