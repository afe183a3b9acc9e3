# SPDX-License-Identifier: Apache-2.0

"""What the figures were measured on."""

import importlib.metadata
import os
import pathlib
import platform
import re
import resource
import shutil
import subprocess

_PACKAGES = (
    'python-openstackclient',
    'openstacksdk',
    'keystoneauth1',
    'requests',
    'urllib3',
    'glance',
    'keystone',
    'pyuwsgi',
)


def describe(work: pathlib.Path) -> dict[str, str]:
    """Tell what the figures depend on.

    :param work: the directory of the copies.
    """
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return {
        'processor': _processor(),
        'cores': str(len(os.sched_getaffinity(0))),
        'memory': f'{memory / 2**30:.0f} GiB',
        'filesystem of the copies': _filesystem(work),
        'kernel': platform.release(),
        'python': platform.python_version(),
        'e2fsprogs': _version('e2fsck', '-V'),
        'curl': _version('curl', '--version'),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def others() -> float:
    """Tell the processor time that others took until now, in seconds.

    Others are what this process did not start, on the same cores, and other
    machines on the same hardware (``steal``, proc(5)). What it started counts
    once it has ended.
    """
    text = pathlib.Path('/proc/stat').read_text().splitlines()[0]
    user, nice, system, _, _, irq, softirq, steal = map(int, text.split()[1:9])
    busy = user + nice + system + irq + softirq + steal
    ours = sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(
            resource.getrusage,
            (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN),
        )
    )
    return busy / os.sysconf('SC_CLK_TCK') - ours


def _processor() -> str:
    match = re.search(
        r'^model name\s*: (.+)$',
        pathlib.Path('/proc/cpuinfo').read_text(),
        re.MULTILINE,
    )
    return match[1] if match else platform.machine()


def _filesystem(path: pathlib.Path) -> str:
    result = subprocess.run(
        ['stat', '--file-system', '--format=%T', path],
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()


def _version(program: str, option: str) -> str:
    if not shutil.which(program):
        return 'missing'
    result = subprocess.run(
        [program, option], capture_output=True, text=True, check=True
    )
    match = re.search(r'\d+(\.\d+)+', result.stdout + result.stderr)
    return match[0] if match else 'unknown'
