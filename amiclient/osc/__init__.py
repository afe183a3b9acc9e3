#    Licensed under the Apache License, Version 2.0 (the "License"); you may
#    not use this file except in compliance with the License. You may obtain
#    a copy of the License at
#
#         http://www.apache.org/licenses/LICENSE-2.0
#
#    Unless required by applicable law or agreed to in writing, software
#    distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
#    WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
#    License for the specific language governing permissions and limitations
#    under the License.

"""The commands of ``openstack ami``.

Every ``openstack`` call imports all command modules of all plugins, whatever
it was asked for. So the modules here import at their top only what defines a
command and its options, and the domain in the functions that use it: at the
top it would cost each call some 50 ms, dataclasses most of it. What commands
print is in :mod:`amiclient.osc.shown`, for the same reason.
"""
