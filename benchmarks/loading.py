# SPDX-License-Identifier: Apache-2.0

"""What the plugin costs every ``openstack`` call that is not its own.

The same interpreter runs the same command with the same packages; only the
directory that holds this project, installed as pip installs it, is in the
module path or is not.
"""

from collections.abc import Mapping
import compileall
import importlib.metadata
import pathlib
import shutil
import site
import subprocess
import sys

from benchmarks import measure

WITH = 'with the plugin'
WITHOUT = 'without the plugin'
ALONE = 'the plugin alone'

#: Imports every command module, but needs no cloud.
_COMMAND = ('module', 'list', '-f', 'value')

_MAIN = (
    'import sys; sys.path += sys.argv.pop(1).split(":");'
    'from openstackclient import shell; sys.exit(shell.main())'
)

#: Does what any command does before it loads us, then loads us in a child
#: process many times over, as the one command would have done it next.
_LOAD = """
import sys
sys.path += sys.argv.pop(1).split(':')
import os, time, warnings
from importlib import metadata
warnings.simplefilter('ignore')
import openstackclient.shell
import stevedore
ours = ('openstack.cli.extension', 'openstack.ami.v1')
for group in metadata.entry_points().groups:
    if group.startswith('openstack.'):
        for entry_point in metadata.entry_points(group=group):
            if not entry_point.value.startswith('amiclient.'):
                entry_point.load()
for name in [n for n in sys.modules if n.startswith('amiclient')]:
    del sys.modules[name]
for _ in range(50):
    child = os.fork()
    if not child:
        begin = time.process_time()
        for group in ours:
            list(stevedore.ExtensionManager(group))
        taken = time.process_time() - begin
        if 'amiclient.osc.ami' not in sys.modules:
            sys.exit('the plugin was not loaded')
        print(taken, flush=True)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit('a child failed')
"""

_PACKAGE = pathlib.Path(__file__).parent.parent / 'amiclient'


def compare(
    work: pathlib.Path, *, env: Mapping[str, str], rounds: int
) -> measure.Series:
    """Measure with and without, in turns.

    :param work: an empty directory.
    """
    others, ours = _shadow(work / 'others'), _install(work / 'ours')
    paths = {WITHOUT: f'{others}', WITH: f'{others}:{ours}'}
    series = measure.Series()
    for number in range(rounds + 1):
        # Whoever comes second finds warmer caches.
        for subject in sorted(paths, reverse=bool(number % 2)):
            argv = [*_python(), '-c', _MAIN, paths[subject], *_COMMAND]
            cost = measure.run(argv, env=env)
            if number:
                series.add_cost(subject, cost)
    for taken in _load_times(paths[WITH], env):
        series.add(ALONE, cpu=taken)
    return series


def _python() -> tuple[str, ...]:
    # -I and -S: nothing is in the module path but what we put there.
    return sys.executable, '-I', '-S'


def _shadow(directory: pathlib.Path) -> pathlib.Path:
    """Make a directory with all packages that are installed, but for ours."""
    directory.mkdir()
    for installed in map(pathlib.Path, site.getsitepackages()):
        for path in installed.iterdir() if installed.is_dir() else ():
            link = directory / path.name
            if 'amiclient' not in path.name and not link.exists():
                link.symlink_to(path)
    return directory


def _install(directory: pathlib.Path) -> pathlib.Path:
    """Make a directory with our package as pip would install it."""
    shutil.copytree(
        _PACKAGE,
        directory / 'amiclient',
        ignore=shutil.ignore_patterns('tests', '__pycache__'),
    )
    compileall.compile_dir(directory, quiet=1)
    metadata = directory / 'python_amiclient.dist-info'
    metadata.mkdir()
    ours = importlib.metadata.distribution('python-amiclient')
    for name in ('METADATA', 'entry_points.txt'):
        (metadata / name).write_text(ours.read_text(name) or '')
    return directory


def _load_times(path: str, env: Mapping[str, str]) -> list[float]:
    """Load the plugin again and again where all other commands are loaded.

    :returns: seconds of processor time, of each.
    """
    result = subprocess.run(
        [*_python(), '-c', _LOAD, path],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return [*map(float, result.stdout.split())]
