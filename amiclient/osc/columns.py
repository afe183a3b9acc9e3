# SPDX-License-Identifier: Apache-2.0

"""What commands print: a table for each noun, of headers and attributes.

Values are raw: bytes are integers and absent ones None. The cells below say
what people are shown instead, and :mod:`amiclient.osc.tables`, when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import datetime
import os
import typing
from typing import Any

from cliff import columns as cliff_columns
from osc_lib.cli import format_columns

from amiclient import units

if typing.TYPE_CHECKING:
    from amiclient.glance.change import copy
    from amiclient.glance.change import replace
    from amiclient.glance import model
    from amiclient.glance.upload import request
    from amiclient.glance.verify import elsewhere
    from amiclient.osc import command

    _Column = cliff_columns.FormattableColumn
else:

    class _Column(cliff_columns.FormattableColumn):
        """Takes a type in brackets, as cliff's does since version 4.9."""

        def __class_getitem__(cls, _):
            return cls


#: Headers, each with the path of an attribute ("image.id") and, where that is
#: not printed as it is, a function that makes a cell of it. The empty path is
#: that of the record itself.
Table = Mapping[str, str | tuple[str, Callable[[Any], Any]]]


def one(table: Table, record: Any) -> command.Result:
    """Make the result of a command that shows one record."""
    return tuple(table), tuple(_cells(table, record, Size))


def many(table: Table, records: Iterable[Any]) -> command.Result:
    """Make the result of a command that lists records."""
    cells = (tuple(_cells(table, each, Size)) for each in records)
    return tuple(table), cells


def rows(table: Table, records: Iterable[Any] | None) -> list[dict[str, Any]]:
    """Make what records within a column are in JSON."""
    return [
        dict(zip(table, _cells(table, each), strict=True))
        for each in records or ()
    ]


#: The columns that are bytes.
_BYTES = frozenset({
    'Size', 'disk', 'downloaded', 'in_use', 'kernel_size', 'lower_bound',
    'minimum_size', 'ramdisk_size', 'root_size', 'root_size_before', 'saved',
    'sent', 'size', 'size_before', 'uploaded',
})  # fmt: skip


def _cells(
    table: Table, record: Any, size: Callable[[Any], Any] | None = None
) -> Iterator[Any]:
    """Make the cells of a record.

    :param size: makes those that are bytes.
    """
    for name, column in table.items():
        path, cell = (column, _raw) if isinstance(column, str) else column
        value = cell(_value(record, path))
        yield size(value) if size and name in _BYTES else value


def _value(record: Any, path: str) -> Any:
    for name in path.split('.') if path else ():
        if isinstance(record, Mapping):
            record = record.get(name)
        elif record is not None:
            record = getattr(record, name)
    return record


def _raw(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, tuple):
        return format_columns.ListColumn(list(value))
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return value


def _named(*names: str, of: str = '') -> dict[str, str]:
    """Make columns that are headed by the names of their attributes."""
    return {name: f'{of}{name}' for name in names}


class Sized(_Column[Any]):
    """A cell with bytes in it, or with lines of which some are for few.

    :cvar human: whether bytes are written with units.
    :cvar brief: whether it is for somebody who did not ask for all.
    """

    human = False
    brief = False

    def written(self, size: int) -> str:
        """Write a number of bytes."""
        if not self.human:
            return f'{size} bytes'
        return f'{"-" * (size < 0)}{units.format_size(abs(size))}'


class Size(Sized):
    """Bytes."""

    def human_readable(self) -> str:
        size = self._value
        return str(None) if size is None else self.written(size)


class _Lines(Sized):
    """Records within a column: in tables a line for each."""

    def line(self, row: dict[str, Any]) -> str:
        """Write one of them."""
        raise NotImplementedError

    def human_readable(self) -> str:
        return '\n'.join(map(self.line, self._value))

    @classmethod
    def of(cls, table: Table) -> Callable[[Any], _Lines]:
        return lambda records: cls(rows(table, records))


class Linked(_Column[Any]):
    """The id of a kernel or a ramdisk, in tables its name instead."""

    def human_readable(self) -> str:
        id, name = self._value
        return str(name or id)

    def machine_readable(self) -> Any:
        return self._value[0]


class Findings(_Lines):
    def line(self, row: dict[str, Any]) -> str:
        return '{severity}: {rule}: {message}'.format_map(row)


