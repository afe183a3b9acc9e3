# SPDX-License-Identifier: Apache-2.0

"""Rules about booting: kernel, drivers, init and console."""

from collections.abc import Iterable
import functools
import re
import shlex

from amiclient import errors
from amiclient.findings import Severity
from amiclient.rootfs.boot_files import needed
from amiclient.rootfs.boot_files import OSTREE
from amiclient.rootfs import check_context
from amiclient.rootfs.check_context import Case
from amiclient.rootfs.check_context import Found
from amiclient.rootfs.check_context import Problem
from amiclient.rootfs.check_context import Rule
from amiclient.rootfs import inspect
from amiclient.rootfs import ramdisk_formats

#: What makes a line of /etc/inittab one that offers a login.
_GETTY = re.compile(r'getty|respawn|askfirst|/bin/(login|sh)')


def _no_init(case: Case) -> Found:
    if case.init is not None:
        return
    if needed(case.boot_options) and not case.told_init:
        # It is elsewhere, which another rule is about.
        return
    remedy = 'install systemd-sysv, sysvinit-core or another init'
    if case.told_init:
        why = f'its os_command_line says init={case.told_init}, which cannot '
        what = 'be run: the kernel panics'
        remedy = f'correct os_command_line, or {remedy}'
    elif case.program('/bin/sh'):
        why = 'there is no /sbin/init, /etc/init or /bin/init that could be '
        what = 'run: the kernel runs /bin/sh instead, and panics as it ends'
    else:
        why = 'there is neither /sbin/init nor /bin/sh that could be run: '
        what = 'the kernel panics'
    yield Problem('error', why + what, remedy)


def _command_line(words: Iterable[str]) -> str:
    line = f'root=/dev/vda {" ".join(words)} {check_context.NOVA}'
    return f'upload it with --property os_command_line={shlex.quote(line)}'


def _boot_options(case: Case) -> Found:
    told = (case.command_line or '').split()
    words = [
        word
        for word in needed(case.boot_options)
        if word not in told and not word.startswith(OSTREE)
    ]
    if words:
        options = errors.shown(' '.join(words))
        yield Problem(
            'warning',
            f'its boot loader gives the kernel {options}, which tells where '
            'the system is: Nova does not, so the AMI needs an '
            'os_command_line that does',
            _command_line(words),
        )


def _ostree(case: Case) -> Found:
    told = case.command_line or ''
    if not case.deployments or 'ostree=' in told or 'composefs=' in told:
        return
    words = needed(case.boot_options)
    composed = any(
        case.exists(f'{each}/.ostree.cfs') for each in case.deployments
    ) or case.exists('/composefs')
    what = ', by composefs,' if composed else ''
    yield Problem(
        'error',
        f'it is a system of ostree or bootc: its files are{what} in '
        f'{errors.shown(case.deployments[0])}, and without ostree= on the '
        'kernel command line, it does not boot',
        _command_line(words)
        if words
        else 'upload it with --property os_command_line=..., as its boot '
        'loader has it',
    )


def _no_os_release(case: Case) -> Found:
    if not case.exists('/etc/os-release', '/usr/lib/os-release'):
        yield Problem(
            'warning',
            'there is no /etc/os-release, which says what system this is: '
            'os_distro and os_version are not set',
            'write /etc/os-release, with ID and VERSION_ID',
        )


def _no_kernel(case: Case) -> Found:
    if case.kernel is None:
        yield Problem(
            'note',
            'no kernel was found in it: an upload has to be given one, and '
            'what depends on the kernel was not checked',
            'give --kernel and --ramdisk',
        )


def _architecture(case: Case) -> Found:
    machine = case.kernel.architecture if case.kernel else None
    programs = inspect.architecture(case.reader)
    if machine is None or programs is None:
        return
    if programs not in (machine, *inspect.ALSO_RUNS.get(machine, ())):
        yield Problem(
            'error',
            f'the kernel is for {machine}, but the programs are for '
            f'{programs}',
            f'give the kernel of a {programs} system',
        )


