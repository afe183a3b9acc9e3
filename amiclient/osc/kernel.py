# SPDX-License-Identifier: Apache-2.0

"""Commands for kernels: upload, list, show and delete them."""

from amiclient.osc import parts


class UploadKernel(parts.UploadPart):
    """Register a kernel as an AKI image.

    If the cloud holds the same bytes as an AKI already, that image is the
    result, and nothing is sent. With --dry-run the same columns, and one more
    that lists the image, say what would be; the status then is "planned".
    """

    noun = 'kernel'
    format = 'aki'


class ListKernel(parts.ListParts):
    """List kernels: the images of format aki."""

    format = 'aki'


class ShowKernel(parts.ShowPart):
    """Show one kernel, and the images that link to it."""

    noun = 'kernel'
    format = 'aki'


class DeleteKernel(parts.DeleteParts):
    """Delete kernels that no image links to.

    Images that link to one, hidden ones and snapshots of servers included, do
    not boot without it. Private images of other projects cannot be seen.
    Whatever fails, the rest of the list is done.
    """

    noun = 'kernel'
    format = 'aki'