class Health(Findings):
    """Findings in a word or two: the worst severity, and the rules."""

    def human_readable(self) -> str:
        if not self._value:
            return 'ok'
        # The worst is first.
        rules = ', '.join(dict.fromkeys(row['rule'] for row in self._value))
        return f'{self._value[0]["severity"]}: {rules}'


class Users(_Lines):
    def line(self, row: dict[str, Any]) -> str:
        return '{name} ({id})'.format_map(row)


class Partitions(_Lines):
    def line(self, row: dict[str, Any]) -> str:
        return (
            f'{row["number"]}: {self.written(row["size"])}, {row["content"]}'
        )


class Kernels(_Lines):
    """Kernels of a root filesystem, with their ramdisks."""

    #: What is said of those that are not in the root filesystem.
    _BESIDE: typing.ClassVar = {
        'manifest': ' (of the manifest)',
        'tarball': ' (of the tarball)',
    }

    def line(self, row: dict[str, Any]) -> str:
        if self.brief:
            return f'{row["version"]}{self._BESIDE.get(row["source"], "")}'
        return (
            f'{row["version"]}: {row["kernel"]}, '
            f'{row["ramdisk"] or "no ramdisk"}'
            f'{self._BESIDE.get(row["source"], "")}'
        )


class Steps(_Lines):
    """What an upload would do, for each image."""

    def line(self, row: dict[str, Any]) -> str:
        words = [f'id {row["id"]}'] if row['id'] else []
        words += [f'by {row["way"]}'] if row['way'] else []
        for key, what in (('stores', 'stores'), ('copies', 'copied to')):
            words += [f'{what} {" and ".join(row[key])}'] if row[key] else []
        begin = '{action} {role} {name}: {disk_format}/{container_format}'
        size = '' if row['size'] is None else self.written(row['size'])
        return ', '.join(filter(None, (begin.format_map(row), size, *words)))


class Part(Sized):
    """A kernel or ramdisk: a line, or a record."""

    def human_readable(self) -> str:
        part = self._value
        if part is None:
            return str(None)
        words = [part['status']]
        if part['disk_format'] and not self.brief:
            words.append(f'{part["disk_format"]}/{part["container_format"]}')
        if part['size'] is not None:
            words.append(self.written(part['size']))
        if part['visibility']:
            words.append(part['visibility'])
        health = Health(part['findings']).human_readable()
        return f'{part["name"] or part["id"]} ({", ".join(words)}): {health}'


FINDING = _named('severity', 'rule', 'message', 'remedy')

_SIZES = _named(
    'filesystem', 'block_size', 'block_count', 'size', 'size_before',
    'in_use', 'lower_bound',
)  # fmt: skip

SHRUNK = {**_named('image', 'output'), **_SIZES, 'saved': 'saved'}

SHRINK_PLAN: Table = {
    'image': 'image.path',
    'output': 'output',
    **_SIZES,
    'saved': ('', lambda plan: plan.size_before - plan.size),
}

EXTRACTED = _named('directory', 'image', 'kernel', 'ramdisk', 'manifest')

#: Of an archive, all paths are the same.
SAVED = {**EXTRACTED, 'downloaded': 'downloaded'}

BUILT = _named('output', 'size', 'files', 'filesystem', 'uuid')

KERNEL = _named('version', 'kernel', 'ramdisk', 'source')

PARTITION = {
    **_named('number', 'start', 'size', 'type', 'uuid', 'content'),
    'root': 'is_root',
    'boot': 'is_boot',
}

INSPECTED: Table = {
    **_named(
        'source', 'format', 'partition', 'filesystem', 'uuid', 'label',
        'features', 'block_size', 'size', 'in_use', 'minimum_size', 'state',
        'needs_recovery',
    ),
    'os_distro': 'release.distro',
    'os_version': 'release.version',
    'architecture': 'architecture',
    'kernels': ('kernels', Kernels.of(KERNEL)),
    'partitions': ('partitions', Partitions.of(PARTITION)),
}  # fmt: skip

PACKAGE = {
    'Name': 'name',
    'Version': 'version',
    'Architecture': 'architecture',
    'Source': 'source',
    'Source Version': 'source_version',
}

AUDITED = {
    'ID': 'id',
    'Name': 'name',
    'Package': 'verdict.package',
    'Version': 'verdict.version',
    'State': 'verdict.state',
    'Note': 'verdict.note',
}

APPLIED = {
    'AMI': 'ami',
    'Place': 'place',
    'Change': 'change',
    'Image': 'id',
    'Size': 'size',
}

