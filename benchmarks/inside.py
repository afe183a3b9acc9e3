# SPDX-License-Identifier: Apache-2.0

"""What it takes to look into an image in the cloud.

The image gets a size that many have, by resize2fs. All goes through the
embedded Glance, on the loopback interface. The login is not measured: any
command has it.
"""

from collections.abc import Mapping
import logging
import pathlib
import time

import openstack

from amiclient.glance import client
from amiclient.glance import links
from amiclient.glance import retry
from amiclient.glance.transfer import ranges
from amiclient.glance.verify import audit
from amiclient.glance.verify import deep
from amiclient.glance.verify import rules
from amiclient.glance.verify import verify
from amiclient import process
from amiclient import progress
from amiclient.rootfs import check
from amiclient import sparse
from amiclient.tests.cloud.cloud import Cloud
from benchmarks import measure
from benchmarks import triple

#: Bytes of the image.
SIZE = 10**9

VERIFY = 'ami verify'
CHECK = 'ami check --image'
PACKAGES = 'ami packages'

_NAME = 'large'


class _Read(logging.Handler):
    """Takes what was read of the largest image out of the log."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.clear()

    def clear(self) -> None:
        self.read = self.size = self.requests = 0

    def emit(self, record: logging.LogRecord) -> None:
        _, read, size, requests = record.args or (None, 0, 0, 0)
        self.requests += requests
        if size > self.size:
            self.read, self.size = read, size


def compare(
    files: triple.Files,
    cloud: Cloud,
    *,
    work: pathlib.Path,
    env: Mapping[str, str],
    rounds: int,
) -> measure.Series:
    """Measure the rules of two commands, and the packages, in turns.

    :param cloud: one that runs.
    :returns: seconds, requests, and the share of the image that was read, in
        percent.
    """
    image = work / 'large.img'
    sparse.copy(files.image, image)
    for argv, good in (
        (['e2fsck', '-fy', image], (0, 1, 2)),
        (['resize2fs', image, f'{SIZE >> 10}K'], (0,)),
    ):
        process.run(argv, access=None, ok=good)
    measure.run(
        [
            *('openstack', 'ami', 'upload', image, '--name', _NAME),
            *('--kernel', files.kernel, '--ramdisk', files.ramdisk),
            *('--no-shrink', '--no-progress'),
        ],
        env={**env, **cloud.environment()},
    )
    proxy = openstack.connect(
        load_yaml_config=False, region_name='RegionOne', auth=cloud.auth()
    ).image
    request = verify.VerifyRequest(_NAME, work_directory=work)

    def look() -> None:
        catalog = client.Catalog(proxy)
        known = rules.gather(catalog, links.show(catalog, _NAME))
        deep.peek(known, ranges.Reading(proxy, retry.Patience()))

    def apply() -> None:
        given = check.CheckRequest(name=pathlib.Path(_NAME))
        verify.check(request, given, proxy, progress=progress.QUIET)

    def installed() -> None:
        image = audit.find(client.Catalog(proxy), _NAME)
        audit.look(image, proxy, retry.Patience())

    heard = _Read()
    ranges.LOG.addHandler(heard)
    ranges.LOG.setLevel(logging.INFO)
    series = measure.Series()
    for number in range(rounds + 1):
        for subject, act in (
            (VERIFY, look),
            (CHECK, apply),
            (PACKAGES, installed),
        ):
            heard.clear()
            begin = time.perf_counter()
            act()
            if number:
                series.add(
                    subject,
                    wall=time.perf_counter() - begin,
                    requests=heard.requests,
                    share=100 * heard.read / heard.size,
                )
    return series
