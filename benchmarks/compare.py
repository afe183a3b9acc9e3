# SPDX-License-Identifier: Apache-2.0

"""Compare ``openstack ami upload`` with what a user would do otherwise.

``benchmarks/run`` runs this with all that it needs; README.rst says what is
measured and how.
"""

import argparse
from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import sys
import tempfile
import time

from amiclient.tests.cloud.cloud import Cloud
from benchmarks import audit
from benchmarks import figures
from benchmarks import inside
from benchmarks import listing
from benchmarks import loading
from benchmarks import machine
from benchmarks import measure
from benchmarks import sink
from benchmarks import sources
from benchmarks import throughput
from benchmarks import triple

_PARTS = (
    'triple',
    'client',
    'loading',
    'listing',
    'sources',
    'inside',
    'audit',
)

#: How many times more rounds the loading gets, which is a small difference
#: between two long times.
_LOADING = 6

_Figures = list[figures.Figure]


def main() -> int:
    """Measure, and print the tables.

    :returns: 1 if a target was missed.
    """
    arguments = _parser().parse_args()
    # Where ordinary users on Debian do not look.
    os.environ['PATH'] += ':/usr/sbin:/sbin'
    tables: dict[str, _Figures] = {}
    with tempfile.TemporaryDirectory(
        prefix='benchmark-', dir=arguments.work_directory
    ) as directory:
        work = pathlib.Path(directory)
        described = machine.describe(work)
        for part in arguments.part or _PARTS:
            begin, others = time.monotonic(), machine.others()
            tables.update(_MEASURES[part](arguments, work))
            seconds = time.monotonic() - begin
            others = (machine.others() - others) / seconds
            described[f'cores that others took, {part}'] = f'{others:.2f}'
            _say(f'{part}: {seconds:.0f} s')
    for title, rows in tables.items():
        print(f'{figures.table(title, rows)}\n')
    for name, value in described.items():
        print(f'{name}: {value}')
    if arguments.json:
        result = {
            'machine': described,
            'rounds': arguments.rounds,
            'figures': {
                title: [figure.json() for figure in rows]
                for title, rows in tables.items()
            },
        }
        arguments.json.write_text(json.dumps(result, indent=2) + '\n')
    missed = [
        f for rows in tables.values() for f in rows if f.reached is False
    ]
    return 1 if missed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='benchmarks/run')
    for part in ('image', 'kernel', 'ramdisk'):
        parser.add_argument(
            f'--{part}',
            type=pathlib.Path,
            required=True,
            help="a file (default: the demo's)",
        )
    parser.add_argument(
        '--rounds', type=int, default=5, help='how often (default: 5)'
    )
    parser.add_argument(
        '--size',
        type=int,
        default=4,
        metavar='GIB',
        help='of what is sent to the server that only reads (default: 4)',
    )
    parser.add_argument(
        '--work-directory',
        type=pathlib.Path,
        help='a directory for copies and payloads (default: the usual one)',
    )
    parser.add_argument(
        '--part',
        action='append',
        choices=_PARTS,
        help='measure this only; may be repeated',
    )
    parser.add_argument(
        '--json', type=pathlib.Path, metavar='FILE', help='write it all here'
    )
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _environment(work: pathlib.Path) -> dict[str, str]:
    """The environment of all commands."""
    kept = {
        name: value
        for name, value in os.environ.items()
        # Without their bytecode, modules would be compiled again and again.
        if not name.startswith(('OS_', 'PYTHON'))
        and 'proxy' not in name.lower()
    }
    cache = work / 'cache'
    return {
        **kept,
        'PATH': f'{pathlib.Path(sys.executable).parent}:{kept["PATH"]}',
        'TMPDIR': str(work),
        'XDG_CACHE_HOME': str(cache),
    }


@contextlib.contextmanager
def _running(directory: pathlib.Path) -> Iterator[Cloud]:
    """Run a cloud that ends with this process, if not before."""
    cloud = Cloud(directory)
    cloud.start(tied=True)
    try:
        yield cloud
    finally:
        cloud.stop()


def _triple(
    arguments: argparse.Namespace, work: pathlib.Path
) -> dict[str, _Figures]:
    with _running(work / 'cloud') as cloud:
        series = triple.compare(
            triple.Files(arguments.image, arguments.kernel, arguments.ramdisk),
            cloud,
            work=work,
            env=_environment(work),
            rounds=arguments.rounds,
        )
    return {
        subject: _beside_recipe(series, subject, most)
        for subject, most in ((triple.TIGHT, 0.62), (triple.DEFAULT, 0.68))
    }


