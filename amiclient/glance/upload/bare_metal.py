# SPDX-License-Identifier: Apache-2.0

"""What an image has to be for Ironic, which deploys it to bare metal.

Facts are from Ironic 39: whole disks by their missing links, in
``is_whole_disk_image``, and formats, in ``image_format_matches``, both in
ironic/common/images.py; whose images it reads, in ``is_image_available`` of
ironic/common/glance_service/service_utils.py.
"""

import dataclasses

from amiclient import errors
from amiclient.glance import model
from amiclient.glance.upload import request

#: Formats of a root image, by what it is for.
_FORMATS = {
    request.METAL: ('raw', 'qcow2', 'auto'),
    # There is nothing to compress.
    request.DISKLESS: ('raw', 'auto'),
}


def suit(
    asked: request.UploadRequest,
) -> tuple[request.UploadRequest, tuple[str, ...]]:
    """Make a request suit Ironic, if the image is for that.

    :returns: what to do, and what the user should know.
    :raises UsageError: if the request says what Ironic refuses.
    """
    formats = _FORMATS.get(asked.target)
    if formats is None:
        return asked, ()
    option = f'--for {asked.target}'
    if asked.image_format not in formats:
        raise errors.UsageError(
            f'{option} and --image-format {asked.image_format} contradict '
            'each other: Ironic would not deploy the image',
            hint='use --image-format raw, or leave it out',
        )
    for noun in ('kernel', 'ramdisk'):
        if getattr(asked, noun) is None:
            raise errors.UsageError(
                f'{option}: there is no {noun}, and without one of them '
                'Ironic takes the image for that of a whole disk, or refuses '
                'it',
                hint=f'give --{noun} FILE or IMAGE',
            )
    traits, settings = asked.traits, asked.settings
    if asked.target == request.DISKLESS:
        given = traits.properties.get(model.DISKLESS, 'True')
        if given.lower() != 'true':
            raise errors.UsageError(
                f'{option} and --property {model.DISKLESS}={given} contradict '
                'each other',
                hint='remove one of them',
            )
        properties = {**traits.properties, model.DISKLESS: 'True'}
        traits = dataclasses.replace(traits, properties=properties)
    notes: list[str] = []
    if settings.visibility is None:
        settings = dataclasses.replace(settings, visibility='community')
        notes.append(
            'the images become community, because Ironic does not read shared '
            'images of other projects; to prevent that, use --shared or '
            '--private'
        )
    elif settings.visibility not in model.OPEN:
        notes.append(
            f'Ironic reads a {settings.visibility} image only if its own '
            'project owns it, or is a member of it'
        )
    suited = dataclasses.replace(
        asked,
        image_format=asked.image_format.replace('auto', 'raw'),
        traits=traits,
        settings=settings,
    )
    return suited, tuple(notes)
