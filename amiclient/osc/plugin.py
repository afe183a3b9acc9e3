# SPDX-License-Identifier: Apache-2.0

"""What makes this package a plugin of the ``openstack`` command.

The command imports this module, and every module that the entry points of
``openstack.ami.v1`` name, whenever it runs, whatever it was asked for. A name
that is missing here would break every command of every plugin.

So the modules with the commands import at their top only what defines a
command and its options, and the domain in the functions that use it: at the
top it would cost each call some 50 ms, dataclasses most of it. What commands
print is in :mod:`amiclient.osc.columns`, for the same reason.
"""

import argparse

DEFAULT_API_VERSION = '1'

#: The option that chooses among :data:`API_VERSIONS`, as an attribute.
API_VERSION_OPTION = 'os_ami_api_version'

#: What the entry points' group is named after: ``openstack.ami.v1``.
API_NAME = 'ami'

#: The version of our commands. There is no such service: Glance is asked.
API_VERSIONS = ('1',)


def make_client(instance: object) -> None:
    """Make nothing: the commands use the connection to Glance.

    osc-lib calls this for ``client_manager.ami``, which has to exist.

    :param instance: osc-lib's client manager.
    """


def build_option_parser(
    parser: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add the plugin's global options, of which there are none.

    An ``--os-ami-api-version`` could only ever be 1, and would be one more
    line in the help of every command.

    :param parser: the parser of ``openstack``.
    :returns: the same.
    """
    return parser
