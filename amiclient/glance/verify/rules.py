# SPDX-License-Identifier: Apache-2.0

"""Whether an AMI boots, and for whom: what its records in the cloud tell.

Nova fetches kernel and ramdisk as the user who boots, by the ids that the
image's properties hold; where it cannot, it says that an image was not found,
and not which one. Each rule here finds one cause of that, or of another
failure that the records alone foretell. Rules ask nothing and change nothing:
who wants to know more gathers more, and passes it in a
:class:`amiclient.glance.verify.context.Context`.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import http

from amiclient import errors
from amiclient import findings
from amiclient.findings import Finding
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance.model import ImageRecord
from amiclient.glance.model import Kind
from amiclient.glance.model import LINKS
from amiclient.glance.model import OPEN
from amiclient.glance.model import UUID
from amiclient.glance import stores
from amiclient.glance.verify import bare_metal_rules
from amiclient.glance.verify.context import Context
from amiclient.glance.verify.context import setting
from amiclient.glance.verify.context import Viewer
from amiclient.glance.verify import signature_rules
from amiclient import units

_STATES = {
    'queued': 'its data never arrived',
    'saving': 'its data is still on its way, or the upload broke off',
    'uploading': 'its data waits to be imported, or the import broke off',
    'importing': 'its data is still being imported, or the import broke off',
}

#: Whom Glance's policies let change what belongs to others.
_ADMIN = 'admin'

#: Who may change nothing. What other roles may is up to the operator.
_READER = frozenset({'reader'})


def _no_link(context: Context) -> Iterator[Finding]:
    values = map(context.image.properties.get, LINKS.values())
    kernel, ramdisk = (value is not None for value in values)
    if not kernel:
        what = 'a ramdisk, but to no kernel' if ramdisk else 'no kernel'
        message = f'{context.title} links to {what}: Nova looks for a boot '
        message += 'loader in it'
        advice = f'give the AMI one with {context.relinking(Kind.AKI)}'
        yield context.found('no-kernel', Kind.AKI, message, advice=advice)
    elif not ramdisk:
        message = f'{context.title} links to no ramdisk: it boots if the '
        message += 'drivers for its root filesystem are built into the '
        message += 'kernel, and needs no remedy then'
        yield context.found('no-ramdisk', Kind.ARI, message)


def _bad_link(context: Context) -> Iterator[Finding]:
    ami = context.image.id
    for kind, key in LINKS.items():
        value = context.image.properties.get(key)
        if value is None or UUID.fullmatch(str(value)):
            yield from _upper_case(context, kind, key, value)
            continue
        unset = 'openstack', 'image', 'unset', '--property', key, ami
        yield context.found(
            'bad-link',
            kind,
            f'{context.title} has {value!r} for {key}, which is not the id of '
            'an image: no server boots it',
            *([unset] if kind is Kind.ARI else []),
            advice=_another(context, kind),
        )


def _upper_case(
    context: Context, kind: Kind, key: str, value: object
) -> Iterator[Finding]:
    text = str(value)
    if value is None or text == text.lower():
        return
    yield context.found(
        'bad-link',
        kind,
        f'{context.title} has {text!r} for {key}, in upper case: Glance has '
        'no such image',
        setting(context.image, '--property', f'{key}={text.lower()}'),
    )


def _dangling(context: Context) -> Iterator[Finding]:
    there = {kind for kind, _ in context.ami.parts}
    is_ours = context.viewer.owns(context.image)
    if context.viewer.admin:
        why = 'was deleted'
    elif is_ours:
        why = 'was deleted, or belongs to a project that does not share it any'
        why += ' more'
    else:
        why = 'was deleted, or is not shared with you, which only project '
        why += f'{context.image.owner} can tell'
    unset = 'openstack', 'ami', 'unset', '--ramdisk', context.image.id
    for kind, key in LINKS.items():
        value = context.image.properties.get(key)
        text = str(value)
        if kind not in there and UUID.fullmatch(text) and text == text.lower():
            yield context.found(
                'dangling',
                kind,
                f'The {kind.noun} {value} that the AMI links to {why}',
                *([unset] if is_ours and kind is Kind.ARI else []),
                # To others it says already who knows more.
                advice=_another(context, kind) if is_ours else None,
            )


def _another(context: Context, kind: Kind) -> str:
    """Tell what to do about a link that leads nowhere."""
    advice = context.renewal(kind)
    if kind is Kind.ARI:
        advice += ', or link to none if the kernel needs none'
    return advice


def _not_active(context: Context) -> Iterator[Finding]:
    for kind, image in context.images:
        name = context.name(kind, image)
        if image.status == 'deactivated':
            message = f'{name} is deactivated: only an administrator can read '
            message += 'its data'
            command = setting(image, '--activate')
            yield context.found(
                'deactivated', kind, message, command, image=image
            )
        elif image.status != 'active' and image.is_snapshot:
            message = (
                f'{name} is {image.status}: it is a snapshot, which Nova '
            )
            message += 'still saves, or has failed to save'
            advice = 'wait for it, or make another one'
            yield context.found('not-active', kind, message, advice=advice)
        elif image.status != 'active':
            why = _STATES.get(image.status, 'its data is not available')
            message = f'{name} is {image.status}: {why}'
            advice = context.renewal(kind)
            yield context.found('not-active', kind, message, advice=advice)


def _wrong_format(context: Context) -> Iterator[Finding]:
    formats = [part.disk_format for _, part in context.ami.parts]
    if formats == ['ari', 'aki']:
        image = context.image
        yield context.found(
            'swapped',
            Kind.AMI,
            f'{context.title} links to a ramdisk as its kernel and to a '
            'kernel as its ramdisk',
            setting(
                image,
                *('--property', f'kernel_id={image.ramdisk_id}'),
                *('--property', f'ramdisk_id={image.kernel_id}'),
            ),
        )
        return
    for kind, part in context.ami.parts:
        if part.disk_format == kind.value:
            continue
        # Nova does not look at it; but these say what they are.
        is_other = part.disk_format in [other.value for other in Kind]
        what = (
            'it may be a valid one'
            if is_other
            else 'a format cannot be changed once there is data'
        )
        yield context.found(
            'wrong-format',
            kind,
            f'{context.name(kind, part)} has the format {part.disk_format}, a '
            f'{kind.noun} has {kind.value}: {what}',
            severity='error' if is_other else 'warning',
            advice=context.renewal(kind),
        )


def _architecture(context: Context) -> Iterator[Finding]:
    wanted = context.image.properties.get('architecture')
    for kind, part in context.ami.parts:
        own = part.properties.get('architecture')
        if model.architectures_differ(wanted, own):
            yield other_architecture(
                context, kind, f'{context.name(kind, part)} is for {own}', own
            )


def other_architecture(
    context: Context, kind: Kind, what: str, own: str | None
) -> Finding:
    """Say that an AMI is not for the architecture of its kernel.

    :param what: that the kernel is for another: a clause.
    """
    wanted = context.image.properties.get('architecture')
    message = f'{what}, the AMI says {wanted}: Nova chooses the host by the '
    command = setting(context.image, '--property', f'architecture={own}')
    return context.found('architecture', kind, f'{message}latter', command)


def _command_line(context: Context) -> Iterator[Finding]:
    image = context.image
    line = image.properties.get(model.COMMAND_LINE)
    if not line:
        return
    if model.has_root(line):
        # Of other formats, it may be a disk with partitions.
        formats = image.disk_format, image.container_format
        yield from root_told(context, partitions=Kind.AMI.value not in formats)
        return
    whole = model.with_root(line, image.properties.get('hw_disk_bus'))
    message = f'{context.title} has an os_command_line without root=: it '
    message += "replaces all of Nova's own, and the kernel finds no root "
    message += 'filesystem'
    command = setting(image, '--property', f'{model.COMMAND_LINE}={whole}')
    yield context.found('command-line', Kind.AMI, message, command)


def root_told(context: Context, *, partitions: bool) -> Iterator[Finding]:
    """Look at the root filesystem that an os_command_line names.

    :param partitions: whether the image may have partitions.
    """
    image = context.image
    line = image.properties.get(model.COMMAND_LINE) or ''
    bus = image.properties.get('hw_disk_bus')
    device = model.BUSES.get(bus, model.BUSES[None])[1]
    root = model.root_of(line) or ''
    disk, partition = model.disk_of(root)
    if partition and not partitions:
        why = 'which is a partition, but the disk of an AMI has none'
        wanted = device
    elif disk not in (None, device):
        why = f'but its disk is {device}, for its hw_disk_bus is '
        why += bus or 'not set, which stands for virtio'
        wanted = f'{device}{partition}'
    else:
        return
    message = f'{context.title} has an os_command_line with root={root}, {why}'
    words = [
        f'root={wanted}' if word.startswith('root=') else word
        for word in line.split()
    ]
    whole = ' '.join(dict.fromkeys(words))
    command = setting(image, '--property', f'{model.COMMAND_LINE}={whole}')
    yield context.found('command-line', Kind.AMI, message, command)


def _disk_bus(context: Context) -> Iterator[Finding]:
    """Compare the bus of the disk with what the kernel is told by it."""
    image = context.image
    bus = image.properties.get('hw_disk_bus')
    name = image.properties.get('root_device_name')
    if bus not in model.BUSES:
        message = f'{context.title} has the unknown hw_disk_bus {bus!r}: '
        message += 'the server ends in ERROR'
        command = setting(image, '--property', 'hw_disk_bus=virtio')
        yield context.found('disk-bus', Kind.AMI, message, command)
        return
    if model.root_of(image.properties.get(model.COMMAND_LINE) or ''):
        # The kernel is not told what Nova calls it.
        return
    told, device = model.BUSES[bus]
    if name is not None:
        told = name if name.startswith('/') else f'/dev/{name}'
    if told == device:
        return
    if name is not None:
        message = f'{context.title} has the root_device_name {name!r}, but '
        message += f'its disk is {device}: the kernel finds no root filesystem'
        if bus != 'ide':
            unset = 'openstack', 'image', 'unset', '--property'
            command = (*unset, 'root_device_name', image.id)
            yield context.found('root-device', Kind.AMI, message, command)
            return
    else:
        message = f'{context.title} has the hw_disk_bus {bus}, for which Nova '
        message += f'tells the kernel root={told}, but the disk is {device}'
    whole = model.with_root('', bus)
    command = setting(image, '--property', f'{model.COMMAND_LINE}={whole}')
    yield context.found('disk-bus', Kind.AMI, message, command)


def _no_data(context: Context) -> Iterator[Finding]:
    for kind, image in context.images:
        name, advice = context.name(kind, image), context.renewal(kind)
        # A snapshot of a server that boots from a volume has no data.
        is_volume = 'block_device_mapping' in image.properties
        if image.status != 'active' or is_volume:
            continue
        if kind is Kind.AMI and context.is_diskless:
            if context.for_metal:
                # Whatever it holds is not read.
                continue
            advice = 'it is made for Ironic only: leave out --for nova'
        if not image.size:
            none = image.size is None
            yield context.found(
                'no-size',
                kind,
                f'{name} is active, but '
                + ('has no size' if none else 'has no data'),
                severity='warning' if none else 'error',
                advice=advice,
            )
        if not image.hash_value:
            what = 'but an MD5 checksum' if image.checksum else 'of any kind'
            yield context.found(
                'no-hash',
                kind,
                f'{name} has no hash {what}, so its data cannot be trusted to '
                'be whole; Glance computes a hash only when data is uploaded',
                # Older than Glance's choice of hashes, but can be compared.
                severity='note' if image.checksum else 'warning',
                advice=advice,
            )


def _min_disk(context: Context) -> Iterator[Finding]:
    image = context.image
    size = image.virtual_size
    if not size and image.disk_format in model.PLAIN:
        size = image.size
    needed = units.gib(size or 0)
    if image.min_disk < needed:
        message = f'{context.title} needs a disk of {needed} GiB, but its '
        message += f'min_disk is {image.min_disk}: with a smaller flavor Nova '
        message += 'refuses the server, or it fails; both name the two sizes'
        command = setting(image, '--min-disk', str(needed))
        yield context.found('min-disk', Kind.AMI, message, command)


def _less_visible(context: Context) -> Iterator[Finding]:
    ami = context.image
    is_open = ami.visibility in OPEN
    for kind, part in context.ami.parts:
        if part.visibility in OPEN or (
            part.visibility != 'private' and not is_open
        ):
            continue
        lacking = context.audience(ami) - context.audience(part)
        advice = None
        commands = [setting(part, '--shared')]
        if is_open:
            fails = 'all others'
            visibility = ami.visibility
            if visibility == 'public' and not context.viewer.admin:
                visibility = 'community'
                advice = 'only an administrator may make it public, but '
                advice += 'community will do'
            commands = [setting(part, f'--{visibility}')]
        elif lacking:
            fails = f'project {_listed(lacking)}'
            commands += _added(part, lacking)
        elif not context.is_known(ami):
            fails = 'those that the AMI may be shared with'
        else:
            continue
        boots = f'project {part.owner}'
        if part.visibility == 'shared':
            boots += ' and those that it is shared with'
        yield context.found(
            'less-visible',
            kind,
            f'{context.name(kind, part)} is {part.visibility}, the AMI '
            f'{ami.visibility}: it boots for {boots}, and fails for {fails}',
            *commands,
            severity='error' if is_open or lacking else 'warning',
            image=part,
            advice=advice,
        )


def _members_differ(context: Context) -> Iterator[Finding]:
    if context.members is None or context.image.visibility in OPEN:
        return
    for kind, part in context.ami.parts:
        lacking = context.audience(context.image) - context.audience(part)
        # That the viewer sees it is known by now.
        others = lacking - {context.viewer.project}
        name = context.name(kind, part)
        if part.visibility != 'shared' or not lacking:
            continue
        if context.is_known(part):
            message = f'{name} is not shared with project {_listed(lacking)}, '
            message += 'as the AMI is: it fails there'
            commands = _added(part, lacking)
            yield context.found(
                'members-differ', kind, message, *commands, image=part
            )
        elif others:
            message = f'{name} may not be shared with project '
            message += f'{_listed(others)}, as the AMI is; only its owner, '
            message += f'project {part.owner}, can tell'
            yield context.found(
                'members-differ', kind, message, severity='warning'
            )


def _added(
    image: ImageRecord, projects: Iterable[str | None]
) -> list[tuple[str, ...]]:
    return [
        ('openstack', 'image', 'add', 'project', image.id, project)
        for project in sorted(project for project in projects if project)
    ]


def _listed(projects: Iterable[str | None]) -> str:
    return ', '.join(sorted(map(str, projects)))


def _flags(context: Context) -> Iterator[Finding]:
    ami = context.image
    for kind, part in context.ami.parts:
        name = context.name(kind, part)
        if ami.protected and not part.protected:
            message = f'{name} is not protected, the AMI is: it can be '
            message += 'deleted, and the AMI does not boot then'
            command = setting(part, '--protected')
            yield context.found(
                'unprotected', kind, message, command, image=part
            )
        if part.hidden and not ami.hidden:
            message = f'{name} is hidden, the AMI is not: it boots, but who '
            message += 'tidies up hidden images may delete it'
            command = setting(part, '--unhidden')
            yield context.found('hidden', kind, message, command, image=part)


def _foreign_owner(context: Context) -> Iterator[Finding]:
    for kind, part in context.ami.parts:
        if part.owner == context.image.owner:
            continue
        commands = _copied(context, kind, part)
        yield context.found(
            'foreign-owner',
            kind,
            f'{context.name(kind, part)} belongs to project {part.owner}, the '
            f'AMI to {context.image.owner}: only a copy of it would be safe '
            'from being withdrawn',
            *commands,
            # The cloud's own kernels are made to be linked to.
            severity='note' if part.visibility == 'public' else 'warning',
            advice=None if commands else context.renewal(kind),
        )


def _copied(
    context: Context, kind: Kind, part: ImageRecord
) -> list[tuple[str, ...]]:
    """Write the commands that give an AMI a copy of its own.

    :returns: none if they would fail: the copy is as visible as the AMI.
    """
    is_public = context.image.visibility == 'public'
    if part.status != 'active' or (is_public and not context.viewer.admin):
        return []
    file = f'{kind.noun}-{part.id}'
    named = (f'--{kind.noun}-name', part.name) if part.name else ()
    return [
        ('openstack', 'image', 'save', '--file', file, part.id),
        (
            *('openstack', 'ami', 'set', f'--{kind.noun}', file, *named),
            # Otherwise bytes that the cloud holds already are linked to.
            *('--no-reuse', context.image.id),
        ),
    ]


def _fewer_stores(context: Context) -> Iterator[Finding]:
    for kind, part in context.ami.parts:
        # Where there is no choice of stores, none is told.
        away = stores.lacking(part, context.image.stores)
        if not away or not part.stores:
            continue
        message = f'{context.name(kind, part)} is not in the '
        message += f'{stores.named(away)}, as the AMI is: where only that is '
        message += 'at hand, the AMI does not boot'
        if context.viewer.admin:
            options = [word for name in away for word in ('--store', name)]
            command = ('openstack', 'ami', 'set', *options, context.image.id)
            yield context.found('fewer-stores', kind, message, command)
        else:
            advice = 'only an administrator can have it copied there'
            message += f'; {advice}'
            yield context.found('fewer-stores', kind, message)


_RULES = (
    _no_link,
    _bad_link,
    _dangling,
    _not_active,
    _wrong_format,
    _architecture,
    _command_line,
    _disk_bus,
    _no_data,
    _min_disk,
    _less_visible,
    _members_differ,
    _foreign_owner,
    _flags,
    _fewer_stores,
    *signature_rules.RULES,
)

#: Those about what Nova alone does.
_NOVA = (_no_link, _command_line, _disk_bus, _min_disk)


def examine(context: Context) -> tuple[Finding, ...]:
    """Apply all rules.

    :returns: what was found, the worst first.
    """
    rules: tuple[Callable[[Context], Iterator[Finding]], ...] = _RULES
    if context.for_metal:
        rules = tuple(rule for rule in _RULES if rule not in _NOVA)
        rules += bare_metal_rules.RULES
    return findings.ranked(f for rule in rules for f in rule(context))


@dataclasses.dataclass(frozen=True)
class Report:
    """One AMI, and what was found about it; None if nobody looked."""

    ami: links.Ami
    found: tuple[Finding, ...] | None = None


def report(catalog: client.Catalog, ami: links.Ami) -> Report:
    """Find what keeps an AMI from booting, and whom."""
    return Report(ami, examine(gather(catalog, ami)))


def reports(
    catalog: client.Catalog, amis: Iterable[links.Ami], *, check: bool
) -> Iterator[Report]:
    """Report on many AMIs, without asking for more than is known of them.

    Whether kernel and ramdisk are shared with the same projects takes a
    request for each, so that remains for a check of one.

    :param check: whether to look for anything that is wrong with them.
    """
    who = viewer(catalog) if check else None
    for ami in amis:
        found = examine(Context(ami, viewer=who)) if who else None
        yield Report(ami, found)


def viewer(catalog: client.Catalog) -> Viewer:
    """Tell who asks."""
    roles = frozenset(catalog.roles())
    return Viewer(
        catalog.project(), admin=_ADMIN in roles, reader=roles == _READER
    )


def gather(catalog: client.Catalog, ami: links.Ami) -> Context:
    """Find out what an AMI's records do not tell: whom it is shared with."""
    known = Context(ami, {}, viewer(catalog))
    images = [image for _, image in known.images]
    is_one_owners = len({image.owner for image in images}) == 1
    if ami.image.visibility in OPEN or (
        ami.image.visibility == 'private' and is_one_owners
    ):
        # Then nobody's being a member makes a difference.
        return known
    members = {}
    for image in images:
        # Of another project's image, Glance tells a member of itself alone.
        if image.visibility == 'shared' and known.viewer.owns(image):
            try:
                members[image.id] = catalog.member_ids(image)
            except errors.CloudError as error:
                if error.status != http.HTTPStatus.FORBIDDEN:
                    raise
    return Context(ami, members, known.viewer)
