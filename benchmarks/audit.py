# SPDX-License-Identifier: Apache-2.0

"""What it takes to look for a package in twenty AMIs in the cloud.

Half of them have the package database of the image, which is one of dpkg, and
half one of rpm that is as large as those of cloud images are.
"""

from collections.abc import Mapping
import pathlib
import uuid

import openstack

from amiclient.ext import reader
from amiclient.tests.cloud.cloud import Cloud
from amiclient.tests.unit.rootfs import databases
from amiclient.tests.unit.rootfs import images
from benchmarks import measure

AUDIT = 'ami audit --all'

#: AMIs, and the bytes of each.
COUNT = 20
SIZE = 96 << 20

#: Packages of rpm, and the bytes of the files in the header of one.
_PACKAGES = 450
_FILES = 40_000


def compare(
    image: pathlib.Path,
    cloud: Cloud,
    *,
    work: pathlib.Path,
    env: Mapping[str, str],
    rounds: int,
) -> measure.Series:
    """Measure the command.

    :param image: with the packages of a Debian.
    :param cloud: one that runs.
    :returns: seconds and bytes.
    """
    with reader.opened(image) as files:
        status = files.read_file('/var/lib/dpkg/status', 32 << 20)
    rpm, _ = databases.sqlite(
        databases.header(f'p{number}', '1', files=_FILES)
        for number in range(_PACKAGES)
    )
    proxy = openstack.connect(
        load_yaml_config=False, region_name='RegionOne', auth=cloud.auth()
    ).image
    for name, path, content in (
        ('dpkg', 'var/lib/dpkg/status', status),
        ('rpm', 'usr/lib/sysimage/rpm/rpmdb.sqlite', rpm),
    ):
        root = images.image(
            work,
            {path: content, 'etc/os-release': b'', 'data': bytes(SIZE >> 1)},
            size=SIZE,
            name=name,
        )
        for number in range(COUNT // 2):
            body = {
                'name': f'{name}-{number}',
                'disk_format': 'ami',
                'container_format': 'ami',
                'kernel_id': str(uuid.uuid4()),
            }
            id = proxy.post('/images', json=body).json()['id']
            with root.open('rb') as file:
                proxy.put(
                    f'/images/{id}/file',
                    data=file,
                    headers={'Content-Type': 'application/octet-stream'},
                ).raise_for_status()
    series = measure.Series()
    for number in range(rounds + 1):
        cost = measure.run(
            # Nobody has that: the exit status is 0.
            ['openstack', 'ami', 'audit', '--all', '--package', 'dpkg<1'],
            env={**env, **cloud.environment()},
        )
        if number:
            series.add(AUDIT, wall=cost.wall, cpu=cost.cpu, client=cost.client)
    return series
