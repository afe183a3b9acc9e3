# SPDX-License-Identifier: Apache-2.0

"""Commands that look for trouble: their options, columns and exit status."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable
import typing


from amiclient.osc import command

if typing.TYPE_CHECKING:
    from amiclient import findings
    from amiclient.osc.shown import columns


class Check(command.Lister):
    """A command whose result is a list of findings.

    Its exit status is 1 if one of them is an error; the list is printed all
    the same.
    """

    _failed = False

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Define the options."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '--strict',
            action='store_true',
            help='Fail if there is a warning, too',
        )
        parser.add_argument(
            '--ignore',
            metavar='<rule>',
            action='append',
            default=[],
            help='Leave out what this rule finds (repeat it for several)',
        )
        return parser

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command.

        :returns: the exit status.
        """
        status = super().run(parsed_args)
        return status or int(self._failed)

    def refuse_unknown(
        self, parsed_args: argparse.Namespace, rules: Collection[str]
    ) -> None:
        """Refuse to ignore a rule that there is not.

        :raises UsageError: if there is none of that name.
        """
        # Not at the top: see amiclient.osc.
        from amiclient import findings

        findings.refuse_unknown(parsed_args.ignore, rules)

    def result(
        self,
        parsed_args: argparse.Namespace,
        found: Iterable[findings.Finding],
    ) -> columns.Table:
        """Make the result, and decide the exit status."""
        # Not at the top: see amiclient.osc.
        from amiclient import findings
        from amiclient.osc.shown import columns
        from amiclient.osc.shown import findings as shown_findings

        shown = findings.ranked(findings.without(found, parsed_args.ignore))
        self._failed = findings.failed(shown, strict=parsed_args.strict)
        return columns.many(shown_findings.COLUMNS, shown, long=False)
