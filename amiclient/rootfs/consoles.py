# SPDX-License-Identifier: Apache-2.0

"""The serial console of a server, which ``console log show`` tells.

What it is called depends on the machine, and what gets there on the command
line of the kernel.
"""

import dataclasses
import re

#: Nova's own command line, as far as it is about consoles. None of its guests
#: has them all.
NOVA = 'console=tty0 console=ttyS0 console=hvc0'

#: Where it is not ttyS0: the names of the terminal, and of the console.
_NAMES = {
    'aarch64': ('ttyAMA0',),
    'armv7l': ('ttyAMA0',),
    'ppc64': ('hvc0',),
    'ppc64le': ('hvc0',),
    's390x': ('ttysclp0', 'ttyS0'),
}

#: Where the firmware tells the kernel of it, whatever the command line says
#: (ACPI's SPCR).
_BY_FIRMWARE = frozenset({'aarch64'})

#: Where systemd-getty-generator starts a getty there in any case.
_IN_ANY_CASE = frozenset({'ppc64', 'ppc64le', 's390x'})

#: A screen, which servers have, and which comes before serial consoles.
_SCREEN = re.compile(r'tty\d*')


@dataclasses.dataclass(frozen=True)
class Console:
    """The serial console of a server.

    :param names: what it is called; any of these if the machine is not known.
    :param heard: whether the messages of the kernel get there.
    :param main: whether it is what /dev/console leads to.
    :param generated: whether systemd's generator starts a getty there.
    """

    names: tuple[str, ...]
    heard: bool
    main: bool
    generated: bool

    @property
    def name(self) -> str:
        """What it is called first."""
        return self.names[0]


def of(machine: str | None, line: str | None) -> Console:
    """Tell what is known of the console of a server.

    :param machine: as Nova calls it; None if it is not known.
    :param line: the kernel's command line; None for Nova's own.
    """
    names = _NAMES.get(machine or '', ('ttyS0',))
    if machine is None:
        others = (name for each in _NAMES.values() for name in each)
        names = tuple(dict.fromkeys((*names, *others)))
    words = (NOVA if line is None else line).split()
    told = [
        word.removeprefix('console=').partition(',')[0]
        for word in words
        if word.startswith('console=')
    ]
    if not told:
        # Then it is the screen, unless the firmware names another.
        main = heard = names != ('ttyS0',)
    else:
        heard = machine in _BY_FIRMWARE or any(n in names for n in told)
        # The last one, if there is that one; if not, which comes first.
        main = told[-1] in names or (
            heard
            and not _SCREEN.fullmatch(told[-1])
            and not any(_SCREEN.fullmatch(each) for each in told)
        )
    return Console(names, heard, main, heard or machine in _IN_ANY_CASE)
