# SPDX-License-Identifier: Apache-2.0

"""A triple on a real Glance: by hand, and by ``openstack ami upload``.

Both get the same three files, and an empty cloud. By hand the image itself is
shrunk, so each round starts on a copy, which is made (and written to disk)
before the clock starts: that is not counted, though it is what a careful user
would do, and what ``ami upload`` does within the time that is measured.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
import subprocess

import openstack
from openstack import connection as connection_

from amiclient.tests.cloud.cloud import Cloud
from benchmarks import measure

BY_HAND = 'by hand'
DEFAULT = 'ami upload'
TIGHT = 'ami upload --headroom 0'

_RECIPE = pathlib.Path(__file__).parent / 'recipe'


@dataclasses.dataclass(frozen=True)
class Files:
    """What is registered."""

    image: pathlib.Path
    kernel: pathlib.Path
    ramdisk: pathlib.Path


def compare(
    files: Files,
    cloud: Cloud,
    *,
    work: pathlib.Path,
    env: Mapping[str, str],
    rounds: int,
) -> measure.Series:
    """Measure all three ways, one after the other, in each round.

    The first round warms caches up, of files and of modules, and is dropped.

    :param cloud: one that runs, with no images in it.
    :param work: a directory with room for two copies of what is in use in the
        image.
    """
    connection = openstack.connect(
        load_yaml_config=False, region_name='RegionOne', auth=cloud.auth()
    )
    env = {**env, **cloud.environment()}
    series = measure.Series()
    for number in range(rounds + 1):
        for subject in (BY_HAND, DEFAULT, TIGHT):
            argv = _command(subject, files, work)
            cost = measure.run(argv, env=env)
            sent = _clear(connection)
            if number:
                series.add_cost(subject, cost)
                series.add(subject, sent=sent)
    return series


def _command(
    subject: str, files: Files, work: pathlib.Path
) -> list[str | pathlib.Path]:
    if subject == BY_HAND:
        copy = work / 'by-hand.img'
        _copy(files.image, copy)
        return [_RECIPE, copy, files.kernel, files.ramdisk, 'by-hand']
    argv: list[str | pathlib.Path] = [
        *('openstack', 'ami', 'upload', files.image),
        *('--name', 'uploaded', '--work-directory', work),
        *('--kernel', files.kernel, '--ramdisk', files.ramdisk),
    ]
    return [*argv, '--headroom', '0'] if subject == TIGHT else argv


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    target.unlink(missing_ok=True)
    subprocess.run(
        ['cp', '--sparse=always', '--reflink=never', source, target],
        check=True,
    )
    # The disk is not to be busy with it later.
    fd = os.open(target, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _clear(connection: connection_.Connection) -> int:
    """Delete all images.

    :returns: bytes that they had.
    :raises CommandFailed: if it is not one triple that is there.
    """
    images = [*connection.image.images()]
    formats = sorted(image.disk_format for image in images)
    links = {
        link
        for image in images
        for link in (image.kernel_id, image.ramdisk_id)
        if link
    }
    if (
        formats != ['aki', 'ami', 'ari']
        or {image.status for image in images} != {'active'}
        or not links <= {image.id for image in images}
    ):
        raise measure.CommandFailed(f'this is no triple: {images}')
    for image in images:
        connection.image.delete_image(image)
    return sum(image.size for image in images)
