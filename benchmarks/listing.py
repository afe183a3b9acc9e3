# SPDX-License-Identifier: Apache-2.0

"""How long lists of many images take, and how many requests.

The images are written into the embedded Glance's database, for it would take
minutes to create them: records alone, no data. Each AMI has a kernel and a
ramdisk of its own, which is as bad as it gets.
"""

from collections.abc import Iterator, Mapping
import datetime
import json
import random
import sqlite3
import uuid

from amiclient.tests.cloud.cloud import Cloud
from benchmarks import measure

CHECK = 'ami list --check'
LONG = 'ami list --long'
IMAGES = 'image list --long'

_COMMANDS = {
    CHECK: ('ami', 'list', '--check'),
    LONG: ('ami', 'list', '--long'),
    IMAGES: ('image', 'list', '--long'),
}

#: Images of each kind; the rest of the 5 000 is of no kind of ours.
AMIS = 1000
IMAGES_IN_ALL = 5000

#: Images in a page of ours; see amiclient.glance.client.
PAGE = 250

_PROPERTIES = {
    'architecture': 'x86_64',
    'os_type': 'linux',
    'os_distro': 'debian',
    'os_version': '12',
    'hw_disk_bus': 'virtio',
    'hw_rng_model': 'virtio',
    'owner_specified.build': '20260304',
}


def seed(cloud: Cloud, *, amis: int = AMIS, others: int = 0) -> None:
    """Write images into a cloud's database, all of them demo's and active.

    :param amis: how many AMIs, each with a kernel and a ramdisk of its own.
    :param others: how many images of other kinds.
    """
    with sqlite3.connect(cloud.directory / 'keystone.db') as keystone:
        (owner,) = keystone.execute(
            "SELECT id FROM project WHERE name = 'demo'"
        ).fetchone()
    chance = random.Random(4)
    made = list(_images(chance, amis, others))
    # As they come in the course of months.
    chance.shuffle(made)
    begin = datetime.datetime(2026, 1, 1)
    database = sqlite3.connect(cloud.directory / 'glance.db', timeout=60)
    with database:
        for number, image in enumerate(made):
            at = str(begin + datetime.timedelta(minutes=number)) + '.000000'
            _insert(database, chance, image, owner, at)
    database.close()


def _images(
    chance: random.Random, amis: int, others: int
) -> Iterator[dict[str, object]]:
    def image(name: str, kind: str, **properties: str) -> dict[str, object]:
        return {
            'id': str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            'name': name,
            'disk_format': kind,
            'container_format': kind
            if kind in ('aki', 'ari', 'ami')
            else ('bare'),
            'properties': properties,
        }

    for number in range(amis):
        kernel = image(f'vmlinuz-{number}', 'aki', architecture='x86_64')
        ramdisk = image(f'initrd-{number}', 'ari', architecture='x86_64')
        yield kernel
        yield ramdisk
        yield image(
            f'debian-{number}',
            'ami',
            **_PROPERTIES,
            kernel_id=str(kernel['id']),
            ramdisk_id=str(ramdisk['id']),
        )
    for number in range(others):
        yield image(f'disk-{number}', 'qcow2', **_PROPERTIES)


def _insert(
    database: sqlite3.Connection,
    chance: random.Random,
    image: dict[str, object],
    owner: str,
    at: str,
) -> None:
    row = {
        **{k: v for k, v in image.items() if k != 'properties'},
        'owner': owner,
        'status': 'active',
        'visibility': 'shared',
        'size': 700 * 2**20,
        'min_disk': 1,
        'min_ram': 0,
        'protected': 0,
        'os_hidden': 0,
        'deleted': 0,
        'checksum': chance.randbytes(16).hex(),
        'os_hash_algo': 'sha512',
        'os_hash_value': chance.randbytes(64).hex(),
        'created_at': at,
        'updated_at': at,
    }
    _row(database, 'images', row)
    common = {'image_id': image['id'], 'created_at': at, 'deleted': 0}
    properties = image['properties']
    assert isinstance(properties, dict)
    for name, value in properties.items():
        _row(
            database,
            'image_properties',
            {**common, 'name': name, 'value': value},
        )
    _row(database, 'image_tags', {**common, 'value': 'production'})
    _row(
        database,
        'image_locations',
        {
            **common,
            'value': f'file:///nowhere/{image["id"]}',
            'meta_data': json.dumps({'store': 'main'}),
            'status': 'active',
        },
    )


def _row(
    database: sqlite3.Connection, table: str, row: Mapping[str, object]
) -> None:
    names, marks = ', '.join(row), ', '.join('?' * len(row))
    # The names are ours.
    database.execute(
        f'INSERT INTO {table} ({names}) VALUES ({marks})',
        tuple(row.values()),
    )


def requests(cloud: Cloud) -> int:
    """Tell how many requests for images Glance has answered so far."""
    text = (cloud.logs / 'glance.log').read_text(errors='replace')
    return text.count(' GET /v2/images')


def compare(
    cloud: Cloud, *, env: Mapping[str, str], rounds: int
) -> measure.Series:
    """Measure the lists, in turns.

    :param cloud: one that runs.
    """
    seed(cloud, others=IMAGES_IN_ALL - 3 * AMIS)
    environment = {**env, **cloud.environment()}
    series = measure.Series()
    for number in range(rounds + 1):
        for subject, words in _COMMANDS.items():
            before = requests(cloud)
            argv = ['openstack', *words, '-f', 'json']
            cost = measure.run(argv, env=environment)
            if number:
                series.add_cost(subject, cost)
                series.add(subject, requests=requests(cloud) - before)
    return series


def pages() -> int:
    """Tell how many pages the whole list has.

    After a page that is full, Glance has to be asked for another.
    """
    return IMAGES_IN_ALL // PAGE + 1
