# SPDX-License-Identifier: Apache-2.0

"""What is printed of findings."""

from collections.abc import Iterable
import typing
from typing import Any

from cliff import columns as cliff_columns

from amiclient.osc.shown import columns

if typing.TYPE_CHECKING:
    from amiclient import findings

COLUMNS: tuple[columns.Column['findings.Finding'], ...] = (
    columns.Column('severity', lambda r: r.severity),
    columns.Column('rule', lambda r: r.rule),
    columns.Column('message', lambda r: r.message),
    columns.Column('remedy', lambda r: r.remedy),
)

#: What is said of what nothing was found about.
OK = 'ok'


class Findings(cliff_columns.FormattableColumn[list[dict[str, Any]]]):
    """Findings: a line for each, or a list of records."""

    def human_readable(self) -> str:
        """Write the lines."""
        return '\n'.join(
            f'{row["severity"]}: {row["rule"]}: {row["message"]}'
            for row in self._value
        )


class Health(Findings):
    """Findings in a word or two: the worst severity, and the rules."""

    def human_readable(self) -> str:
        """Write the words."""
        if not self._value:
            return OK
        # The worst is first.
        rules = ', '.join(dict.fromkeys(row['rule'] for row in self._value))
        return f'{self._value[0]["severity"]}: {rules}'


def rows(found: Iterable['findings.Finding']) -> list[dict[str, Any]]:
    """Make what findings are in JSON."""
    return [
        {column.header: column.get(finding) for column in COLUMNS}
        for finding in found
    ]