def _beside_recipe(
    series: measure.Series, subject: str, most: float
) -> _Figures:
    def figure(
        name: str, unit: str, key: str, scale: float, target: float | None
    ) -> figures.Figure:
        return figures.Figure(
            name=name,
            unit=unit,
            ours=[value / scale for value in series.of(subject, key)],
            other=triple.BY_HAND,
            theirs=[value / scale for value in series.of(triple.BY_HAND, key)],
            target=target,
        )

    return [
        figure('sent', 'MiB', 'sent', figures.MIB, most),
        figure('wall time', 's', 'wall', 1, 0.6),
        figure('CPU time', 's', 'cpu', 1, None),
        figure('memory, openstack', 'MiB', 'client', figures.MIB, None),
        figure('memory, others', 'MiB', 'others', figures.MIB, None),
        figure('written to disk', 'MiB', 'written', figures.MIB, None),
    ]


def _client(
    arguments: argparse.Namespace, work: pathlib.Path
) -> dict[str, _Figures]:
    size = arguments.size * throughput.GIB
    big = throughput.payload(work / 'big.img', size)
    tiny = throughput.payload(work / 'tiny.img', throughput.TINY)
    monster = throughput.huge(work / 'huge.img')
    certificate = sink.make_certificate(work / 'sink.pem')

    def measured(certificate: pathlib.Path | None) -> measure.Series:
        with throughput.sink(certificate) as endpoint:
            return throughput.Bench(
                endpoint,
                big=big,
                tiny=tiny,
                monster=monster,
                env=_environment(work),
                certificate=certificate,
            ).run(arguments.rounds)

    plain, tls = measured(None), measured(certificate)
    title = f'The client, sending {arguments.size} GiB'
    return {
        title: [*_rates(plain, size), *_processor_time(plain, size)],
        f'{title} over TLS': [
            *_rates(tls, size, None),
            *_processor_time(tls, size),
        ],
        'Peak memory of the client': _memory(plain, arguments.size),
    }


def _rates(
    series: measure.Series, size: int, target: float | None = 0.8
) -> _Figures:
    """Bytes by second, between a tiny payload's time and the big one's."""

    def rate(subject: str) -> list[float]:
        return series.combined(
            lambda big, tiny: (size - throughput.TINY) / (big - tiny) / 2**20,
            (subject, 'wall'),
            (throughput.tiny(subject), 'wall'),
        )

    ours = rate(throughput.UPLOAD)
    alone = series.combined(
        lambda wall: size / wall / 2**20, (throughput.SHA512, 'wall')
    )
    rates = [
        (throughput.SHA512, alone, target),
        (throughput.CREATE, rate(throughput.CREATE), None),
        (throughput.CURL, rate(throughput.CURL), None),
    ]
    return [
        figures.Figure(
            name='throughput',
            unit='MiB/s',
            ours=ours,
            other=other,
            theirs=theirs,
            target=least,
            at_least=True,
        )
        for other, theirs, least in rates
    ]


def _processor_time(series: measure.Series, size: int) -> _Figures:
    """Seconds by GiB, above those of a command that does nothing."""
    gib = size / throughput.GIB
    sha512 = (throughput.SHA512, 'cpu')
    rows = []
    for name, base, target in (
        ('CPU time above --version', lambda _: throughput.VERSION, 0.65),
        ('CPU time above a tiny payload', throughput.tiny, None),
    ):
        rows.append(
            figures.Figure(
                name=name,
                unit='s/GiB',
                ours=series.combined(
                    lambda all_, base, hash_: (all_ - base - hash_) / gib,
                    (throughput.UPLOAD, 'cpu'),
                    (base(throughput.UPLOAD), 'cpu'),
                    sha512,
                ),
                other=throughput.CREATE,
                theirs=series.combined(
                    lambda all_, base: (all_ - base) / gib,
                    (throughput.CREATE, 'cpu'),
                    (base(throughput.CREATE), 'cpu'),
                ),
                target=target,
            )
        )
    return rows


def _memory(series: measure.Series, gib: int) -> _Figures:
    def mib(subject: str) -> list[float]:
        return series.combined(
            lambda client: client / figures.MIB, (subject, 'client')
        )

    return [
        figures.Figure(
            name=name,
            unit='MiB',
            ours=mib(subject),
            other=throughput.LIST,
            theirs=mib(throughput.LIST),
            difference=True,
            target=20.0,
        )
        for name, subject in (
            ('sending 16 MiB', throughput.tiny(throughput.UPLOAD)),
            (f'sending {gib} GiB', throughput.UPLOAD),
            ('shrinking 1 TiB', throughput.HUGE),
        )
    ]


def _loading(
    arguments: argparse.Namespace, work: pathlib.Path
) -> dict[str, _Figures]:
    directory = work / 'loading'
    directory.mkdir()
    series = loading.compare(
        directory,
        env=_environment(work),
        rounds=arguments.rounds * _LOADING,
    )

    def figure(name: str, key: str) -> figures.Figure:
        return figures.Figure(
            name=name,
            unit='ms',
            ours=[1000 * v for v in series.of(loading.WITH, key)],
            other='without',
            theirs=[1000 * v for v in series.of(loading.WITHOUT, key)],
            difference=True,
        )

    return {
        'Loading the plugin': [
            figure('any command, CPU time', 'cpu'),
            figure('any command, wall time', 'wall'),
            figures.Figure(
                name='the plugin alone, CPU time',
                unit='ms',
                ours=[1000 * v for v in series.of(loading.ALONE, 'cpu')],
                target=15.0,
            ),
        ]
    }