BOOTED = {
    **_named(
        'result', 'seconds', 'matched', 'root_size', 'console',
        'root_size_before', 'disk', 'accelerator',
    ),
    'cause': 'cause.name',
    **_named('read_only', 'failed_units'),
}  # fmt: skip

SHARED = {
    'Role': 'kind.noun',
    'Image': 'image.id',
    'Name': 'image.name',
    'Visibility': 'image.visibility',
    'Project': 'project',
    'Status': 'status',
}

_LISTED = {
    'Size': 'image.size',
    'Visibility': 'image.visibility',
    'Protected': 'image.protected',
    'Project': 'image.owner',
    'Tags': 'image.tags',
    'Stores': 'image.stores',
}


def _type(is_snapshot: bool) -> str:
    return 'snapshot' if is_snapshot else 'image'


def parts(*, long: bool) -> Table:
    """Choose the columns of a list of kernels or ramdisks."""
    short = {'ID': 'image.id', 'Name': 'image.name', 'Status': 'image.status'}
    if not long:
        return short
    return {
        **short,
        'Architecture': 'image.properties.architecture',
        **_LISTED,
        'Used By': ('users', lambda users: len(users or ())),
    }


def _built(image: model.ImageRecord) -> Any:
    from amiclient.glance import versions

    return _raw(versions.built(image))


def amis(
    *,
    long: bool,
    check: bool,
    family: bool = False,
    elsewhere: Sequence[elsewhere.Elsewhere] = (),
) -> Table:
    """Choose the columns of a list of AMIs.

    :param family: whether they are versions of one.
    :param elsewhere: other places, each of which gets a column.
    """
    of_versions: dict[str, str | tuple[str, Callable[[Any], Any]]] = {
        'Version': 'ami.image.properties.ami_version',
        'Built': ('ami.image', _built),
        'Hidden': 'ami.image.hidden',
    }
    found: dict[str, str | tuple[str, Callable[[Any], Any]]] = {
        'ID': 'ami.image.id',
        'Name': 'ami.image.name',
        **(of_versions if family else {}),
        'Status': 'ami.image.status',
        'Kernel': 'ami.image.kernel_id' if long else _linked_by('kernel'),
        'Ramdisk': 'ami.image.ramdisk_id' if long else _linked_by('ramdisk'),
    }
    if long:
        found |= {
            'Kernel Name': 'ami.kernel.name',
            'Ramdisk Name': 'ami.ramdisk.name',
            'Disk Format': 'ami.image.disk_format',
            'Type': ('ami.image.is_snapshot', _type),
        }
        found |= {header: f'ami.{path}' for header, path in _LISTED.items()}
    if check:
        found['Health'] = ('found', Health.of(FINDING))
    for other in elsewhere:
        place = other.place
        header = f'{place.kind.capitalize()} {place.name}'
        found[header] = ('ami', _judged_by(other))
    return found


def _linked_by(noun: str) -> tuple[str, Callable[[Any], Any]]:
    def cell(ami: Any) -> Linked:
        part = getattr(ami, noun)
        return Linked((getattr(ami.image, f'{noun}_id'), part and part.name))

    return 'ami', cell


def _judged_by(other: elsewhere.Elsewhere) -> Callable[[Any], str]:
    return lambda ami: str(other.judge(ami))


_USER = _named('id', 'name')

_IMAGE = ('id', 'name', 'status', 'disk_format', 'container_format')
_ACCESS = ('visibility', 'protected', 'hidden', 'owner')


_HASH = ('hash_algo', 'hash_value')

PART: Table = {
    **_named(*_IMAGE, 'size', *_ACCESS, of='image.'),
    'architecture': 'image.properties.architecture',
    **_named(*_HASH, 'created_at', 'tags', of='image.'),
    'stores': 'image.stores',
    'used_by': ('users', Users.of(_USER)),
}


def _part(noun: str) -> dict[str, str]:
    return {
        f'{noun}_id': f'ami.image.{noun}_id',
        f'{noun}_name': f'ami.{noun}.name',
        f'{noun}_status': f'ami.{noun}_status',
        f'{noun}_size': f'ami.{noun}.size',
    }


def _custom(properties: Mapping[str, Any]) -> Any:
    return format_columns.DictColumn(dict(properties))


