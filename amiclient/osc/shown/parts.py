# SPDX-License-Identifier: Apache-2.0

"""What is printed of kernels and ramdisks."""

from __future__ import annotations

import datetime
import typing
from typing import Any

from cliff import columns as cliff_columns
from osc_lib.cli import format_columns

from amiclient.osc.shown import columns

if typing.TYPE_CHECKING:
    from amiclient.glance import links


class Users(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """The images that link to one: a line each, or a list of records."""

    def human_readable(self) -> str:
        """Write the lines."""
        return '\n'.join(
            f'{user["name"]} ({user["id"]})' for user in self._value
        )


LIST: tuple[columns.Column[links.LinkedPart], ...] = (
    columns.Column('ID', lambda r: r.image.id),
    columns.Column('Name', lambda r: r.image.name),
    columns.Column('Status', lambda r: r.image.status),
    columns.Column(
        'Architecture',
        lambda r: r.image.properties.get('architecture'),
        long=True,
    ),
    columns.Column('Size', lambda r: r.image.size, long=True),
    columns.Column('Visibility', lambda r: r.image.visibility, long=True),
    columns.Column('Protected', lambda r: r.image.protected, long=True),
    columns.Column('Project', lambda r: r.image.owner, long=True),
    columns.Column(
        'Tags',
        lambda r: format_columns.ListColumn(list(r.image.tags)),
        long=True,
    ),
    columns.Column('Used By', lambda r: len(r.users or ()), long=True),
)


def shown(
    *, human_readable: bool
) -> tuple[columns.Column[links.LinkedPart], ...]:
    """Tell the columns of one kernel or ramdisk.

    :param human_readable: whether sizes in tables are for people.
    """

    def size(value: int | None) -> Any:
        return columns.HumanSize(value) if human_readable else value

    return (
        columns.Column('id', lambda r: r.image.id),
        columns.Column('name', lambda r: r.image.name),
        columns.Column('status', lambda r: r.image.status),
        columns.Column('disk_format', lambda r: r.image.disk_format),
        columns.Column('container_format', lambda r: r.image.container_format),
        columns.Column('size', lambda r: size(r.image.size)),
        columns.Column('visibility', lambda r: r.image.visibility),
        columns.Column('protected', lambda r: r.image.protected),
        columns.Column('hidden', lambda r: r.image.hidden),
        columns.Column('owner', lambda r: r.image.owner),
        columns.Column(
            'architecture', lambda r: r.image.properties.get('architecture')
        ),
        columns.Column('hash_algo', lambda r: r.image.hash_algo),
        columns.Column('hash_value', lambda r: r.image.hash_value),
        columns.Column('created_at', lambda r: _written(r.image.created_at)),
        columns.Column(
            'tags', lambda r: format_columns.ListColumn(list(r.image.tags))
        ),
        columns.Column(
            'used_by',
            lambda r: Users(
                [{'id': u.id, 'name': u.name} for u in r.users or ()]
            ),
        ),
    )


def _written(instant: datetime.datetime | None) -> str | None:
    return instant.isoformat() if instant else None