def _no_modules(case: Case) -> Found:
    release = case.kernel.release if case.kernel else None
    if release and case.modules is None:
        yield Problem(
            'warning',
            f'there is no /lib/modules/{release}, so no driver can be loaded '
            'that is in neither the kernel nor the ramdisk',
            f'install the package of kernel {release}, or give the kernel '
            'that belongs to the modules that are there',
        )


def _kernel_format(case: Case) -> Found:
    if case.kernel is None:
        return
    name = errors.shown(case.kernel.path)
    if objection := case.kernel.objection(name):
        yield Problem(
            'error',
            f'the kernel is {objection.message}',
            objection.hint or '',
        )


def _no_ramdisk_init(case: Case) -> Found:
    if case.ramdisk is None or not case.listing.complete:
        return
    words = (case.command_line or '').split()
    if 'init' in case.early or any(w.startswith('rdinit=') for w in words):
        return
    if {'ext4', 'virtio_blk'} <= (case.built_in or frozenset()):
        # The kernel needs no help, and mounts the root filesystem itself.
        return
    yield Problem(
        'error',
        'the ramdisk has no /init, so nothing in it is run or loaded: it is '
        'only a part of a ramdisk, such as microcode or modules',
        'give the whole one with --ramdisk; parts of one can be put together '
        'with cat',
    )


def _ramdisk_unread(case: Case) -> Found:
    if not case.listing.whole:
        yield Problem(
            'error',
            'the ramdisk is cut short or damaged: an archive in it has no '
            'end, so files are missing',
            'get a whole copy of it, or make it again',
        )
    elif case.listing.end is not None:
        yield Problem(
            'warning',
            'the ramdisk unpacks to more than an initramfs should: what comes '
            f'after {case.listing.end} was not read, so its drivers were not '
            'checked',
            'make the ramdisk again, or give another one with --ramdisk',
        )


def _driver(
    case: Case,
    names: Iterable[str],
    what: str,
    severity: Severity,
    *,
    later: bool = False,
) -> Found:
    """Look for what must be there before the root filesystem is.

    :param names: modules, all of which it takes.
    :param later: whether it may come from the root filesystem.
    """
    if case.kernel is None or not case.listing.complete:
        # It may be in what was not read.
        return
    there = ramdisk_formats.modules_in(case.early) | (
        case.built_in or frozenset()
    )
    if later:
        there |= case.installed
    missing = [name for name in names if name not in there]
    if not missing:
        return
    words = ' and '.join(missing)
    where = 'kernel, ramdisk or /lib/modules' if later else 'kernel or ramdisk'
    if case.built_in is None:
        # It may be part of the kernel, which has no list of its own.
        severity = 'note' if severity == 'note' else 'warning'
        yield Problem(
            severity,
            f'{words} is not in the ramdisk, and whether the kernel has it '
            f'built in cannot be told: {what}',
            'give the ramdisk that belongs to the kernel',
        )
        return
    yield Problem(
        severity,
        f'{words} is missing from {where}: {what}',
        'the ramdisk was made for one machine alone: make it again, with '
        'dracut --force --no-hostonly'
        if not later and case.is_hostonly
        else 'add it to the ramdisk (/etc/initramfs-tools/modules, or dracut '
        '--add-drivers), and make it again',
    )


def _virtio_blk(case: Case) -> Found:
    machine = case.kernel.architecture if case.kernel else None
    bus = 'virtio_ccw' if machine == 's390x' else 'virtio_pci'
    return _driver(
        case, ('virtio_blk', bus), 'the root disk is not found', 'error'
    )


def _ext4(case: Case) -> Found:
    own = case.reader.superblock.filesystem
    built_in = case.built_in or frozenset()
    if own not in (built_in | ramdisk_formats.modules_in(case.early)):
        yield from _driver(
            case, ('ext4',), 'the root filesystem is not mounted', 'error'
        )
    elif case.built_in and not {own, 'ext4'} & built_in:
        yield from _not_loaded(case, own)


