# SPDX-License-Identifier: Apache-2.0

"""What ``openstack ami list`` and ``openstack ami show`` print."""

from __future__ import annotations

from collections.abc import Callable
import typing
from typing import Any

from cliff import columns as cliff_columns
from osc_lib.cli import format_columns

from amiclient.osc.shown import columns
from amiclient.osc.shown import findings
from amiclient import units

if typing.TYPE_CHECKING:
    from amiclient.glance import model
    from amiclient.glance.verify import reports

_LIST: tuple[columns.Column[reports.Report], ...] = (
    columns.Column('ID', lambda r: r.ami.image.id),
    columns.Column('Name', lambda r: r.ami.image.name),
    columns.Column('Status', lambda r: r.ami.image.status),
    columns.Column('Kernel', lambda r: r.ami.image.kernel_id),
    columns.Column('Ramdisk', lambda r: r.ami.image.ramdisk_id),
    columns.Column(
        'Kernel Name', lambda r: r.ami.kernel and r.ami.kernel.name, long=True
    ),
    columns.Column(
        'Ramdisk Name',
        lambda r: r.ami.ramdisk and r.ami.ramdisk.name,
        long=True,
    ),
    columns.Column(
        'Disk Format', lambda r: r.ami.image.disk_format, long=True
    ),
    columns.Column('Size', lambda r: r.ami.image.size, long=True),
    columns.Column('Visibility', lambda r: r.ami.image.visibility, long=True),
    columns.Column('Protected', lambda r: r.ami.image.protected, long=True),
    columns.Column('Project', lambda r: r.ami.image.owner, long=True),
    columns.Column(
        'Tags',
        lambda r: format_columns.ListColumn(list(r.ami.image.tags)),
        long=True,
    ),
)

_HEALTH: columns.Column[reports.Report] = columns.Column(
    'Health', lambda r: findings.Health(findings.rows(r.found or ()))
)


def listed(*, check: bool) -> tuple[columns.Column[reports.Report], ...]:
    """Tell the columns of a list of AMIs.

    :param check: whether their health is one.
    """
    return (*_LIST, _HEALTH) if check else _LIST


class Part(cliff_columns.FormattableColumn[dict[str, Any] | None]):
    """A kernel or ramdisk: a line, or a record."""

    #: How to write a size.
    size: Callable[[int], str] = staticmethod(lambda size: f'{size} bytes')

    def human_readable(self) -> str:
        """Write the line."""
        part = self._value
        if part is None:
            return str(None)
        told = [part['status']]
        if part['disk_format']:
            told.append(f'{part["disk_format"]}/{part["container_format"]}')
        if part['size'] is not None:
            told.append(self.size(part['size']))
        if part['visibility']:
            told.append(part['visibility'])
        health = findings.Health(part['findings']).human_readable()
        return f'{part["name"] or part["id"]} ({", ".join(told)}): {health}'


class HumanPart(Part):
    """The same, with a size for people."""

    size = staticmethod(units.format_size)


def shown(
    *, human_readable: bool
) -> tuple[columns.Column[reports.Report], ...]:
    """Tell the columns of one AMI.

    :param human_readable: whether tables show sizes for people.
    """

    def size(image: model.ImageRecord | None) -> Any:
        value = image.size if image else None
        return columns.HumanSize(value) if human_readable else value

    part = HumanPart if human_readable else Part
    return (
        columns.Column('id', lambda r: r.ami.image.id),
        columns.Column('name', lambda r: r.ami.image.name),
        columns.Column('status', lambda r: r.ami.image.status),
        columns.Column('disk_format', lambda r: r.ami.image.disk_format),
        columns.Column(
            'container_format', lambda r: r.ami.image.container_format
        ),
        columns.Column('size', lambda r: size(r.ami.image)),
        columns.Column('visibility', lambda r: r.ami.image.visibility),
        columns.Column('protected', lambda r: r.ami.image.protected),
        columns.Column('hidden', lambda r: r.ami.image.hidden),
        columns.Column('owner', lambda r: r.ami.image.owner),
        columns.Column(
            'architecture',
            lambda r: r.ami.image.properties.get('architecture'),
        ),
        columns.Column('min_disk', lambda r: r.ami.image.min_disk),
        columns.Column('min_ram', lambda r: r.ami.image.min_ram),
        columns.Column('kernel_id', lambda r: r.ami.image.kernel_id),
        columns.Column(
            'kernel_name', lambda r: r.ami.kernel and r.ami.kernel.name
        ),
        columns.Column('kernel_status', lambda r: r.ami.kernel_status),
        columns.Column('kernel_size', lambda r: size(r.ami.kernel)),
        columns.Column('ramdisk_id', lambda r: r.ami.image.ramdisk_id),
        columns.Column(
            'ramdisk_name', lambda r: r.ami.ramdisk and r.ami.ramdisk.name
        ),
        columns.Column('ramdisk_status', lambda r: r.ami.ramdisk_status),
        columns.Column('ramdisk_size', lambda r: size(r.ami.ramdisk)),
        columns.Column(
            'tags', lambda r: format_columns.ListColumn(list(r.ami.image.tags))
        ),
        columns.Column('kernel', lambda r: part(_kernel(r))),
        columns.Column('ramdisk', lambda r: part(_ramdisk(r))),
        columns.Column(
            'findings',
            lambda r: findings.Findings(findings.rows(r.found or ())),
        ),
    )


def _kernel(report: reports.Report) -> dict[str, Any] | None:
    link, status = report.ami.image.kernel_id, report.ami.kernel_status
    return _part(report, 'kernel', link, status, report.ami.kernel)


def _ramdisk(report: reports.Report) -> dict[str, Any] | None:
    link, status = report.ami.image.ramdisk_id, report.ami.ramdisk_status
    return _part(report, 'ramdisk', link, status, report.ami.ramdisk)


def _part(
    report: reports.Report,
    noun: str,
    link: str | None,
    status: str | None,
    part: model.ImageRecord | None,
) -> dict[str, Any] | None:
    if link is None:
        return None
    return {
        'id': link,
        'name': part and part.name,
        'status': status,
        'disk_format': part and part.disk_format,
        'container_format': part and part.container_format,
        'size': part and part.size,
        'visibility': part and part.visibility,
        'protected': part and part.protected,
        'hidden': part and part.hidden,
        'owner': part and part.owner,
        'findings': findings.rows(
            finding for finding in report.found or () if finding.about == noun
        ),
    }
