# SPDX-License-Identifier: Apache-2.0

"""The check of one AMI, as thorough as one wants.

And what ``ami inspect`` and ``ami check`` tell of a source, of an image.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import logging
import pathlib
from typing import TYPE_CHECKING

from amiclient import errors
from amiclient.ext import layout
from amiclient import findings
from amiclient.glance import certificates
from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import model
from amiclient.glance.model import Kind
from amiclient.glance import places
from amiclient.glance import retry
from amiclient.glance.transfer import ranges
from amiclient.glance.verify import against
from amiclient.glance.verify import context
from amiclient.glance.verify import deep
from amiclient.glance.verify import elsewhere
from amiclient.glance.verify import rules
from amiclient.progress import Progress
from amiclient.rootfs import boot_extract
from amiclient.rootfs import boot_files
from amiclient.rootfs import check as rootfs_check
from amiclient.rootfs import identify
from amiclient.rootfs import inspect as look_into
from amiclient import scratch
from amiclient.source import block
from amiclient.source import opening
from amiclient.source import resolve

if TYPE_CHECKING:
    from openstack.image.v2 import _proxy

LOG = logging.getLogger(__name__)

#: All rules, and so what ``--ignore`` takes.
RULES = (
    deep.CHECKS
    | context.RECORDS.keys()
    | context.DATA.keys()
    | context.ELSEWHERE.keys()
)


@dataclasses.dataclass(frozen=True)
class VerifyRequest:
    """What to check, and how thoroughly.

    :param ami: a name or id.
    :param is_deep: whether to fetch the data and look at it.
    :param local: what to compare it with.
    :param elsewhere: other regions and clouds that are to have it, too.
    :param target: ``nova``, or ``ironic``; None for what it is made for.
    :param work_directory: for what is fetched, and for copies; None for
        the usual ones.
    """

    ami: str
    is_deep: bool = False
    local: against.Local | None = None
    elsewhere: tuple[places.CloudPlace, ...] = ()
    target: str | None = None
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
    known = dataclasses.replace(
        rules.gather(catalog, links.show(catalog, request.ami)),
        target=request.target,
    )
    known = dataclasses.replace(
        known,
        certificates=certificates.Checker(catalog).all(
            image for _, image in known.images
        ),
    )
    found = list(rules.examine(known))
    found += elsewhere.find(known, request.elsewhere, request.patience)
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


#: What may be read of an image that all rules look into, or whose kernel is
#: taken out.
_REQUESTS = 4096
_BYTES = 256 << 20


@contextlib.contextmanager
def _inside(
    request: VerifyRequest, proxy: '_proxy.Proxy'
) -> Iterator[tuple[links.Ami, deep.Inside, block.Medium]]:
    """Open the root filesystem of an image, which need not be an AMI."""
    catalog = client.Catalog(proxy, patience=request.patience)
    image = catalog.find(request.ami)
    reading = ranges.Reading(proxy, request.patience, _REQUESTS, _BYTES)
    with reading.opened(image) as medium, errors.about(medium.name):
        yield links.of(catalog, image), deep.inside(image, medium), medium


def inspect(
    request: VerifyRequest, proxy: '_proxy.Proxy'
) -> look_into.Inspected:
    """Look into an image where it lies, as ``ami inspect`` does.

    :raises CloudError: if there is no such image, or the cloud does not give
        parts of it.
    :raises SourceError: if it holds nothing that can be read like that.
    """
    with _inside(request, proxy) as (ami, inner, medium):
        found, path = inner.reader.superblock, pathlib.Path(medium.name)
        kernels = boot_files.find_in(inner.reader, path, None)
        if ami.kernel is not None:
            kernels = (_linked(ami, ami.kernel, request, proxy), *kernels)
        return look_into.look(
            inner.reader,
            layout.RootImage(path, medium.size, False, found, ()),
            source=pathlib.Path(request.ami),
            format=inner.whole.format
            if inner.root.number
            else f'{found.filesystem} filesystem',
            partition=inner.root.number or None,
            kernels=kernels,
            partitions=inner.whole.partitions if inner.root.number else (),
        )


def _linked(
    ami: links.Ami,
    kernel: model.ImageRecord,
    request: VerifyRequest,
    proxy: '_proxy.Proxy',
) -> boot_files.BootFiles:
    """Describe the kernel that an AMI links to."""
    version = None
    try:
        with ranges.Reading(proxy, request.patience).opened(kernel) as medium:
            version = deep.kernel_in(medium).release
    except errors.AmiError as error:
        # What is wrong with it is for ``ami verify`` to tell.
        LOG.info('the kernel was not looked into: %s', error)
    return boot_files.BootFiles(
        version=version or kernel.name or kernel.id,
        kernel=kernel.name or kernel.id,
        ramdisks=(ami.ramdisk.name or ami.ramdisk.id,) if ami.ramdisk else (),
        source='image',
        image=pathlib.Path(kernel.id),
    )


def check(
    request: VerifyRequest,
    given: rootfs_check.CheckRequest,
    proxy: '_proxy.Proxy',
    *,
    progress: Progress,
) -> tuple[findings.Finding, ...]:
    """Apply the rules of ``ami check`` to an image where it lies.

    Its kernel and its ramdisk are fetched, unless others are given. Of an
    image that links to none, or if a version is given, they are taken out of
    its root filesystem.

    :raises CloudError: as :func:`inspect` does. :raises SourceError: likewise.
    :raises NoSpaceError: if there is no room for kernel and ramdisk.
    """
    with (
        _inside(request, proxy) as (ami, inner, medium),
        scratch.directory(
            request.work_directory,
            None,
            'there is no directory for the kernel and the ramdisk',
        ) as directory,
        scratch.full_disk(directory),
    ):
        fetcher = deep.Fetcher(proxy, directory, request.patience, progress)
        kernel, ramdisk = given.kernel, given.ramdisk
        linked = ami.kernel if given.version is None else None
        if kernel is None and linked is not None:
            kernel = fetcher.fetch(Kind.AKI, linked)
            if ramdisk is None and ami.ramdisk is not None:
                ramdisk = fetcher.fetch(Kind.ARI, ami.ramdisk)
        elif kernel is None:
            there = boot_files.find_in(
                inner.reader, pathlib.Path(medium.name), None
            )
            if there or given.version is not None:
                taken = boot_extract.take(
                    boot_files.choose(there, given.version, name=medium.name),
                    directory,
                    ramdisk=ramdisk is None,
                    reader=inner.reader,
                )
                kernel = taken.kernel.path
                if taken.ramdisk is not None:
                    ramdisk = taken.ramdisk.path
        if ramdisk is not None:
            identify.identify_ramdisk(ramdisk)
        found = rootfs_check.examine(
            deep.case_of(
                ami.image,
                inner,
                identify.identify_kernel(kernel) if kernel else None,
                ramdisk,
            )
        )
    return findings.ranked(found)
