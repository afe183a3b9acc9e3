# SPDX-License-Identifier: Apache-2.0

"""What an upload prints: what it did, or would do."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import Any

from cliff import columns as cliff_columns
from osc_lib.cli import format_columns

from amiclient.glance import model
from amiclient.glance.upload import request
from amiclient.osc.shown import columns


class Steps(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """What would be done: a line for each image, or a list of records."""

    def human_readable(self) -> str:
        """Write the lines."""
        return '\n'.join(
            f'{step["action"]} {step["role"]} {step["name"]}: '
            f'{step["disk_format"]}/{step["container_format"]}, '
            f'{step["size"]} bytes'
            + (f', id {step["id"]}' if step['id'] else '')
            for step in self._value
        )


@dataclasses.dataclass(frozen=True)
class Uploaded:
    """What an upload did, or would do.

    :param steps: of a dry run.
    """

    id: str | None
    name: str | None
    status: str
    disk_format: str | None
    container_format: str | None
    size: int | None
    sha512: str | None
    kernel_id: str | None
    ramdisk_id: str | None
    uploaded: int
    reused: tuple[str, ...]
    steps: tuple[request.Step, ...] = ()


UPLOAD: tuple[columns.Column[Uploaded], ...] = (
    columns.Column('id', lambda r: r.id),
    columns.Column('name', lambda r: r.name),
    columns.Column('status', lambda r: r.status),
    columns.Column('disk_format', lambda r: r.disk_format),
    columns.Column('container_format', lambda r: r.container_format),
    columns.Column('size', lambda r: r.size),
    columns.Column('sha512', lambda r: r.sha512),
    columns.Column('kernel_id', lambda r: r.kernel_id),
    columns.Column('ramdisk_id', lambda r: r.ramdisk_id),
    columns.Column('uploaded', lambda r: r.uploaded),
    columns.Column(
        'reused', lambda r: format_columns.ListColumn(list(r.reused))
    ),
)


def uploaded(
    record: model.ImageRecord, sent: int, reused: tuple[str, ...]
) -> columns.Table:
    """Make the result of an upload.

    :param record: the image whose id is the result.
    :param sent: bytes, of all images.
    :param reused: ids.
    """
    return columns.one(
        UPLOAD,
        Uploaded(
            id=record.id,
            name=record.name,
            status=record.status,
            disk_format=record.disk_format,
            container_format=record.container_format,
            size=record.size,
            sha512=record.hash_value,
            kernel_id=record.kernel_id,
            ramdisk_id=record.ramdisk_id,
            uploaded=sent,
            reused=reused,
        ),
    )


def planned(steps: Sequence[request.Step]) -> columns.Table:
    """Make the result of an upload that was only planned.

    :param steps: what would be done; the last one's image is the result.
    """
    reuse = {s.kind: s.record for s in steps if isinstance(s, request.Reuse)}
    last = steps[-1]
    links = reuse if last.kind is model.Kind.AMI else {}
    kernel, ramdisk = links.get(model.Kind.AKI), links.get(model.Kind.ARI)
    return columns.one(
        (
            *UPLOAD,
            columns.Column(
                'plan', lambda r: Steps([_step_row(s) for s in r.steps])
            ),
        ),
        Uploaded(
            id=last.image.id,
            name=last.image.name,
            status='planned',
            disk_format=last.image.disk_format,
            container_format=last.image.container_format,
            size=last.size,
            sha512=None,
            kernel_id=kernel.id if kernel else None,
            ramdisk_id=ramdisk.id if ramdisk else None,
            uploaded=sum(
                step.payload.size
                for step in steps
                if isinstance(step, request.Creation)
            ),
            reused=tuple(record.id for record in reuse.values()),
            steps=tuple(steps),
        ),
    )


def _step_row(step: request.Step) -> dict[str, Any]:
    return {
        'role': step.kind.noun,
        'action': step.action,
        'id': step.image.id,
        'name': step.image.name,
        'disk_format': step.image.disk_format,
        'container_format': step.image.container_format,
        'size': step.size,
    }