def _listing(
    arguments: argparse.Namespace, work: pathlib.Path
) -> dict[str, _Figures]:
    with _running(work / 'many') as cloud:
        series = listing.compare(
            cloud, env=_environment(work), rounds=arguments.rounds
        )

    def figure(
        subject: str, key: str, unit: str, target: float | None = None
    ) -> figures.Figure:
        scale = figures.MIB if unit == 'MiB' else 1
        name = {'wall': 'wall time', 'cpu': 'CPU time', 'client': 'memory'}
        return figures.Figure(
            name=f'{subject}, {name.get(key, key)}',
            unit=unit,
            ours=[value / scale for value in series.of(subject, key)],
            other=listing.IMAGES,
            theirs=[value / scale for value in series.of(listing.IMAGES, key)],
            target=target,
        )

    above = series.combined(
        lambda count: count - listing.pages(), (listing.CHECK, 'requests')
    )
    return {
        f'Lists of {listing.IMAGES_IN_ALL} images': [
            figure(listing.CHECK, 'wall', 's', 1.5),
            figure(listing.CHECK, 'cpu', 's'),
            figure(listing.CHECK, 'client', 'MiB'),
            figure(listing.CHECK, 'requests', 'number'),
            figures.Figure(
                name=f'{listing.CHECK}, beyond its pages',
                unit='requests',
                ours=above,
                target=2.0,
            ),
            figure(listing.LONG, 'wall', 's'),
        ]
    }


def _sources(
    arguments: argparse.Namespace, work: pathlib.Path
) -> dict[str, _Figures]:
    series, size = sources.compare(
        arguments.image,
        work=work,
        env=_environment(work),
        rounds=arguments.rounds,
    )

    def figure(kind: str, key: str, unit: str) -> figures.Figure:
        scale = size / figures.MIB if unit == 'MiB/s' else 1
        power = -1 if unit == 'MiB/s' else 1

        def values(kind: str) -> list[float]:
            return [scale * v**power for v in series.of(kind, key)]

        return figures.Figure(
            name=f'{kind}, {"speed" if power < 0 else "CPU time"}',
            unit=unit,
            ours=values(kind),
            other=sources.PLAIN,
            theirs=values(sources.PLAIN),
        )

    return {
        f'Sources with {size / figures.MIB:.0f} MiB in use': [
            figure(kind, key, unit)
            for kind in sources.KINDS
            for key, unit in (('wall', 'MiB/s'), ('cpu', 's'))
        ]
    }


def _inside(
    arguments: argparse.Namespace, work: pathlib.Path
) -> dict[str, _Figures]:
    with _running(work / 'inside') as cloud:
        series = inside.compare(
            triple.Files(arguments.image, arguments.kernel, arguments.ramdisk),
            cloud,
            work=work,
            env=_environment(work),
            rounds=arguments.rounds,
        )
    return {
        'An image of 1 GB in the cloud': [
            figures.Figure(
                name=f'{subject}, {what}',
                unit=unit,
                ours=series.of(subject, key),
                target=target,
            )
            for subject in (inside.VERIFY, inside.CHECK, inside.PACKAGES)
            for what, key, unit, target in (
                ('time', 'wall', 's', 2.0),
                ('read of it', 'share', '%', 1.0),
                ('requests', 'requests', 'number', None),
            )
        ]
    }


def _audit(
    arguments: argparse.Namespace, work: pathlib.Path
) -> dict[str, _Figures]:
    with _running(work / 'audit') as cloud:
        series = audit.compare(
            arguments.image,
            cloud,
            work=work,
            env=_environment(work),
            rounds=arguments.rounds,
        )
    return {
        f'{audit.COUNT} AMIs in the cloud': [
            figures.Figure(
                name=f'{audit.AUDIT}, {what}',
                unit=unit,
                ours=[value / scale for value in series.of(audit.AUDIT, key)],
                target=target,
            )
            for what, key, unit, scale, target in (
                ('wall time', 'wall', 's', 1, 60.0),
                ('CPU time', 'cpu', 's', 1, None),
                ('memory', 'client', 'MiB', figures.MIB, None),
            )
        ]
    }


_MEASURES = {
    'triple': _triple,
    'client': _client,
    'loading': _loading,
    'listing': _listing,
    'sources': _sources,
    'inside': _inside,
    'audit': _audit,
}


if __name__ == '__main__':
    sys.exit(main())
