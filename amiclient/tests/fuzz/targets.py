# SPDX-License-Identifier: Apache-2.0

"""What the fuzzer does with an input."""

import dataclasses
import json
import pathlib
import shutil

import requests_mock

from amiclient import errors
from amiclient.ext import reader
from amiclient.ext import shrink
from amiclient.ext import superblock
from amiclient.rootfs import boot_extract
from amiclient.rootfs import boot_files
from amiclient.rootfs import check
from amiclient.rootfs import identify
from amiclient.rootfs import inspect
from amiclient.rootfs import ramdisk_formats
from amiclient.source import bundle
from amiclient.source import probe
from amiclient.tests.cloud import memory
from amiclient.tests.fuzz import run as fuzz_run
from amiclient import units


def _superblock(path: pathlib.Path, directory: pathlib.Path) -> None:
    found = superblock.read(path)
    # Whatever is computed from it must be there to be computed.
    for field in ('size', 'in_use', 'group_count', 'inode_blocks', 'features'):
        getattr(found, field)


def _identify(path: pathlib.Path, directory: pathlib.Path) -> str | None:
    phrase = probe.identify(path)
    if not phrase.isprintable() or len(phrase) > 100:
        return f'an odd phrase: {phrase!r}'
    return None


def _open_root(path: pathlib.Path, directory: pathlib.Path) -> str | None:
    found = probe.open_root(path)
    if found.superblock.size > found.size:
        return 'a filesystem larger than its file was taken'
    return None


def _read_file(path: pathlib.Path, directory: pathlib.Path) -> str | None:
    with reader.opened(path) as tree:
        data = tree.read_file('/boot/vmlinuz', 1 << 16)
    if data is not None and len(data) > 1 << 16:
        return 'more was read than was allowed'
    return None


def _release(path: pathlib.Path, directory: pathlib.Path) -> str | None:
    found = inspect.read_release(path)
    for value in (found.distro, found.version):
        if value is not None and not (value.isprintable() and value.isascii()):
            return f'a release like {value!r}'
    return None


def _check(path: pathlib.Path, directory: pathlib.Path) -> str | None:
    found = check.check(
        bundle.Source(root=path), check.CheckRequest(name=path)
    )
    unknown = {finding.rule for finding in found} - check.RULES
    return f'unknown rules: {unknown}' if unknown else None


def _inspect(path: pathlib.Path, directory: pathlib.Path) -> None:
    inspect.inspect(bundle.Source(root=path), path)


def _take(path: pathlib.Path, directory: pathlib.Path) -> str | None:
    for number, found in enumerate(boot_files.find(path)):
        target = directory / f'taken{number}'
        target.mkdir()
        try:
            boot_extract.take(found, target)
        finally:
            shutil.rmtree(target)
    return None


def _request(
    path: pathlib.Path, directory: pathlib.Path, *, repair: bool
) -> shrink.ShrinkRequest:
    return shrink.ShrinkRequest(
        image=probe.open_root(path),
        output=directory / 'result',
        options=units.FilesystemOptions(repair=repair),
        durable=False,
    )


def _shrink(path: pathlib.Path, directory: pathlib.Path) -> str | None:
    return _shrunk(path, directory, repair=False)


def _repair(path: pathlib.Path, directory: pathlib.Path) -> str | None:
    return _shrunk(path, directory, repair=True)


def _shrunk(
    path: pathlib.Path, directory: pathlib.Path, *, repair: bool
) -> str | None:
    try:
        planned = shrink.plan(_request(path, directory, repair=repair))
        shrink.execute(planned)
    except errors.AmiError as error:
        if wrong := _left_behind(directory):
            raise AssertionError(wrong) from error
        raise
    return _left_behind(directory, 'result') or fuzz_run.judge(
        path, directory / 'result'
    )


def _exact(path: pathlib.Path, directory: pathlib.Path) -> str | None:
    planned = shrink.plan(
        _request(path, directory, repair=False), check=True, exact=True
    )
    if planned.block_count * planned.block_size < planned.lower_bound:
        return 'smaller than the lower bound'
    return _left_behind(directory)


def _command(path: pathlib.Path, directory: pathlib.Path) -> str | None:
    result = directory / 'result'
    try:
        wrong = _run(
            'ami', 'shrink', '--output', str(result), '-f', 'json', str(path)
        )
    except errors.AmiError as error:
        if left := _left_behind(directory):
            raise AssertionError(left) from error
        raise
    return wrong or fuzz_run.judge(path, result)


def _upload(path: pathlib.Path, directory: pathlib.Path) -> str | None:
    with requests_mock.Mocker() as wire:
        memory.Glance().mock(wire)
        wrong = _run(
            '--os-auth-type', 'none', '--os-endpoint', memory.URL,
            'ami', 'upload', '--no-kernel', '--no-ramdisk', '--dry-run',
            '--work-directory', str(directory), '-f', 'json', str(path),
        )  # fmt: skip
        asked = {request.method for request in wire.request_history}
    if asked - {'GET'}:
        return f'a dry run did more than look: {asked}'
    return wrong or _left_behind(directory)


def _run(*words: str) -> str | None:
    """Run a command, and tell what is wrong with what it says.

    :raises AmiError: if the command refused its input, as it may.
    """
    status, out, err = fuzz_run.openstack(list(words))
    text = out + err
    if status not in (0, 1) or 'Traceback' in text:
        return f'exit status {status}: {text}'
    if any(not (c.isprintable() or c == '\n') for c in text):
        return f'not printable: {text!r}'
    if status and (out or not 0 < len(err.splitlines()) <= 2):
        return f'not one line of error: {text!r}'
    if status:
        raise errors.AmiError(' '.join(err.split()))
    json.loads(out)
    return None


def _left_behind(directory: pathlib.Path, *wanted: str) -> str | None:
    left = sorted(child.name for child in directory.iterdir())
    return None if left == list(wanted) else f'left behind: {left}'


def _kernel(path: pathlib.Path, directory: pathlib.Path) -> str | None:
    found = identify.identify_kernel(path)
    words = [str(x) for x in dataclasses.astuple(found)[1:]]
    return None if ' '.join(words).isprintable() else f'odd: {words}'


def _ramdisk(path: pathlib.Path, directory: pathlib.Path) -> None:
    ramdisk_formats.files_in(path)
    identify.identify_ramdisk(path)


#: For every input.
READERS: dict[str, fuzz_run.Target] = {
    'superblock': _superblock,
    'identify': _identify,
    'open_root': _open_root,
    'kernel': _kernel,
    'ramdisk': _ramdisk,
}

#: For filesystems; they start debugfs.
BROWSERS: dict[str, fuzz_run.Target] = {
    'read_file': _read_file,
    'release': _release,
    'check': _check,
    'inspect': _inspect,
    'take': _take,
}

#: For filesystems; each input gets one or two.
SHRINKERS: dict[str, fuzz_run.Target] = {
    'shrink': _shrink,
    'repair': _repair,
    'exact': _exact,
    'command': _command,
    'upload': _upload,
}
