# SPDX-License-Identifier: Apache-2.0

"""Commands for ramdisks: upload, list, show and delete them."""

from amiclient.osc import parts


class UploadRamdisk(parts.UploadPart):
    """Register a ramdisk as an ARI image.

    If the cloud holds the same bytes as an ARI already, that image is the
    result, and nothing is sent. With --dry-run the same columns, and one more
    that lists the image, say what would be; the status then is "planned".
    """

    noun = 'ramdisk'
    format = 'ari'


class ListRamdisk(parts.ListParts):
    """List ramdisks: the images of format ari."""

    format = 'ari'


class ShowRamdisk(parts.ShowPart):
    """Show one ramdisk, and the images that link to it."""

    noun = 'ramdisk'
    format = 'ari'


class DeleteRamdisk(parts.DeleteParts):
    """Delete ramdisks that no image links to.

    Images that link to one, hidden ones and snapshots of servers included, do
    not boot without it. Private images of other projects cannot be seen.
    Whatever fails, the rest of the list is done.
    """

    noun = 'ramdisk'
    format = 'ari'
