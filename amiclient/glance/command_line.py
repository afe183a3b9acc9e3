# SPDX-License-Identifier: Apache-2.0

"""The kernel's command line, where an image replaces that of Nova."""

#: The property that does so (nova/virt/libvirt/driver.py): all of it.
PROPERTY = 'os_command_line'


def has_root(line: str) -> bool:
    """Tell whether a command line names the root filesystem."""
    return any(word.startswith('root=') for word in line.split())


def completed(line: str, bus: str | None) -> str:
    """Add what Nova would have said to a command line without ``root=``.

    :param bus: the property ``hw_disk_bus``, which decides on the device.
    """
    device = '/dev/sda' if bus == 'scsi' else '/dev/vda'
    # The kernel keeps to the consoles that were chosen.
    chosen = any(word.startswith('console=') for word in line.split())
    consoles = '' if chosen else 'console=tty0 console=ttyS0'
    return ' '.join(filter(None, (f'root={device}', consoles, line)))
