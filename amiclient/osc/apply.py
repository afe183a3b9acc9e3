# SPDX-License-Identifier: Apache-2.0

"""Commands for files that say which AMIs a project is to have."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import functools
import itertools
import sys
import typing
from typing import Any, NoReturn

from amiclient import errors
from amiclient.osc import ami as uploads
from amiclient.osc import clouds
from amiclient.osc import command
from amiclient.osc import options
from amiclient.osc import sources

if typing.TYPE_CHECKING:
    from amiclient.glance.change import apply
    from amiclient.glance import declaration
    from amiclient.glance.declaration import DeclaredAmi
    from amiclient.glance.upload import request

#: The options of "openstack ami upload" that are not called as the keys are.
_OPTIONS = {
    'format': 'image-format',
    'properties': 'property',
    'stores': 'store',
    'tags': 'tag',
    'version': 'image-version',
}

#: Keys that say where the AMI is to be, which is no affair of an upload.
_ELSEWHERE = ('clouds', 'projects', 'regions')


class _SchemaAction(argparse.Action):
    """Prints the JSON schema, and ends: as --help does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from amiclient.glance import declaration

        sys.stdout.write(declaration.SCHEMA.read_text(encoding='utf-8'))
        parser.exit()


class ApplyAmis(command.Lister):
    """Have the AMIs in the project that YAML files declare.

    An AMI that is not there is uploaded; one that is there is changed where it
    differs. It is uploaded again, as a new version, if its source has changed:
    the property ami_source_sha512 tells. If all is as declared, nothing is
    changed and nothing is sent. If one AMI fails, the others are still done,
    and the exit status is 1. The output has a row for each change; with
    --dry-run, for each change that would be made.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        what = 'YAML file with AMIs; several files count as one'
        options.add(parser, {'files <file>': what}, nargs='+')
        prune = (
            'Delete the AMIs of the collections of these files that no file '
            'names any more. Protected AMIs, and AMIs that a server uses, are '
            'kept. Nothing is deleted if an AMI failed'
        )
        options.add(parser, {'--prune': prune})
        parser.add_argument(
            '--schema',
            action=_SchemaAction,
            nargs=0,
            help='Print the JSON schema of the files, and exit',
        )
        work = options.work_directory(
            'shrunk copies', 'as for "openstack ami upload"'
        )
        options.add(parser, work | options.NETWORK)
        options.add(parser, options.DRY_RUN | options.PROGRESS)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance.change import apply
        from amiclient.glance import declaration
        from amiclient.glance import places
        from amiclient.osc import columns

        declared = declaration.read(parsed_args.files)
        collections = _collections(parsed_args, declared)
        self._watch = self.watch(parsed_args)
        self._cloud = self.catalog(parsed_args)
        self._uploads = _planned(parsed_args, declared.amis)
        self._refuse_unknown(declared.amis)
        here, lost = places.CloudPlace('', '', self.proxy()), list[str]()
        with clouds.opened(
            self, _elsewhere(declared.amis), source=here, lost=lost
        ) as others:
            asked = apply.ApplyRequest(
                amis=declared.amis,
                home=here,
                others={each.title: each for each in others},
                upload=self._upload,
                project=functools.cache(self.find_project),
                users=functools.cache(self.users),
                patience=options.patience(parsed_args),
                dry_run=parsed_args.dry_run,
            )
            applying = apply.Applying(asked, progress=self._watch)
            self._apply(applying, declared.amis)
            if collections and not self.failed:
                applying.prune(collections)
        if not (applying.changes or self.failed):
            self.warn(['nothing to change: all AMIs are as declared'])
        return columns.many(columns.APPLIED, applying.changes)

    def _refuse_unknown(self, amis: Sequence[DeclaredAmi]) -> None:
        """Name the lines of regions and clouds that there are none of."""
        from amiclient.glance import declaration

        problems: list[errors.AmiError] = []
        for ami in amis:
            for key, regions, others in (
                ('regions', ami.regions, ()),
                ('clouds', (), ami.clouds),
            ):
                try:
                    clouds.refuse_unknown(self, regions, others)
                except errors.UsageError as error:
                    error.subject = ami.lines.get(key, ami.where)
                    problems.append(error)
        declaration.refuse(problems)

    def _apply(
        self, applying: apply.Applying, amis: Sequence[DeclaredAmi]
    ) -> None:
        """Do one after the other, whatever becomes of those before it."""
        for ami in amis:
            try:
                with command.plain_errors():
                    applying.apply(ami)
            except errors.AmiError as error:
                # No traceback for users.
                self.log.error('%s: %s: %s', ami.where, ami.title, error)  # noqa: TRY400
                self.failed = True
            except BaseException as error:
                error.add_note(
                    f'{ami.title!r} and the AMIs after it are not done'
                )
                raise
        self.failed = self.failed or applying.failed

    @contextlib.contextmanager
    def _upload(
        self, ami: DeclaredAmi, origin: Mapping[str, str]
    ) -> Iterator[request.RegisterPlan]:
        asked = self._uploads[ami.key]
        uploads.check_source(asked)
        with (
            sources.downloaded(asked, self._watch) as self._names,
            uploads.prepared(
                self, asked, self._cloud, self._watch, origin
            ) as upload,
        ):
            yield upload.planned


def _collections(
    parsed_args: argparse.Namespace, declared: declaration.Declaration
) -> frozenset[str]:
    """Tell which collections are pruned; each file has to have one."""
    if not parsed_args.prune:
        return frozenset()
    for file, name in declared.collections.items():
        if name is None:
            raise errors.UsageError(
                'without a collection, there is no telling what --prune may '
                'delete',
                subject=file,
                hint='add a line such as "collection: web-images"',
            )
    return frozenset(filter(None, declared.collections.values()))


def _elsewhere(amis: Sequence[DeclaredAmi]) -> argparse.Namespace:
    """Name all places, as the options of other commands do."""
    return argparse.Namespace(
        regions=[name for ami in amis for name in ami.regions],
        clouds=[name for ami in amis for name in ami.clouds],
    )


def _planned(
    parsed_args: argparse.Namespace, amis: Sequence[DeclaredAmi]
) -> dict[tuple[bool, str], argparse.Namespace]:
    """Say what is declared as the options of uploads, and check these."""
    from amiclient.glance import declaration

    problems: list[errors.AmiError] = []

    def refuse(message: str) -> NoReturn:
        raise errors.UsageError(message)

    parser = uploads.UploadAmi(None, None).get_parser('openstack ami upload')
    typing.cast(Any, parser).error = refuse
    found = {}
    for ami in amis:
        if ami.source is None:
            continue
        words = dict(_words(ami))
        # One by one first, for the sake of the line.
        all_of_them = [*itertools.chain.from_iterable(words.values())]
        for key, some in (*words.items(), ('', all_of_them)):
            try:
                asked = parser.parse_args([*some, '--', ami.source])
            except errors.AmiError as error:
                if error.subject is not None:
                    error.message = error.sentence
                error.subject = ami.lines.get(key, ami.where)
                problems.append(error)
                break
        else:
            for name in ('dry_run', 'retries', 'timeout', 'work_directory'):
                setattr(asked, name, getattr(parsed_args, name))
            found[ami.key] = asked
    declaration.refuse(problems)
    return found


def _words(ami: DeclaredAmi) -> Iterator[tuple[str, list[str]]]:
    """Write what is declared of an AMI as options, by the keys."""
    yield '', ['--linked']
    yield 'name', [f'--name={ami.name}']
    if ami.keep is not None and ami.replace is None:
        yield 'replace', ['--replace=delete']
    left_out = ['name', 'source', *_ELSEWHERE]
    if not ami.is_web:
        # It is compared by hand, with what is there.
        left_out += ['sha256', 'sha512']
    for key in ami.lines:
        if key not in left_out:
            yield (
                key,
                _option(key, ami.making.get(key, getattr(ami, key, None))),
            )


def _option(key: str, value: Any) -> list[str]:
    option = f'--{_OPTIONS.get(key, key).replace("_", "-")}'
    if key == 'visibility':
        return [f'--{value}']
    if key == 'properties':
        given = {
            name: text for name, text in value.items() if text is not None
        }
        return [f'{option}={name}={text}' for name, text in given.items()]
    if key == 'shrink':
        return [] if value else ['--no-shrink']
    if key == 'protected' and not value:
        return ['--unprotected']
    if isinstance(value, bool):
        return [option] if value else []
    many = value if isinstance(value, tuple | list) else [value]
    return [f'{option}={each}' for each in many]


class ExportAmis(command.Action):
    """Write a YAML file with the AMIs of the project.

    It is for "openstack ami apply", which changes nothing as long as the AMIs
    are as they are now. Of several versions, the newest is written. No AMI has
    a source: add one to have new versions uploaded. The file is written to
    stdout.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        what = 'Only the AMI of this name or family'
        options.add_several(parser, '--name <name>', what, dest='names')
        options.add(parser, options.NETWORK)

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        from amiclient.glance.change import export
        from amiclient.glance.change import inventory
        from amiclient.glance import places

        here = places.CloudPlace('', '', self.proxy())
        there = inventory.Inventory(here, options.patience(parsed_args))
        found = export.Export(there, parsed_args.names)
        self.say(line.rstrip('\n') for line in found.lines())
        self.warn(found.notes)
