# SPDX-License-Identifier: Apache-2.0

"""The client alone, against a server that only reads.

The payload is a filesystem whose free space is random bytes, sent as it is, so
nothing can be left out. A tiny one beside it tells what a command takes before
and after the transfer.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import hashlib
import json
import os
import pathlib
import random
import ssl
import statistics
import subprocess
import sys
import time
import urllib.request

from benchmarks import measure

UPLOAD = 'ami upload'
CREATE = 'image create --file'
CURL = 'curl -T'
SHA512 = 'sha512'
VERSION = '--version'
LIST = 'image list'
HUGE = 'ami upload, 1 TiB shrunk'

GIB = 2**30

#: Bytes of the payload that all others are compared with.
TINY = 16 * 2**20

#: Bytes hashed at a time.
_CHUNK = 2**20

_Argv = list[str | pathlib.Path]


@contextlib.contextmanager
def sink(certificate: pathlib.Path | None = None) -> Iterator[str]:
    """Run the server in a process of its own; give its endpoint.

    :param certificate: has it speak TLS.
    """
    options = ['--certificate', certificate] if certificate else []
    with subprocess.Popen(
        [sys.executable, '-m', 'benchmarks.sink', *options],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def payload(path: pathlib.Path, size: int) -> pathlib.Path:
    """Make an ext4 filesystem without a hole: random bytes wherever free.

    :param size: bytes, a multiple of a MiB.
    """
    source = random.Random(size)
    with path.open('wb') as file:
        for _ in range(size // _CHUNK):
            file.write(source.randbytes(_CHUNK))
    _make_filesystem(path, '-E', 'nodiscard')
    return path


def huge(path: pathlib.Path) -> pathlib.Path:
    """Make an empty filesystem of 1 TiB, in a file that is mostly a hole."""
    path.touch()
    os.truncate(path, 2**40)
    _make_filesystem(path)
    return path


def _make_filesystem(path: pathlib.Path, *options: str) -> None:
    subprocess.run(
        ['mke2fs', '-q', '-F', '-t', 'ext4', *options, path], check=True
    )
    with path.open('rb') as file:
        os.fsync(file)


class Bench:
    """Measures the commands round by round.

    :param endpoint: the server's.
    :param big: a payload.
    :param tiny: another, of :data:`TINY` bytes.
    :param monster: a filesystem of 1 TiB.
    :param certificate: the server's, if it speaks TLS.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        big: pathlib.Path,
        tiny: pathlib.Path,
        monster: pathlib.Path,
        env: Mapping[str, str],
        certificate: pathlib.Path | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._certificate = certificate
        self._big = big
        self._tiny = tiny
        self._monster = monster
        self._env = env

    def run(self, rounds: int) -> measure.Series:
        """Measure; the first round warms up, and is dropped."""
        series = measure.Series()
        warmer = measure.Series()
        for number in range(rounds + 1):
            self._round(series if number else warmer)
        return series

    def _round(self, series: measure.Series) -> None:
        for subject, argv in (
            (VERSION, ['openstack', '--version']),
            (LIST, self._openstack('image', 'list')),
            (HUGE, self._upload(self._monster, '--headroom', '0')),
        ):
            series.add_cost(subject, measure.run(argv, env=self._env))
        commands: dict[str, Callable[[pathlib.Path], _Argv]] = {
            UPLOAD: lambda path: self._upload(path, '--no-shrink'),
            CREATE: self._create,
            CURL: self._curl,
        }
        for subject, command in commands.items():
            cost = measure.run(command(self._tiny), env=self._env)
            series.add_cost(tiny(subject), cost)
            # What is subtracted from one command's time is measured next to
            # it, for machines have their moods.
            hashes = [hash_sha512(self._big)] if subject == UPLOAD else []
            cost = measure.run(command(self._big), env=self._env)
            series.add_cost(subject, cost)
            if hashes:
                hashes.append(hash_sha512(self._big))
                wall, cpu = map(statistics.mean, zip(*hashes, strict=True))
                series.add(SHA512, wall=wall, cpu=cpu)

    def _openstack(self, *arguments: str | pathlib.Path) -> _Argv:
        return [
            *('openstack', '--os-auth-type', 'none'),
            *(['--os-cacert', self._certificate] if self._certificate else []),
            *('--os-endpoint', self._endpoint, *arguments),
        ]

    def _upload(self, path: pathlib.Path, *options: str) -> _Argv:
        return self._openstack(
            *('ami', 'upload', path, '--no-kernel', '--no-ramdisk'), *options
        )

    def _create(self, path: pathlib.Path) -> _Argv:
        formats = ('--disk-format', 'ami', '--container-format', 'ami')
        return self._openstack(
            'image', 'create', *formats, '--file', path, path.name
        )

    def _curl(self, path: pathlib.Path) -> _Argv:
        # curl makes no record; the one it fills is made here.
        wanted = urllib.request.Request(
            f'{self._endpoint}/v2/images',
            data=json.dumps({'name': path.name}).encode(),
            headers={'Content-Type': 'application/json'},
        )
        trusted = self._certificate
        context = ssl.create_default_context(cafile=trusted)
        with urllib.request.urlopen(wanted, context=context) as answer:
            image = json.load(answer)['id']
        return [
            *('curl', '--silent', '--show-error', '--fail', '-T', path),
            *(['--cacert', trusted] if trusted else []),
            *('-H', 'Content-Type: application/octet-stream'),
            f'{self._endpoint}/v2/images/{image}/file',
        ]


def tiny(subject: str) -> str:
    """Name the same command with the tiny payload."""
    return f'{subject}, tiny'


def hash_sha512(path: pathlib.Path) -> tuple[float, float]:
    """Hash a payload, and nothing else: reading it is not counted.

    :returns: seconds by the clock, and of the processor.
    """
    hasher = hashlib.sha512()
    chunk = memoryview(bytearray(_CHUNK))
    wall = cpu = 0.0
    with path.open('rb', buffering=0) as file:
        while count := file.readinto(chunk):
            begin, cpu_begin = time.perf_counter(), time.thread_time()
            hasher.update(chunk[:count])
            cpu += time.thread_time() - cpu_begin
            wall += time.perf_counter() - begin
    return wall, cpu
