# SPDX-License-Identifier: Apache-2.0

"""What commands print: columns with their header and where they come from.

Values are raw: bytes are integers and absent ones None, whatever the format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import typing
from typing import Any, Generic, TypeVar

from cliff import columns as cliff_columns
from osc_lib.cli import format_columns

from amiclient import units

if typing.TYPE_CHECKING:
    from amiclient.boot import trial
    from amiclient.ext import shrink
    from amiclient.glance.change import share
    from amiclient.glance.transfer import save
    from amiclient.rootfs import boot_files
    from amiclient.rootfs import extract
    from amiclient.rootfs import inspect
    from amiclient.source import build
    from amiclient.source import disk

_T = TypeVar('_T')

#: What a command's take_action() returns.
Table = tuple[tuple[str, ...], Any]


class Column(Generic[_T]):
    """One column, of records of one kind.

    :param get: takes the value from a record.
    :param long: whether only ``--long`` shows it.
    """

    # Not a dataclass: see amiclient.osc.
    def __init__(
        self, header: str, get: Callable[[_T], Any], *, long: bool = False
    ) -> None:
        self.header = header
        self.get = get
        self.long = long


def one(columns: Sequence[Column[_T]], record: _T) -> Table:
    """Make the result of a command that shows one record."""
    return (
        tuple(column.header for column in columns),
        tuple(column.get(record) for column in columns),
    )


def many(
    columns: Sequence[Column[_T]], records: Iterable[_T], *, long: bool
) -> Table:
    """Make the result of a command that lists records."""
    shown = [column for column in columns if long or not column.long]
    return (
        tuple(column.header for column in shown),
        (tuple(column.get(record) for column in shown) for record in records),
    )


class HumanSize(cliff_columns.FormattableColumn[int | None]):
    """Bytes that are written for people in tables, and raw elsewhere."""

    def human_readable(self) -> str:
        """Write the size."""
        return str(self._value and units.format_size(self._value))


#: What is said of kernels that are not in the root filesystem.
_CAME_ALONG = {
    'manifest': ' (of the manifest)',
    'tarball': ' (of the tarball)',
}


class Kernels(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """Kernels of a root filesystem: a line for each, or records."""

    def human_readable(self) -> str:
        """Write the lines."""
        return '\n'.join(
            f'{each["version"]}: {each["kernel"]}, '
            f'{each["ramdisk"] or "no ramdisk"}'
            f'{_CAME_ALONG.get(each["source"], "")}'
            for each in self._value
        )


class Partitions(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """Partitions of a disk: a line for each, or records."""

    def human_readable(self) -> str:
        """Write the lines."""
        return '\n'.join(
            f'{each["number"]}: {each["size"]}, {each["content"]}'
            for each in self._value
        )


def _partition_row(each: disk.Partition) -> dict[str, Any]:
    return {
        'number': each.number,
        'start': each.start,
        'size': each.size,
        'type': each.type,
        'uuid': each.uuid,
        'content': each.what,
        'root': each.is_root,
        'boot': each.is_boot,
    }


def _kernel_row(each: boot_files.BootFiles) -> dict[str, Any]:
    return {
        'version': each.version,
        'kernel': each.kernel,
        'ramdisk': each.ramdisk,
        'source': each.source,
    }


SHRUNK: tuple[Column[shrink.Shrunk], ...] = (
    Column('image', lambda r: str(r.image)),
    Column('output', lambda r: str(r.output)),
    Column('filesystem', lambda r: r.filesystem),
    Column('block_size', lambda r: r.block_size),
    Column('block_count', lambda r: r.block_count),
    Column('size', lambda r: r.size),
    Column('size_before', lambda r: r.size_before),
    Column('in_use', lambda r: r.in_use),
    Column('lower_bound', lambda r: r.lower_bound),
    Column('saved', lambda r: r.saved),
)

#: Of an archive, all four are the same.
SAVED: tuple[Column[save.Saved], ...] = (
    Column('directory', lambda r: str(r.directory)),
    Column('image', lambda r: str(r.image)),
    Column('kernel', lambda r: r.kernel and str(r.kernel)),
    Column('ramdisk', lambda r: r.ramdisk and str(r.ramdisk)),
    Column('manifest', lambda r: str(r.manifest)),
    Column('downloaded', lambda r: r.downloaded),
)

EXTRACTED: tuple[Column[extract.Extracted], ...] = (
    Column('directory', lambda r: str(r.directory)),
    Column('image', lambda r: str(r.image)),
    Column('kernel', lambda r: r.kernel and str(r.kernel)),
    Column('ramdisk', lambda r: r.ramdisk and str(r.ramdisk)),
    Column('manifest', lambda r: str(r.manifest)),
)

SHRINK_PLAN: tuple[Column[shrink.ShrinkPlan], ...] = (
    Column('image', lambda r: str(r.image.path)),
    Column('output', lambda r: str(r.output)),
    Column('filesystem', lambda r: r.filesystem),
    Column('block_size', lambda r: r.block_size),
    Column('block_count', lambda r: r.block_count),
    Column('size', lambda r: r.size),
    Column('size_before', lambda r: r.size_before),
    Column('in_use', lambda r: r.in_use),
    Column('lower_bound', lambda r: r.lower_bound),
    Column('saved', lambda r: r.size_before - r.size),
)

BUILT: tuple[Column[build.Built], ...] = (
    Column('output', lambda r: str(r.output)),
    Column('size', lambda r: r.size),
    Column('files', lambda r: r.files),
    Column('filesystem', lambda r: r.filesystem),
    Column('uuid', lambda r: r.uuid),
)

INSPECTED: tuple[Column[inspect.Inspected], ...] = (
    Column('source', lambda r: str(r.source)),
    Column('format', lambda r: r.format),
    Column('partition', lambda r: r.partition),
    Column('filesystem', lambda r: r.filesystem),
    Column('uuid', lambda r: r.uuid),
    Column('label', lambda r: r.label),
    Column('features', lambda r: format_columns.ListColumn([*r.features])),
    Column('block_size', lambda r: r.block_size),
    Column('size', lambda r: r.size),
    Column('in_use', lambda r: r.in_use),
    Column('minimum_size', lambda r: r.minimum_size),
    Column('state', lambda r: r.state),
    Column('needs_recovery', lambda r: r.needs_recovery),
    Column('os_distro', lambda r: r.release.distro),
    Column('os_version', lambda r: r.release.version),
    Column('architecture', lambda r: r.architecture),
    Column('kernels', lambda r: Kernels([_kernel_row(k) for k in r.kernels])),
    Column(
        'partitions',
        lambda r: Partitions([_partition_row(p) for p in r.partitions]),
    ),
)

BOOTED: tuple[Column[trial.Booted], ...] = (
    Column('result', lambda r: r.result),
    Column('seconds', lambda r: r.seconds),
    Column('matched', lambda r: r.matched),
    Column('root_size', lambda r: r.root_size),
    Column('console', lambda r: r.console and str(r.console)),
    Column('root_size_before', lambda r: r.root_size_before),
    Column('disk', lambda r: r.disk),
    Column('accelerator', lambda r: r.accelerator),
    Column('cause', lambda r: r.cause and r.cause.name),
)

SHARED: tuple[Column[share.Shared], ...] = (
    Column('Role', lambda r: r.kind.noun),
    Column('Image', lambda r: r.image.id),
    Column('Name', lambda r: r.image.name),
    Column('Visibility', lambda r: r.image.visibility),
    Column('Project', lambda r: r.project),
    Column('Status', lambda r: r.status),
)