AMI: Table = {
    **_named(*_IMAGE, 'size', *_ACCESS, of='ami.image.'),
    **_named('architecture', 'os_distro', 'os_version',
             of='ami.image.properties.'),
    **_named('min_disk', 'min_ram', 'created_at', 'updated_at', *_HASH,
             of='ami.image.'),
    **_part('kernel'),
    **_part('ramdisk'),
    **_named('tags', 'stores', of='ami.image.'),
    'properties': ('ami.image.properties', _custom),
    'kernel': ('', lambda report: Part(linked(report, 'kernel'))),
    'ramdisk': ('', lambda report: Part(linked(report, 'ramdisk'))),
    'findings': ('found', Findings.of(FINDING)),
}  # fmt: skip


def linked(report: Any, noun: str) -> dict[str, Any] | None:
    """Describe the kernel or ramdisk of an AMI; None without a link."""

    def about(found: Any) -> list[dict[str, Any]]:
        return rows(FINDING, [f for f in found or () if f.about == noun])

    table: Table = {
        'id': f'ami.image.{noun}_id',
        'name': f'ami.{noun}.name',
        'status': f'ami.{noun}_status',
        **_named(
            'disk_format', 'container_format', 'size', *_ACCESS,
            of=f'ami.{noun}.',
        ),
        'stores': (f'ami.{noun}.stores', lambda stores: list(stores or ())),
        'findings': ('found', about),
    }  # fmt: skip
    (row,) = rows(table, [report])
    return None if row['id'] is None else row


#: Of an image, and of what else is given.
UPLOAD = (*_IMAGE, 'size', 'sha512', 'kernel_id', 'ramdisk_id', 'uploaded',
          'reused', 'size_before')  # fmt: skip

STEP: Table = {
    'role': 'kind.noun',
    'action': 'action',
    'id': 'image.id',
    'name': 'image.name',
    'disk_format': 'image.disk_format',
    'container_format': 'image.container_format',
    'size': 'size',
    'stores': ('stores', list),
    'copies': ('copies', list),
    'way': 'way',
}


#: What became of each target of a copy.
COPIED = _named(
    'target', 'status', 'id', 'kernel_id', 'ramdisk_id', 'way', 'sent',
    'reused',
)  # fmt: skip


def copied(
    results: Sequence[copy.CopyResult], *, dry_run: bool
) -> command.Result:
    """Make the result of a copy: a row for each target."""
    plan: Table = {'plan': ('plan', Steps.of(STEP))} if dry_run else {}
    return many({**COPIED, **plan}, results)


class CopyLines(_Lines):
    """What became of each target of a copy."""

    def line(self, row: dict[str, Any]) -> str:
        return ' '.join(
            filter(None, (row['target'], row['status'], row['id']))
        )


def with_copies(
    result: command.Result, copies: Sequence[copy.CopyResult]
) -> command.Result:
    """Add what became of the copies of what was uploaded, if there are any."""
    headers, cells = result
    if not copies:
        return result
    table: Table = {**COPIED, 'reused': ('reused', list)}
    return (*headers, 'copies'), (*cells, CopyLines(rows(table, copies)))


def uploaded(
    record: model.ImageRecord,
    sent: int,
    reused: tuple[str, ...],
    size_before: int | None = None,
) -> command.Result:
    """Make the result of an upload.

    :param record: the image whose id is the result.
    :param sent: bytes, of all images.
    :param reused: ids.
    :param size_before: of a filesystem that was shrunk.
    """
    return _upload(
        record,
        sha512=record.hash_value,
        uploaded=sent,
        reused=reused,
        size_before=size_before,
    )


def planned(
    steps: Sequence[request.Step],
    replaced: Sequence[replace.Row] = (),
    size_before: int | None = None,
) -> command.Result:
    """Make the result of an upload that was only planned.

    :param steps: what would be done; the last one's image is the result.
    :param replaced: what would be done to older images.
    :param size_before: of a filesystem that would be shrunk.
    """
    ids = {s.kind.noun: s.image.id for s in steps if s.action == 'reuse'}
    last = steps[-1]
    links = ids if last.kind.noun == 'image' else {}
    headers, cells = _upload(
        last.image,
        status='planned',
        size=last.size,
        sha512=None,
        kernel_id=links.get('kernel'),
        ramdisk_id=links.get('ramdisk'),
        uploaded=sum(s.size or 0 for s in steps if s.action == 'create'),
        reused=tuple(ids.values()),
        size_before=size_before,
    )
    return (*headers, 'plan'), (*cells, Steps(rows(STEP, (*steps, *replaced))))


def _upload(image: Any, **given: Any) -> command.Result:
    values = {name: getattr(image, name, None) for name in UPLOAD} | given
    return one({name: name for name in UPLOAD}, values)
