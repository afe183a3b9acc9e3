# SPDX-License-Identifier: Apache-2.0

"""Whether virtual machines run on the processor itself."""

from amiclient import confinement
from amiclient import errors
from amiclient import process

#: What lets guests run on the processor itself.
DEVICE = '/dev/kvm'

#: Seconds to find out whether it works.
_TRIAL = 20.0

#: What ends a QEMU that has been told nothing before.
_QUIT = b'{"execute": "qmp_capabilities"}\n{"execute": "quit"}\n'


def works(program: str, machine: str) -> bool:
    """Try whether guests can run on the processor itself.

    Only that tells: the device may be there and of no use. The machine is not
    started; its processors are made, which is where KVM fails if it is only
    half there, as in a virtual machine.

    :param program: the emulator.
    :param machine: the type of machine.
    """
    argv = (
        program,
        '-machine', f'{machine},accel=kvm',
        '-cpu', 'host',
        '-m', '64M',
        '-S',
        '-no-user-config',
        '-nodefaults',
        '-display', 'none',
        '-qmp', 'stdio',
    )  # fmt: skip
    try:
        process.run(
            argv,
            access=confinement.Access(devices=(DEVICE,)),
            input=_QUIT,
            limit=_TRIAL,
        )
    except errors.ProgramError:
        return False
    return True
