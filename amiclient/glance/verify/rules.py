# SPDX-License-Identifier: Apache-2.0

"""Rules about links: do they lead to a kernel and a ramdisk that are there.

See :mod:`amiclient.glance.verify.health`.
"""

from collections.abc import Iterator
import re

from amiclient import findings
from amiclient.glance import model
from amiclient.glance.verify import context

#: As Nova passes it on to Glance, which compares it letter by letter.
_UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', re.IGNORECASE)

_STATES = {
    'queued': 'its data never arrived',
    'saving': 'its data is still on its way, or the upload broke off',
    'uploading': 'its data waits to be imported, or the import broke off',
    'importing': 'its data is still being imported, or the import broke off',
}


def _links(case: context.Case) -> Iterator[tuple[model.Kind, str, object]]:
    """Name the property and the value of each link, whatever it holds."""
    for kind, key in (
        (model.Kind.AKI, 'kernel_id'),
        (model.Kind.ARI, 'ramdisk_id'),
    ):
        yield kind, key, case.image.properties.get(key)


def _no_link(case: context.Case) -> Iterator[findings.Finding]:
    kernel, ramdisk = (value is not None for _, _, value in _links(case))
    if not kernel:
        what = 'a ramdisk, but to no kernel' if ramdisk else 'no kernel'
        yield context.found(
            case,
            'error',
            'no-kernel',
            f'{case.title} links to {what}: Nova looks for a boot loader in '
            'it',
            kind=model.Kind.AKI,
            advice='give the AMI one with '
            + context.relinking(case, model.Kind.AKI),
        )
    elif not ramdisk:
        yield context.found(
            case,
            'note',
            'no-ramdisk',
            f'{case.title} links to no ramdisk: it '
            'boots if the drivers for its root filesystem are built into '
            'the kernel, and needs no remedy then',
            kind=model.Kind.ARI,
        )


def _bad_link(case: context.Case) -> Iterator[findings.Finding]:
    for kind, key, value in _links(case):
        if value is None or _UUID.fullmatch(str(value)):
            continue
        message = (
            f'{case.title} has {value!r} for {key}, '
            'which is not the id of an image: Nova refuses to boot it'
        )
        unset = 'openstack', 'image', 'unset', '--property', key, case.image.id
        yield context.found(
            case,
            'error',
            'bad-link',
            message,
            *([unset] if kind is model.Kind.ARI else []),
            kind=kind,
            advice=_another(case, kind),
        )


def _dangling(case: context.Case) -> Iterator[findings.Finding]:
    there = {kind for kind, _ in case.parts}
    for kind, _, value in _links(case):
        if kind in there or not _UUID.fullmatch(str(value)):
            continue
        unset = 'openstack', 'ami', 'unset', '--ramdisk', case.image.id
        is_ours = case.viewer.owns(case.image)
        if case.viewer.admin:
            why = 'was deleted'
        elif is_ours:
            why = (
                'was deleted, or belongs to a project that does not share it '
                'any more'
            )
        else:
            why = (
                'was deleted, or is not shared with you, which only project '
                f'{case.image.owner} can tell'
            )
        yield context.found(
            case,
            'error',
            'dangling',
            f'The {kind.noun} {value} that the AMI links to {why}',
            *([unset] if is_ours and kind is model.Kind.ARI else []),
            kind=kind,
            # To others it says already who knows more.
            advice=_another(case, kind) if is_ours else None,
        )


def _another(case: context.Case, kind: model.Kind) -> str:
    """Tell what to do about a link that leads nowhere."""
    advice = context.renewal(case, kind)
    if kind is model.Kind.ARI:
        advice += ', or link to none if the kernel needs none'
    return advice


def _not_active(case: context.Case) -> Iterator[findings.Finding]:
    for kind, image in case.images:
        if image.status in ('active', 'deactivated'):
            continue
        why = _STATES.get(image.status, 'its data is not to be had')
        yield context.found(
            case,
            'error',
            'not-active',
            f'{context.name(kind, image)} is {image.status}: {why}',
            kind=kind,
            advice=context.renewal(case, kind),
        )


def _deactivated(case: context.Case) -> Iterator[findings.Finding]:
    for kind, image in case.images:
        if image.status == 'deactivated':
            yield context.found(
                case,
                'error',
                'deactivated',
                f'{context.name(kind, image)} is deactivated: nobody but an '
                'administrator can read its data',
                context.setting(image, '--activate'),
                kind=kind,
                image=image,
            )


def _is_swapped(case: context.Case) -> bool:
    kernel, ramdisk = case.ami.kernel, case.ami.ramdisk
    return (
        kernel is not None
        and ramdisk is not None
        and (kernel.disk_format, ramdisk.disk_format) == ('ari', 'aki')
    )


def _swapped(case: context.Case) -> Iterator[findings.Finding]:
    if _is_swapped(case):
        yield context.found(
            case,
            'error',
            'swapped',
            f'{case.title} links to a ramdisk as its '
            'kernel and to a kernel as its ramdisk',
            context.setting(
                case.image,
                *('--property', f'kernel_id={case.image.ramdisk_id}'),
                *('--property', f'ramdisk_id={case.image.kernel_id}'),
            ),
            kind=model.Kind.AMI,
        )


def _wrong_format(case: context.Case) -> Iterator[findings.Finding]:
    if _is_swapped(case):
        return
    for kind, part in case.parts:
        if part.disk_format == kind.value:
            continue
        # Nova does not look at it; but these say what they are.
        is_other = part.disk_format in [other.value for other in model.Kind]
        what = (
            'it may be a sound one of those'
            if is_other
            else 'a format cannot be changed once there is data'
        )
        yield context.found(
            case,
            'error' if is_other else 'warning',
            'wrong-format',
            f'{context.name(kind, part)} has the format {part.disk_format}, a '
            f'{kind.noun} has {kind.value}: {what}',
            kind=kind,
            advice=context.renewal(case, kind),
        )


CHECKS = (
    _no_link,
    _bad_link,
    _dangling,
    _not_active,
    _deactivated,
    _swapped,
    _wrong_format,
)
