# SPDX-License-Identifier: Apache-2.0

"""Root filesystems as machine images in three parts, in OpenStack clouds.

What is in :data:`__all__` is for other programs, and keeps its names; the
modules are not, and do not. :mod:`amiclient.api` describes it.
"""

import typing

if typing.TYPE_CHECKING:
    from amiclient.api import execute
    from amiclient.api import opened
    from amiclient.api import plan
    from amiclient.errors import AmiError

__all__ = ['AmiError', 'execute', 'opened', 'plan']


def __getattr__(name: str) -> typing.Any:
    # `openstack` imports this at each start, and needs none of it.
    if name not in __all__:
        raise AttributeError(name)
    from amiclient import api

    return getattr(api, name)
