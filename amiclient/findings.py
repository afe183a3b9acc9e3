# SPDX-License-Identifier: Apache-2.0

"""What a check found: one record for all commands that look for trouble."""

from collections.abc import Collection, Iterable
import dataclasses
from typing import Literal

from amiclient import errors

Severity = Literal['error', 'warning', 'note']

#: From the worst on.
SEVERITIES: tuple[Severity, ...] = ('error', 'warning', 'note')


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be, or worth knowing.

    :param severity: ``error``: it does not work, for somebody at least;
        ``warning``: it may not, or not for long; ``note``: good to know.
    :param rule: the rule's name, in words with hyphens between them.
    :param message: one sentence, without a final period.
    :param remedy: a command line for a shell that mends it; None if there is
        none, and then the message says why.
    :param about: which part it is about, such as ``kernel``.
    """

    severity: Severity
    rule: str
    message: str
    remedy: str | None = None
    about: str | None = None


def ranked(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Put the worst first, and leave the rest in its order."""
    return tuple(sorted(found, key=lambda f: SEVERITIES.index(f.severity)))


def worst(found: Iterable[Finding]) -> Severity | None:
    """Return the worst severity; None if nothing was found."""
    return min(
        (finding.severity for finding in found),
        key=SEVERITIES.index,
        default=None,
    )


def failed(found: Iterable[Finding], *, strict: bool = False) -> bool:
    """Whether a check failed; if strict, a warning is enough."""
    enough = ('error', 'warning') if strict else ('error',)
    return worst(found) in enough


def without(
    found: Iterable[Finding],
    ignored: Collection[str],
) -> tuple[Finding, ...]:
    """Leave out the findings of rules that the user ignores."""
    return tuple(finding for finding in found if finding.rule not in ignored)


def refuse_unknown(ignored: Iterable[str], known: Collection[str]) -> None:
    """Refuse names of rules that are not known.

    :raises UsageError: if there is one.
    """
    for rule in ignored:
        if rule not in known:
            raise errors.UsageError(
                f'there is no rule {rule!r}',
                hint=f'choose from {", ".join(sorted(known))}',
            )
