# SPDX-License-Identifier: Apache-2.0

"""What can be checked in the cloud before anything is created there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import re
import shlex
from typing import Any

from amiclient import errors
from amiclient.glance import certificates
from amiclient.glance import client
from amiclient.glance import http_errors
from amiclient.glance import model
from amiclient.glance import signatures
from amiclient.glance import stores
from amiclient.glance.upload import marks
from amiclient.glance.upload import request

_LINKS = {key: f'--{kind.noun}' for kind, key in model.LINKS.items()}

#: Characters that Glance stores of a name, a tag or a property's name.
_LONGEST = 255

_MIB = 1 << 20

#: A role that Keystone has from the start; case does not matter.
_READER = 'reader'

#: What to do about quotas.
_ROOM = 'delete images that are not needed, or ask for more quota'
_PATIENCE = 'wait for other uploads of the project to end'

#: How much of a pattern is told.
_SHOWN = 80

#: Characters of a pattern that is looked at.
_PATTERN = 1000

#: Characters of a value that is matched: with two repetitions in a pattern,
#: the time grows with the third power of them.
_VALUE = 255

#: A set of characters, or one that is escaped; and a group without another.
_SET = re.compile(r'\\.|\[\^?\]?(?:\\.|[^\]\\])*\]', re.DOTALL)
_GROUP = re.compile(r'\(([^()]*)\)(?=([*+?{])?)')
_ENDLESS = re.compile(r'[*+]|\{\d*,\}')

#: The types of JSON schema that a value given as text can be of. Glance keeps
#: text only, so that other types are its own attributes'.
_TEXT = 'string'

#: What the names of Glance's own properties begin with.
_RESERVED = 'os_glance_'


def check_properties(properties: Mapping[str, str]) -> None:
    """Refuse properties that are none."""
    check_utf8(properties.values())
    for key in properties:
        if key.startswith(_RESERVED):
            raise errors.UsageError(
                f'{key}: names of properties that begin with {_RESERVED} are '
                'reserved for Glance',
                hint='choose another name',
            )
        if key in _LINKS:
            raise errors.UsageError(
                f'the property {key} is a link to another image',
                hint=f'use {_LINKS[key]}',
            )
        # Glance answers with an error about its schema.
        if key in model.ATTRIBUTES:
            raise errors.UsageError(
                f'{key} is an attribute that every image has, not a property',
                hint='use the option of that name, if there is one',
            )


def check_utf8(texts: Iterable[str]) -> None:
    """Refuse what Glance answers with an error of its own.

    :raises UsageError: if there are bytes in one that are not UTF-8.
    """
    for words in texts:
        try:
            words.encode()
        except UnicodeEncodeError as error:
            raise http_errors.not_utf8(words) from error


def check_texts(texts: Iterable[str]) -> None:
    """Refuse names, tags and keys that Glance would not store.

    :raises UsageError: if one is longer than 255 characters, or not UTF-8.
    """
    for text in texts:
        check_utf8([text])
        if len(text) > _LONGEST:
            raise errors.UsageError(
                f'{text[:40]!r}... is longer than {_LONGEST} characters'
            )


def new_image(
    name: str,
    formats: tuple[str, str],
    traits: request.Traits,
    settings: request.Settings,
    computed: Mapping[str, str],
    *,
    min_ram: int = 0,
) -> model.NewImage:
    """Make the record of an image that is to be created.

    :param formats: disk format and container format.
    :param computed: properties that no user gave.
    """
    check_texts((name, *traits.tags, *traits.properties))
    check_utf8((traits.architecture or '',))
    return model.NewImage(
        name=name,
        disk_format=formats[0],
        container_format=formats[1],
        id=traits.id,
        visibility=settings.visibility,
        hidden=settings.hidden or None,
        owner=settings.owner,
        min_ram=min_ram,
        tags=traits.tags,
        properties={**computed, **traits.properties},
    )


def ramdisk_alone(hint: str) -> errors.UsageError:
    """Say that a ramdisk takes a kernel."""
    # Nova boots the disk by BIOS then, and the console stays empty.
    return errors.UsageError(
        'a ramdisk has no effect without a kernel', hint=hint
    )


def settle_stores(
    catalog: client.Catalog, settings: request.Settings
) -> request.Settings:
    """Find out which stores are meant, and what can be done with them.

    :raises CloudError: if one of them cannot be written.
    """
    chosen = stores.choose(catalog, settings.stores, every=settings.all_stores)
    may_copy = bool(chosen) and stores.may_copy(catalog)
    return dataclasses.replace(settings, stores=chosen, may_copy=may_copy)


def settle_signer(
    catalog: client.Catalog,
    settings: request.Settings,
    rules: 'Rules',
    given: Mapping[str, str],
) -> request.Settings:
    """Make sure that images can be signed, if that is wanted.

    :param given: properties by the user.
    :raises UsageError: if the data may become other data in the cloud.
    :raises CloudError: if the cloud has no such certificate, or does not take
        signatures.
    :raises SourceError: if the key is not that of the certificate.
    """
    if settings.signer is None:
        return settings
    if settings.allow_conversion:
        raise errors.UsageError(
            '--allow-conversion and --sign-key-path contradict each other: '
            'the signature is that of the data as it is sent',
            hint='leave out one of them',
        )
    for key in given:
        if key in signatures.PROPERTIES:
            raise errors.UsageError(
                f'--property {key} and --sign-key-path contradict each other',
                hint='leave out one of them',
            )
    signer = certificates.settle(catalog, settings.signer)
    # The value of the first one is long, but Glance takes longer ones.
    for key, value in signer.properties('0' * 128).items():
        why = rules.objection(key, value)
        if why is not None:
            raise errors.CloudError(
                f'images cannot be signed in this cloud: it refuses the '
                f'property {key}: {why}',
                hint='ask the operator about the schema of images',
            )
    return dataclasses.replace(settings, signer=signer)


def storing(settings: request.Settings) -> Iterator[str]:
    """Say what ``--dry-run`` does not show: a certificate is stored."""
    certificate = settings.certificate
    if settings.dry_run and certificate and certificate.id is None:
        yield 'the certificate would be stored in the key manager'


def check_id(
    catalog: client.Catalog, image_id: str | None
) -> model.ImageRecord | None:
    """Check that an id is free.

    :param image_id: None, if any will do.
    :returns: the image that has it, if a run that was killed has left it.
    :raises CloudError: if another image has it that the user can see.
    """
    if image_id is None:
        return None
    try:
        found = catalog.get(image_id)
    except errors.NotFoundError:
        return None
    if found.status == 'queued' and marks.is_left(found):
        return found
    raise errors.CloudError(
        f'the id {image_id} is used by the image {found.name!r}',
        hint='leave out --id, or choose another',
    )


def check_reference(record: model.ImageRecord, kind: model.Kind) -> None:
    """Check that an image can be linked to as a kernel or ramdisk.

    Nova takes one that is queued or empty, and the server then ends in ERROR.

    :raises CloudError: if it is of another kind, or holds no data.
    """
    formats = (record.disk_format, record.container_format)
    if formats != (kind.value, kind.value):
        raise errors.CloudError(
            f'the image {record.title} is not a {kind.noun}: its formats are '
            f'{formats[0]}/{formats[1]}',
            hint=f'a {kind.noun} is {kind.value}/{kind.value}',
        )
    if record.status != 'active':
        raise errors.CloudError(
            f'the {kind.noun} {record.title} is '
            f'{record.status}: no server would boot with it'
        )
    if not record.size:
        why = 'has no size' if record.size is None else 'has no data'
        raise errors.CloudError(
            f'the {kind.noun} {record.title} is active, but '
            f'{why}: no server would boot with it',
            hint=f'upload it again: openstack ami {kind.noun} upload FILE',
        )


def check_command_line(properties: Mapping[str, str]) -> None:
    """Refuse a kernel's command line that names no root filesystem.

    :raises UsageError: Nova puts it in place of its own, ``root=`` and all.
    """
    key = model.COMMAND_LINE
    line = properties.get(key)
    if line is not None and not model.has_root(line):
        whole = model.with_root(line, properties.get('hw_disk_bus'))
        raise errors.UsageError(
            f'the property {key} has no root=: it replaces the whole command '
            'line of Nova, so the kernel would not find the root filesystem',
            hint=f'use --property {key}={shlex.quote(whole)}',
        )


def namesakes(
    catalog: client.Catalog,
    name: str,
    *,
    hidden: bool,
    but: Iterable[model.ImageRecord] = (),
) -> Iterator[str]:
    """Warn of images that have the name of one that is to be created.

    :param but: those that are removed before.
    """
    found = [] if hidden else catalog.named(name)
    leaving = {image.id for image in but}
    found = [image for image in found if image.id not in leaving]
    if found:
        more = f' and {len(found) - 1} more' if found[1:] else ''
        yield (
            f'another image has the name {name!r} already, '
            f'{found[0].id}{more}: commands that use the name will find '
            'several'
        )


def check_quota(
    catalog: client.Catalog,
    sizes: Sequence[int],
    *,
    copies: int = 1,
    staged: bool = False,
    removed: int = 0,
) -> None:
    """Check that new images fit into the project's quotas.

    :param sizes: bytes of each, in the order that they are sent in.
    :param copies: how many stores are to have each. Of the last image, Glance
        counts only what is there before it makes the others.
    :param staged: whether they are staged, one after the other.
    :param removed: how many images are removed before.
    """
    if not sizes:
        return
    usage = dict(catalog.usage())
    if not staged:
        usage.pop('image_stage_total', None)
    # Glance adds whole MiB of each image to whole MiB of what is there.
    before, last = sum(sizes[:-1]) // _MIB, sizes[-1] // _MIB
    before *= copies
    stage = max(sizes) // _MIB
    for name, more, unit, hint in (
        ('image_size_total', before + last, ' MiB', _ROOM),
        ('image_stage_total', stage, ' MiB', _PATIENCE),
        ('image_count_total', len(sizes) - removed, ' images', _ROOM),
        ('image_count_uploading', 1, ' uploads at a time', _PATIENCE),
    ):
        found = usage.get(name)
        if not isinstance(found, dict):
            continue
        limit, used = found.get('limit'), found.get('usage')
        # -1 stands for no limit.
        if not isinstance(limit, int) or not isinstance(used, int):
            continue
        if 0 <= limit < used + more:
            raise errors.CloudError(
                f'the quota {name} is {limit}{unit}: {used} are used, and '
                f'this upload needs {more}',
                hint=hint,
            )


def permission(
    catalog: client.Catalog, settings: request.Settings
) -> Iterator[str]:
    """Warn if the cloud is likely to refuse to create images.

    Glance tells no rights beforehand: this goes by its policies' defaults
    (``add_image`` in glance/policies/image.py), which operators may change.
    """
    roles = {role.lower() for role in catalog.roles()}
    if not roles or stores.ADMIN in roles:
        # Not every way to log in tells the roles.
        return
    if roles == {_READER}:
        yield (
            'the cloud may refuse this: your only role in this project is '
            f'{_READER}; usually the role member is needed'
        )
    elif settings.owner not in (None, catalog.project()):
        yield (
            'the cloud may refuse this: usually only administrators can '
            f'create images for another project, here {settings.owner}'
        )


def is_out_of_reach(
    catalog: client.Catalog,
    record: model.ImageRecord,
    kind: model.Kind,
    settings: request.Settings,
) -> bool:
    """Tell whether a kernel or ramdisk has to be made as visible as the AMI.

    Nova fetches kernel and ramdisk as the user who boots.

    :returns: false if all can see it who see the AMI; true if not, and if
        the user wants it to be changed.
    :raises CloudError: if not, and the user has not said so.
    """
    if record.visibility in model.OPEN:
        return False
    image = f'the {kind.noun} {record.title}'
    if settings.visibility in model.OPEN or (
        settings.visibility == 'shared' and record.visibility == 'private'
    ):
        if settings.linked:
            return True
        raise errors.CloudError(
            f'{image} is {record.visibility}: other projects could not boot '
            'the image that links to it',
            hint=f'run: openstack image set --{settings.visibility} '
            f'{record.id}; or add --linked',
        )
    owner = settings.owner
    if owner is None or owner == record.owner:
        return False
    if owner not in catalog.member_ids(record):
        raise errors.CloudError(
            f'{image} is {record.visibility}: the project {owner} could not '
            'boot the image that links to it',
            hint=f'openstack image add project {record.id} {owner} shows it '
            'to them'
            if record.visibility == 'shared'
            else f'openstack image set --shared {record.id}, then openstack '
            f'image add project {record.id} {owner} show it to them',
        )
    return False


class Rules:
    """What a cloud takes, by its schema.

    Operators can restrict formats, require properties, and say what values
    they may have. Glance says so itself, but only when the image is created,
    in words about its schema, and for one image after the other.

    :param schema: the answer to ``GET /v2/schemas/image``: a JSON schema
        (json-schema.org, draft 4), of which this knows what Glance uses.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._known: Mapping[str, Any] = schema.get('properties') or {}
        further = schema.get('additionalProperties')
        self._further: Any = {} if further is None else further
        required = schema.get('required')
        self._required = tuple(required if isinstance(required, list) else ())

    @classmethod
    def of(cls, catalog: client.Catalog) -> 'Rules':
        """Ask a cloud for its rules."""
        return cls(catalog.schema())

    def takes_formats(self, disk_format: str, container_format: str) -> bool:
        """Tell whether images of these formats are taken."""
        formats = self._formats('container_format')
        return (
            disk_format in self._formats('disk_format')
            and container_format in formats
        )

    def takes_property(self, key: str) -> bool:
        """Tell whether images may have a property of this name at all."""
        return self._rule(key) is not False

    def objection(self, key: str, value: str) -> str | None:
        """Tell what speaks against a property.

        :returns: a clause whose subject is the property; None if nothing.
        """
        rule = self._rule(key)
        if rule is False:
            return 'it accepts no property of that name'
        if not isinstance(rule, dict):
            return None
        return next(_objections(rule, value), None)

    def check(self, new: model.NewImage) -> None:
        """Check that an image would be taken."""
        for name, format_ in (
            ('disk_format', new.disk_format),
            ('container_format', new.container_format),
        ):
            if format_ not in self._formats(name):
                raise errors.CloudError(
                    f'this cloud accepts no images of the format {format_}',
                    hint='try --image-format raw'
                    if format_ == model.Kind.AMI.value
                    else 'ask the operator, or use images that the cloud has',
                )
        for key, value in new.properties.items():
            why = self.objection(key, value)
            if why is not None:
                raise errors.CloudError(
                    f'this cloud refuses the property {key}={value}: {why}',
                    hint=f'give another value: --property {key}=...',
                )
        given = new.properties.keys() | model.ATTRIBUTES
        for key in self._required:
            if key not in given:
                raise errors.CloudError(
                    f'this cloud requires the property {key}',
                    hint=f'give it: --property {key}=...',
                )

    def sift(
        self, computed: Mapping[str, str]
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """Leave out computed properties that the cloud would refuse.

        Nobody asked for them, so they must not keep an image from the cloud.

        :returns: those that it takes, and a warning for each other.
        """
        taken: dict[str, str] = {}
        warnings: list[str] = []
        for key, value in computed.items():
            why = self.objection(key, value)
            if why is None:
                taken[key] = value
            else:
                warnings.append(
                    f'the property {key}={value} is left out, because this '
                    f'cloud refuses it: {why}'
                )
        return taken, tuple(warnings)

    def _formats(self, name: str) -> Iterable[str]:
        rule = self._known.get(name)
        enum = rule.get('enum') if isinstance(rule, dict) else None
        return [f for f in enum or () if isinstance(f, str)]

    def _rule(self, key: str) -> Any:
        return self._known.get(key, self._further)


def _objections(rule: Mapping[str, Any], value: str) -> Iterator[str]:
    """Check a text against a JSON schema.

    Keywords that are not known here object to nothing: Glance has the last
    word.
    """
    types = rule.get('type', _TEXT)
    types = types if isinstance(types, list) else [types]
    if _TEXT not in types:
        yield f'it must be of type {_either(types)}'
        return
    enum = rule.get('enum')
    if isinstance(enum, list) and value not in enum:
        yield f'it must be one of {_either(enum)}'
    longest, shortest = rule.get('maxLength'), rule.get('minLength')
    if isinstance(longest, int) and len(value) > longest:
        yield f'it must have at most {longest} characters'
    if isinstance(shortest, int) and len(value) < shortest:
        yield f'it must have at least {shortest} characters'
    pattern = rule.get('pattern')
    if isinstance(pattern, str) and not _matches(pattern, value):
        yield f'it must match {pattern[:_SHOWN]}'


def _either(values: Iterable[Any]) -> str:
    return ', '.join(v for v in values if v and isinstance(v, str))


def _matches(pattern: str, value: str) -> bool:
    if len(value) > _VALUE or not _is_quick(pattern):
        return True
    try:
        return re.search(pattern, value) is not None
    except (re.error, OverflowError, RecursionError):
        # Of another dialect: Glance has the last word.
        return True


def _is_quick(pattern: str) -> bool:
    """Tell whether a pattern cannot be one that takes for ever.

    Those repeat what holds repetitions or choices: with each character of the
    value, the time doubles. Glance's own patterns are far from that.
    """
    plain = _SET.sub('x', pattern[:_PATTERN])
    while group := _GROUP.search(plain):
        inner, repeated = group.groups()
        if repeated and any(sign in inner for sign in '*+?{|'):
            return False
        plain = plain[: group.start()] + inner + plain[group.end() :]
    return len(pattern) <= _PATTERN and len(_ENDLESS.findall(plain)) <= 2