def _not_loaded(case: Case, own: str) -> Found:
    """Look for a ramdisk of Alpine, whose init loads what it is told to.

    Source: initramfs-init of mkinitfs: nlplug-findfs loads the drivers of
    devices; filesystems are loaded by rootfstype= and modules=, and busybox's
    mount only tries those that are there.
    """
    words = (case.command_line or '').split()
    if not any(name.endswith('bin/nlplug-findfs') for name in case.early) or (
        any(word.startswith(('modules=', 'rootfstype=')) for word in words)
    ):
        return
    yield Problem(
        'warning',
        f'{own} is a module in the ramdisk of Alpine, which loads it only if '
        'the kernel command line says so: Nova does not, and the root '
        'filesystem may not be mounted',
        _command_line([f'rootfstype={own}']),
    )


def _no_console(case: Case) -> Found:
    machine = case.kernel.architecture if case.kernel else None
    console = check_context.serial_console(
        machine or inspect.architecture(case.reader), case.command_line
    )
    offered = _offers_login(case, console)
    if not console.heard:
        what = 'the messages of the kernel do not get'
        if not offered:
            what = 'neither the messages of the kernel nor a login get'
        yield Problem(
            'warning',
            f'os_command_line has no console={console.name}, so {what} to '
            'the serial console',
            f'add console=tty0 console={console.name} to os_command_line',
        )
    elif not offered:
        yield Problem(
            'warning',
            f'nothing offers a login at the serial console, {console.name}, '
            'so the console of a server stays silent',
            f'systemctl enable serial-getty@{console.name}.service'
            if case.has_systemd
            else f'add a getty on {console.name} to /etc/inittab',
        )


def _offers_login(case: Case, console: check_context.SerialConsole) -> bool:
    if case.has_systemd:
        return any(
            _systemd_offers(case, console, name) for name in console.names
        )
    names = console.names + (('console',) if console.main else ())
    own = re.compile(rf'(?<!\w)({"|".join(names)})(?!\w)')
    for line in case.lines('/etc/inittab'):
        # busybox's init takes /dev/console where a line names none.
        on_it = own.search(line) or (console.main and line.startswith('::'))
        if on_it and _GETTY.search(line):
            return True
    return any(
        case.exists(f'/etc/runlevels/default/agetty.{name}')
        or case.exists(f'/etc/init/{name}.conf')
        or case.exists(f'/etc/runit/runsvdir/default/agetty-{name}')
        for name in names
    )


def _systemd_offers(
    case: Case, console: check_context.SerialConsole, name: str
) -> bool:
    unit = f'serial-getty@{name}.service'
    # systemd-getty-generator(8): it starts one on what the kernel has for
    # its consoles, and on some others.
    generator = console.generated and case.program(
        '/usr/lib/systemd/system-generators/systemd-getty-generator',
        '/lib/systemd/system-generators/systemd-getty-generator',
    )
    wanted = unit in case.reader.names(
        '/etc/systemd/system/getty.target.wants'
    )
    masked = any(
        case.masked(each)
        for each in (unit, 'serial-getty@.service', 'getty.target')
    )
    there = case.unit('serial-getty@.service')
    return (bool(generator) or wanted) and there and not masked


#: By their names.
RULES: dict[str, Rule] = {
    'no-init': _no_init,
    'boot-options': _boot_options,
    'ostree': _ostree,
    'no-os-release': _no_os_release,
    'no-kernel': _no_kernel,
    'architecture': _architecture,
    'no-modules': _no_modules,
    'kernel-format': _kernel_format,
    'ramdisk-no-init': _no_ramdisk_init,
    'ramdisk-unread': _ramdisk_unread,
    'virtio-blk': _virtio_blk,
    'ext4': _ext4,
    'virtio-net': functools.partial(
        _driver,
        names=('virtio_net',),
        what='there is no network',
        severity='error',
        later=True,
    ),
    'virtio-scsi': functools.partial(
        _driver,
        names=('virtio_scsi',),
        what='it does not boot with hw_scsi_model=virtio-scsi',
        severity='note',
    ),
    'no-console': _no_console,
}
