# SPDX-License-Identifier: Apache-2.0

"""Image records for tests."""

from amiclient.glance import model


def record(**attributes) -> model.ImageRecord:
    """Make a record as Glance would describe an active AMI.

    :param attributes: what is different, by Glance's names.
    """
    return model.ImageRecord.from_json(
        {
            'id': '11111111-1111-4111-8111-111111111111',
            'name': 'image',
            'status': 'active',
            'disk_format': 'ami',
            'container_format': 'ami',
            'size': 1024,
            'visibility': 'shared',
            'owner': 'project',
            'os_hash_algo': 'sha512',
            'os_hash_value': 'f' * 128,
            'tags': [],
            **attributes,
        }
    )


def kernel(**attributes) -> model.ImageRecord:
    """Make the record of an active kernel."""
    return record(
        **{
            'id': '22222222-2222-4222-8222-222222222222',
            'name': 'vmlinuz',
            'disk_format': 'aki',
            'container_format': 'aki',
            **attributes,
        }
    )


def ramdisk(**attributes) -> model.ImageRecord:
    """Make the record of an active ramdisk."""
    return record(
        **{
            'id': '33333333-3333-4333-8333-333333333333',
            'name': 'initrd',
            'disk_format': 'ari',
            'container_format': 'ari',
            **attributes,
        }
    )


def created(new: model.NewImage) -> model.ImageRecord:
    """Make the record of an image that was just created."""
    return record(
        id=new.id,
        name=new.name,
        status='queued',
        disk_format=new.disk_format,
        container_format=new.container_format,
        size=None,
        os_hash_value=None,
        visibility=new.visibility or 'shared',
        protected=bool(new.protected),
        **new.properties,
    )
