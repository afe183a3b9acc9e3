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


"""What /etc/fstab says (fstab(5))."""

import dataclasses
import re

_OCTAL = re.compile(r'\\([0-7]{3})')


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line.

    :param spec: what is mounted, such as ``UUID=...``.
    :param path: where; ``none`` for swap.
    :param options: in their order.
    """

    spec: str
    path: str
    type: str
    options: tuple[str, ...]

    @property
    def tag(self) -> tuple[str, str] | None:
        """How the device is named: ``UUID`` and such, and the value.

        None if it is named by a path that does not say.
        """
        name, equals, value = self.spec.partition('=')
        if equals and name in ('UUID', 'LABEL', 'PARTUUID', 'PARTLABEL'):
            return name, value.strip('"\'')
        if self.spec.startswith('/dev/disk/by-'):
            kind, _, value = self.spec[len('/dev/disk/by-') :].partition('/')
            return kind.upper(), value
        return None


def parse(text: str) -> tuple[Entry, ...]:
    """Read the lines; those that make no sense are passed over."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith('#'):
            continue
        spec, path, *rest = (
            _OCTAL.sub(lambda m: chr(int(m[1], 8)), f) for f in fields
        )
        kind, options = (*rest[:2], *('auto', 'defaults')[len(rest[:2]) :])
        path = path if path == '/' else path.rstrip('/')
        found.append(Entry(spec, path, kind, tuple(options.split(','))))
    return tuple(found)
