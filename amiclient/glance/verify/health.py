# SPDX-License-Identifier: Apache-2.0

"""Whether an AMI boots, and for whom: what its records in the cloud tell.

Nova fetches kernel and ramdisk as the user who boots, by the ids that the
image's properties hold; where it cannot, it says that an image was not found,
and not which one. Each function here finds one cause of that, or of another
failure that the records alone foretell. Nothing is asked here and nothing is
changed: who wants to know more gathers more, and passes it in a
:class:`amiclient.glance.verify.context.Case`.
"""

from collections.abc import Callable, Iterator

from amiclient import findings
from amiclient.glance import model
from amiclient.glance.verify import accessrules
from amiclient.glance.verify import context
from amiclient.glance.verify import rules

#: Rules, and so what ``--ignore`` takes.
RULES = frozenset(
    {
        'architecture',
        'bad-link',
        'command-line',
        'dangling',
        'deactivated',
        'foreign-owner',
        'hidden',
        'less-visible',
        'members-differ',
        'min-disk',
        'no-hash',
        'no-kernel',
        'no-ramdisk',
        'no-size',
        'not-active',
        'swapped',
        'unprotected',
        'wrong-format',
    }
)

#: Formats of a file that is as large as the disk that the guest sees.
_PLAIN = ('ami', 'raw')

_GIB = 2**30


def examine(case: context.Case) -> tuple[findings.Finding, ...]:
    """Apply all rules.

    :returns: what was found, the worst first.
    """
    return findings.ranked(
        finding for rule in _CHECKS for finding in rule(case)
    )


def _architecture(case: context.Case) -> Iterator[findings.Finding]:
    wanted = case.image.properties.get('architecture')
    for kind, part in case.parts:
        own = part.properties.get('architecture')
        if not model.architectures_differ(wanted, own):
            continue
        yield context.found(
            case,
            'error',
            'architecture',
            f'{context.name(kind, part)} is for {own}, the AMI says {wanted}: '
            'Nova chooses the host by the latter',
            context.setting(case.image, '--property', f'architecture={own}'),
            kind=kind,
        )


def _no_size(case: context.Case) -> Iterator[findings.Finding]:
    for kind, image in case.images:
        # A snapshot of a server that boots from a volume has no data.
        is_volume = 'block_device_mapping' in image.properties
        if image.status != 'active' or image.size or is_volume:
            continue
        none = image.size is None
        what = 'tells no size' if none else 'has no data'
        yield context.found(
            case,
            'warning' if none else 'error',
            'no-size',
            f'{context.name(kind, image)} is active, but {what}',
            kind=kind,
            advice=context.renewal(case, kind),
        )


def _no_hash(case: context.Case) -> Iterator[findings.Finding]:
    for kind, image in case.images:
        is_volume = 'block_device_mapping' in image.properties
        if image.status != 'active' or image.hash_value or is_volume:
            continue
        yield context.found(
            case,
            # Older than Glance's choice of hashes, but it can be compared.
            'note' if image.checksum else 'warning',
            'no-hash',
            f'{context.name(kind, image)} has no hash '
            + ('but an MD5 checksum' if image.checksum else 'of any kind')
            + ', so its data cannot be trusted to be whole; Glance computes '
            'a hash only when data is uploaded',
            kind=kind,
            advice=context.renewal(case, kind),
        )


def _min_disk(case: context.Case) -> Iterator[findings.Finding]:
    image = case.image
    size = image.virtual_size
    if not size and image.disk_format in _PLAIN:
        size = image.size
    needed = -(-(size or 0) // _GIB)
    if image.min_disk < needed:
        yield context.found(
            case,
            'warning',
            'min-disk',
            f'{case.title} takes a disk of {needed} GiB, '
            f'its min_disk is {image.min_disk}: with a smaller flavor the '
            'server fails late, and without saying why',
            context.setting(image, '--min-disk', str(needed)),
            kind=model.Kind.AMI,
        )


def _command_line(case: context.Case) -> Iterator[findings.Finding]:
    line = case.image.properties.get(model.COMMAND_LINE)
    if not line or model.has_root(line):
        return
    whole = model.with_root(line, case.image.properties.get('hw_disk_bus'))
    yield context.found(
        case,
        'error',
        'command-line',
        f'{case.title} has an os_command_line without '
        "root=: it replaces all of Nova's own, and the kernel finds no root "
        'filesystem',
        context.setting(case.image, '--property', f'os_command_line={whole}'),
        kind=model.Kind.AMI,
    )


_CHECKS: tuple[Callable[[context.Case], Iterator[findings.Finding]], ...] = (
    *rules.CHECKS,
    _architecture,
    _command_line,
    _no_size,
    _no_hash,
    _min_disk,
    *accessrules.CHECKS,
)
