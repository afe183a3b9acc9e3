#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.


"""Will a root filesystem boot in a cloud, and behave there?

Nothing is run or mounted; each rule looks at files. Rules are in the modules
whose names begin with ``rules_``; the users' documentation describes each of
them.
"""

import pathlib
import time

from amiclient import exceptions
from amiclient.ext import reader as reader_
from amiclient.ext import superblock
from amiclient import findings
from amiclient.rootfs import case as case_
from amiclient.rootfs import kernels
from amiclient.rootfs import ramdisks
from amiclient.rootfs import rules_boot
from amiclient.rootfs import rules_cloud
from amiclient.rootfs import rules_disk
from amiclient.rootfs import rules_traces
from amiclient.source import bundle
from amiclient.source import detect

#: Says that there are no files, and is found alone then.
_BLANK = 'blank'

#: Says that a rule could not be tried.
_UNREADABLE = 'unreadable'

_RULES: dict[str, case_.Rule] = {
    **rules_boot.RULES,
    **rules_disk.RULES,
    **rules_cloud.RULES,
    **rules_traces.RULES,
}

#: The names of all rules.
RULES = frozenset({*_RULES, _BLANK, _UNREADABLE})


def check(
    source: bundle.Source,
    *,
    kernel: pathlib.Path | None = None,
    ramdisk: pathlib.Path | None = None,
    now: float | None = None,
) -> tuple[findings.Finding, ...]:
    """Apply all rules to a source.

    :param source: what amiclient.source.resolve.opened() made of it.
    :param kernel: a file, in place of the one that the source brings along;
        so ``ramdisk``.
    :param now: seconds since 1970; None for the time that it is.
    :raises SourceError: if there is no ext2, ext3 or ext4 filesystem, or
        what is given is no kernel or no ramdisk.
    :raises DamagedError: if the filesystem makes no sense.
    """
    detect.open_root(source.root)
    kernel, ramdisk = kernel or source.kernel, ramdisk or source.ramdisk
    found_kernel = kernels.identify_kernel(kernel) if kernel else None
    if ramdisk is not None:
        ramdisks.identify_ramdisk(ramdisk)
    with source.root.open('rb') as file:
        head = file.read(superblock.OFFSET)
    with reader_.opened(source.root) as reader:
        case = case_.Case(
            reader=reader,
            head=head,
            kernel=found_kernel,
            ramdisk=ramdisk,
            now=time.time() if now is None else now,
            # A filesystem that was made of files has no more room than that.
            tight=source.format == 'files',
        )
        return findings.ranked(_apply(case))


def _apply(case: case_.Case) -> list[findings.Finding]:
    if case.is_blank:
        return [
            findings.Finding(
                'note',
                _BLANK,
                'the root filesystem has no files: the ramdisk has to bring '
                'all that there is',
            )
        ]
    found: list[findings.Finding] = []
    for name, rule in _RULES.items():
        try:
            found.extend(rule(case))
        except exceptions.DamagedError as error:
            found.append(
                findings.Finding(
                    'error',
                    _UNREADABLE,
                    f'the rule {name} could not be tried, for the filesystem '
                    f'is damaged: {error.message}',
                    'mend a copy with e2fsck -f',
                )
            )
    return found
