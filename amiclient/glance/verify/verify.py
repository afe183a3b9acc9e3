# SPDX-License-Identifier: Apache-2.0

"""The check of one AMI, as thorough as one wants."""

from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib
from typing import TYPE_CHECKING

from amiclient import findings
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance.model import Kind
from amiclient.glance import retry
from amiclient.glance.transfer import ranges
from amiclient.glance.verify import against
from amiclient.glance.verify import context
from amiclient.glance.verify import deep
from amiclient.glance.verify import rules
from amiclient.progress import Progress
from amiclient import scratch
from amiclient.source import opening
from amiclient.source import resolve

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy

#: All rules, and so what ``--ignore`` takes.
RULES = deep.CHECKS | context.RECORDS.keys() | context.DATA.keys()


@dataclasses.dataclass(frozen=True)
class VerifyRequest:
    """What to check, and how thoroughly.

    :param ami: a name or id.
    :param is_deep: whether to fetch the data and look at it.
    :param local: what to compare it with.
    :param work_directory: for what is fetched, and for copies; None for
        the usual ones.
    """

    ami: str
    is_deep: bool = False
    local: against.Local | None = None
    work_directory: pathlib.Path | None = None
    patience: retry.Patience = dataclasses.field(
        default_factory=retry.Patience
    )


def run(
    request: VerifyRequest, proxy: '_proxy.Proxy', *, progress: Progress
) -> tuple[findings.Finding, ...]:
    """Find out what is wrong with one AMI.

    :returns: what was found, the worst first.
    :raises CloudError: if there is no such AMI, or the cloud does not answer
        as it should.
    :raises SourceError: if the local source cannot be read.
    :raises NoSpaceError: if there is no room for the work.
    """
    catalog = client.Catalog(proxy, patience=request.patience)
    known = rules.gather(catalog, links.show(catalog, request.ami))
    found = list(rules.examine(known))
    if not request.is_deep and request.local is None:
        told = {(finding.rule, finding.about) for finding in found}
        near = deep.peek(known, ranges.Reading(proxy, request.patience))
        found += [f for f in near if (f.rule, f.about) not in told]
        return findings.ranked(found)
    with (
        _local(request.local, progress) as local,
        scratch.directory(
            request.work_directory,
            request.local.path if request.local else None,
            'there is no directory for what is downloaded',
        ) as directory,
        scratch.full_disk(directory),
    ):
        files: dict[Kind, pathlib.Path] = {}
        if request.is_deep:
            fetcher = deep.Fetcher(
                proxy, directory, request.patience, progress
            )
            files, seen = deep.look(known, fetcher)
            found += [finding for finding in seen if finding not in found]
        if local is not None:
            comparison = against.Comparison(
                known, local, directory, files.get(Kind.AMI), progress
            )
            found += comparison.parts()
            found.append(comparison.image())
    return findings.ranked(found)


@contextlib.contextmanager
def _local(
    local: against.Local | None, progress: Progress
) -> Iterator[against.Local | None]:
    """Open what the AMI is compared with, before anything is fetched."""
    if local is None:
        yield None
        return
    with resolve.opened(local.path, local.choice, progress=progress) as source:
        with opening.opened(
            source.root, wanted='a root filesystem', devices=True
        ):
            pass
        yield dataclasses.replace(
            local,
            path=source.root,
            kernel=source.kernel,
            ramdisk=source.ramdisk,
            saved=source.part('image'),
        )
