# SPDX-License-Identifier: Apache-2.0

"""The configuration drive: what a new server is told about itself.

cloud-init takes any filesystem with the label ``config-2`` for one (its
sources/DataSourceConfigDrive.py); Nova's own are ISO 9660 or VFAT, which take
programs to be made that few have.
"""

import json
import pathlib

from amiclient import confinement
from amiclient import process

_LABEL = 'config-2'
_SIZE = '1M'

_NAME = 'amiclient-boot'


def make(folder: pathlib.Path, uuid: str) -> pathlib.Path:
    """Make a configuration drive.

    :param folder: where; what it is made of is left there as well.
    :param uuid: of the server.
    :raises ProgramError: if mke2fs is missing, or fails.
    """
    tree = folder / 'seed'
    latest = tree / 'openstack' / 'latest'
    latest.mkdir(parents=True)
    for name, content in _contents(uuid).items():
        (latest / name).write_text(json.dumps(content))
    path = folder / 'seed.img'
    process.run(
        [
            'mke2fs', '-q', '-F', '-t', 'ext4', '-O', '^has_journal',
            '-b', '1024', '-L', _LABEL, '-E', 'root_owner=0:0', '-d', tree,
            path, _SIZE,
        ],
        access=confinement.Access(reads=(tree,), writes=(path,), mounts=True),
    )  # fmt: skip
    return path


def _contents(uuid: str) -> dict[str, object]:
    return {
        'meta_data.json': {
            'uuid': uuid,
            'name': _NAME,
            'hostname': _NAME,
            'launch_index': 0,
            'availability_zone': 'nova',
            'meta': {},
        },
        'vendor_data.json': {},
    }
