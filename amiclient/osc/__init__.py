# SPDX-License-Identifier: Apache-2.0

"""The commands of ``openstack ami``.

Every ``openstack`` call imports all command modules of all plugins, whatever
it was asked for. So the modules here import at their top only what defines a
command and its options, and the domain in the functions that use it: at the
top it would cost each call some 50 ms, dataclasses most of it. What commands
print is in :mod:`amiclient.osc.columns`, for the same reason.
"""
