# SPDX-License-Identifier: Apache-2.0

"""Commands for AMIs as a whole: ``openstack ami upload, list, show, save``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
import contextlib
import dataclasses
import typing

from amiclient import errors
from amiclient.osc import clouds
from amiclient.osc import command
from amiclient.osc import filters
from amiclient.osc import options
from amiclient.osc import sources

if typing.TYPE_CHECKING:
    from amiclient.glance.change import replace
    from amiclient.glance import client
    from amiclient.glance import model
    from amiclient.glance.upload import request
    from amiclient.glance.verify import elsewhere
    from amiclient import progress
    from amiclient.source import bundle


class UploadAmi(command.ShowOne):
    """Shrink a root filesystem and register it with its kernel and ramdisk.

    The source is not changed: a shrunk copy of it is uploaded. Afterwards all
    three images are complete, linked and verified. If the upload fails, the
    images that it created are removed. With --dry-run, the output has the
    same columns and a list of the images; the status is "planned". With
    --to-region and --to-cloud, the output has a list of the copies. If one of
    them fails, the upload is kept, and the exit status is 1.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        name = 'that of a saved AMI, or of the source without its suffix'
        options.add(parser, sources.ROOT, nargs='?')
        options.add(parser, sources.TAKING | sources.FIX | sources.DOWNLOAD)
        options.add(parser, options.new_name(name))
        parser.add_argument(
            '--for',
            dest='target',
            choices=('nova', 'ironic', 'ironic-ramdisk'),
            default='nova',
            help='What deploys the image: Nova, to servers (default); '
            'Ironic, to the disks of bare metal; or Ironic with a ramdisk, '
            'without disks. For ironic, the root image is raw or qcow2. For '
            'ironic-ramdisk, it has no data: only the kernel and the ramdisk '
            'of the source are uploaded, and with --kernel, --ramdisk and '
            '--name there is no source. For both, the default visibility is '
            'community',
        )
        options.add_parts(parser)
        options.add(parser, sources.KERNEL_VERSION)
        image_format = (
            'Disk format of the root image (default: that of a saved AMI, or '
            'ami). With raw and qcow2 (compressed), the container format is '
            'bare; such images boot in the same way. auto is ami, or raw if '
            'the cloud does not accept ami, or has Ironic. With --for ironic, '
            'the default is raw'
        )
        formats = ('ami', 'raw', 'qcow2', 'auto')
        parser.add_argument(
            '--image-format', choices=formats, help=image_format
        )
        no_shrink = (
            'Upload the filesystem unmodified. Remains of deleted files are '
            'included. For more free space, use --headroom instead'
        )
        options.add(
            parser,
            {'--no-shrink': no_shrink},
            dest='shrink',
            action='store_false',
        )
        options.add_shrink(parser, upload=True)
        options.add_new_image(
            parser,
            architecture='. It also chooses the container image to use, if '
            'the source has images of several',
        )
        _add_versions(parser)
        linked = (
            'Make a kernel or ramdisk that is in the cloud already as visible '
            'as the new image'
        )
        minimums = options.minimums(
            ' (default: the size of the root filesystem, rounded up)',
            ' (default: that of a saved AMI, or 0)',
        )
        options.add(parser, {'--linked': linked} | minimums)
        clouds.add(
            parser, 'to-', 'When the upload is complete, copy the AMI to'
        )
        work = options.work_directory(
            'the shrunk copy',
            'the first of $TMPDIR, /var/tmp, the directory of the source and '
            '/tmp with enough free space; the one with the most free space if '
            'the size is not known before, as for a disk image or a '
            'compressed source',
        )
        command.add_human_readable(parser)
        options.add(parser, work | options.NETWORK)
        options.add(parser, options.DRY_RUN | options.PROGRESS)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance.change import copy
        from amiclient.glance.change import replace
        from amiclient.glance import places
        from amiclient.glance.upload import register
        from amiclient.osc import columns

        check_source(parsed_args)
        here = places.CloudPlace('', '', self.proxy())
        watch = self.watch(parsed_args)
        cloud = self.catalog(parsed_args)
        lost: list[str] = []
        with (
            clouds.opened(
                self, parsed_args, source=here, lost=lost
            ) as targets,
            prepared(self, parsed_args, cloud, watch) as upload,
        ):
            planned, asked, old = upload.planned, upload.asked, upload.old
            copy.check_stores(upload.wanted.settings, targets)
            if parsed_args.dry_run:
                new = planned.ami.image.id
                then = replace.plan(cloud, asked, old, new=new)
                self.warn((*then.warnings, *then.notes))
                rows = replace.rows(asked, then)
                return columns.with_copies(
                    columns.planned(planned.steps, rows, planned.size_before),
                    copy.planned(targets, lost),
                )
            triple = register.execute(planned, here.proxy, progress=watch)
            copied = copy.uploaded(
                triple.ami,
                dataclasses.replace(
                    upload.wanted.settings,
                    visibility=planned.settings.visibility,
                ),
                here,
                targets,
                lost,
                progress=watch,
            )
        self.failed = copy.failed(copied)
        try:
            self.warn(replace.execute(cloud, asked, old, triple.ami))
        except errors.CloudError as error:
            # No traceback for users.
            self.log.error('%s', error)  # noqa: TRY400
            self.failed = True
        return columns.with_copies(
            columns.uploaded(
                triple.ami,
                triple.uploaded,
                triple.reused,
                planned.size_before,
            ),
            copied,
        )


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An upload that is planned, and its source, which is open.

    :param asked: what becomes of older versions.
    :param old: all of them, the newest first.
    """

    wanted: request.UploadRequest
    planned: request.RegisterPlan
    asked: replace.Replacement
    old: tuple[model.ImageRecord, ...]


@contextlib.contextmanager
def prepared(
    base: command._Base,
    parsed_args: argparse.Namespace,
    cloud: client.Catalog,
    watch: progress.Progress,
    origin: Mapping[str, str] | None = None,
) -> Iterator[Prepared]:
    """Open the source of an upload, and plan it.

    :param parsed_args: as "openstack ami upload" takes them.
    :param origin: properties that tell where the AMI comes from, as far as
        they are known.
    """
    from amiclient.glance.change import replace
    from amiclient.glance.upload import plan

    # A passphrase is asked for before it takes long.
    settings = options.settings(parsed_args, base.project_id(parsed_args))
    with sources.triple(parsed_args, watch, is_described=True) as source:
        wanted = _request(parsed_args, source, settings)
        wanted = _with_version(parsed_args, wanted, source, origin, watch)
        asked = _replacement(parsed_args, wanted)
        old = replace.find(cloud, asked)
        leaving = replace.leaving(cloud, asked, old)
        planned = plan.plan(
            dataclasses.replace(wanted, replaced=leaving),
            cloud,
            exact=parsed_args.dry_run,
            progress=watch,
        )
        base.warn((*source.notes, *_full(parsed_args), *planned.warnings))
        yield Prepared(wanted, planned, asked, old)


def _request(
    parsed_args: argparse.Namespace,
    source: bundle.Source,
    settings: request.Settings,
) -> request.UploadRequest:
    from amiclient.glance.upload import request

    def part(noun: str) -> str | None:
        return options.chosen_part(
            parsed_args,
            noun,
            getattr(source, noun),
            complete=source.complete,
        )

    return options.fill(
        request.UploadRequest,
        parsed_args,
        source=source.root,
        kernel=part('kernel'),
        ramdisk=part('ramdisk'),
        image_format=parsed_args.image_format
        or (
            'auto'
            if parsed_args.target == request.DISKLESS
            or (
                parsed_args.target == request.METAL
                and source.image_format == 'ami'
            )
            else source.image_format
        ),
        shrink=options.shrinks(parsed_args, finished=source.finished),
        options=options.filesystem(parsed_args),
        traits=options.traits(parsed_args),
        settings=settings,
    )


def _add_versions(parser: argparse.ArgumentParser) -> None:
    options.add(
        parser,
        {
            '--family <family>': 'AMI that the image is a version of: the '
            'property ami_family. The properties image_build_date and '
            'ami_source_sha512 are set, too',
            '--image-version <version>': 'Name of this version: the property '
            'ami_version',
        },
    )
    hows = ('keep', 'hide', 'rename', 'deactivate', 'delete')
    how = (
        'What to do with older images of this family, or of this name if '
        'there is no --family, that belong to the project: hide them, add '
        'their dates to their names, deactivate them, or delete them with '
        'their kernels and ramdisks if no server uses them (default: keep). '
        'It is done when the new image is complete and verified'
    )
    parser.add_argument('--replace', choices=hows, default='keep', help=how)
    keep = (
        'Number of images that --replace leaves unchanged: the newest ones, '
        'the new image included (default: 1)'
    )
    options.add(parser, {'--keep <count>': keep})


def _replacement(
    parsed_args: argparse.Namespace, wanted: request.UploadRequest
) -> replace.Replacement:
    from amiclient.glance.change import replace
    from amiclient.glance import versions

    options.refuse(
        {'--keep': parsed_args.keep and parsed_args.replace == 'keep'},
        'all images are kept',
        hint='give --replace hide, rename, deactivate or delete',
    )
    return replace.Replacement(
        how=parsed_args.replace,
        name=wanted.name,
        family=wanted.traits.properties.get(versions.FAMILY),
        keep=parsed_args.keep or 1,
        owner=wanted.settings.owner,
    )


def _with_version(
    parsed_args: argparse.Namespace,
    wanted: request.UploadRequest,
    source: bundle.Source,
    origin: Mapping[str, str] | None,
    watch: progress.Progress,
) -> request.UploadRequest:
    """Fill in what a request leaves open, and what tells its version.

    :param origin: what is known of that; None if it matters only where there
        are versions.
    """
    from amiclient.glance.upload import plan
    from amiclient.glance.upload import request
    from amiclient.glance import versions

    given = {
        versions.FAMILY: parsed_args.family,
        versions.VERSION: parsed_args.image_version,
    }
    given = {key: text for key, text in given.items() if text is not None}
    options.refuse(
        {
            f'--property {key}': key in wanted.traits.properties
            for key in given
        },
        'there is an option for this property',
        hint='remove one of them',
    )
    properties = {**wanted.traits.properties, **given}
    traits = dataclasses.replace(wanted.traits, properties=properties)
    adopted = request.adopt(dataclasses.replace(wanted, traits=traits), source)
    if not given and origin is None:
        return adopted
    known = {**adopted.traits.properties, **(origin or {})}
    path = parsed_args.source or source.root
    found = {**plan.origin(path, known, watch), **(origin or {})}
    return dataclasses.replace(adopted, origin=found)


def _full(parsed_args: argparse.Namespace) -> Iterator[str]:
    """Say what becomes of a server whose root filesystem is full."""
    from amiclient import units

    if parsed_args.headroom == units.NO_HEADROOM:
        yield (
            '--headroom 0 leaves no free space: on most hosts, the root '
            "filesystem will not grow to the size of the server's disk, "
            'because cloud-init needs free space before it can grow it'
        )


def check_source(parsed_args: argparse.Namespace) -> None:
    """Refuse what makes no sense of a source, or of one that is missing."""
    from amiclient import errors
    from amiclient.glance.upload import request

    if parsed_args.target != request.DISKLESS:
        if parsed_args.source is None:
            raise errors.UsageError(
                'no source was named',
                hint='name what holds the root filesystem; only --for '
                f'{request.DISKLESS} can do without',
            )
    else:
        options.refuse(
            {
                '--fix': parsed_args.fix,
                '--headroom': parsed_args.headroom is not None,
                '--journal': parsed_args.journal != 'keep',
                '--no-shrink': not parsed_args.shrink,
                '--repair': parsed_args.repair,
            },
            f'no root filesystem is uploaded with --for {request.DISKLESS}',
            hint='leave it out',
        )
        both = parsed_args.kernel and parsed_args.ramdisk
        if both and parsed_args.source is not None:
            raise errors.UsageError(
                f'--for {request.DISKLESS} needs nothing of the source '
                f'{parsed_args.source} but its kernel and ramdisk, and both '
                'are given',
                hint='leave out the source, and give --name NAME',
            )
        if parsed_args.source is None and not (both and parsed_args.name):
            raise errors.UsageError(
                'no source was named',
                hint='name one, or give --kernel, --ramdisk and --name',
            )
    if parsed_args.source is not None:
        sources.refuse_nameless(
            parsed_args.source, '--name NAME', parsed_args.name
        )


class ListAmi(command.Lister):
    """List AMIs: the images that link to a kernel, in any disk format.

    With --check, the column Health shows the worst problem of each AMI and of
    its links, like "openstack ami verify". Members are not checked: that
    would need one more request for each image. Images that should link to a
    kernel, but do not, are listed as well. With --region and --cloud,
    there is a column for each of them: "same", "missing", or what differs.
    Tables have the names of kernels and ramdisks, other formats their IDs. On
    a terminal that is too narrow for it, there is no column ID without --long.
    """

    spare_column = 'ID'

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add(
            parser,
            {
                '--long': 'List additional fields',
                '--check': 'Show whether each AMI has the images that it '
                'needs to boot (metadata only). Images with the disk format '
                'ami or with a ramdisk, but without a kernel, are listed as '
                'well',
                '--family <family>': 'List the versions of this family, the '
                'newest first: by the property image_build_date, or else by '
                'when they were created. Hidden images are listed, too',
            },
        )
        clouds.add(parser, '', 'Show whether the same AMI is in')
        command.add_human_readable(parser)
        filters.add(parser)
        options.add(parser, options.NETWORK)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance import links
        from amiclient.glance.verify import rules
        from amiclient.osc import columns

        cloud = self.catalog(parsed_args)
        long, check = parsed_args.long, parsed_args.check
        is_table = parsed_args.formatter == 'table'
        family = parsed_args.family
        given = {n: getattr(parsed_args, n) for n in ('sort', 'marker')}
        options.refuse(
            {f'--{n}': family and text for n, text in given.items()},
            'a family is listed as a whole, the newest version first',
            hint=f'use --property ami_family={family} instead of --family',
        )
        others = self._others(parsed_args)
        found = links.list_amis(
            cloud,
            filters.query(parsed_args, cloud, self.project_id(parsed_args)),
            family=family,
            limit=parsed_args.limit,
            marker=filters.marker(parsed_args, cloud),
            # Kernels and ramdisks are compared, too.
            # Tables have their names.
            resolve=long or check or bool(others) or is_table,
            broken=check,
        )
        checked = rules.reports(cloud, found, check=check)
        shown = columns.amis(
            long=long, check=check, family=bool(family), elsewhere=others
        )
        return columns.many(shown, checked)

    def _others(
        self, parsed_args: argparse.Namespace
    ) -> list[elsewhere.Elsewhere]:
        from amiclient.glance.verify import elsewhere

        patience = options.patience(parsed_args)
        with clouds.opened(self, parsed_args) as places:
            return [elsewhere.Elsewhere.of_all(p, patience) for p in places]


class ShowAmi(command.ShowOne):
    """Show one AMI with its kernel and its ramdisk, and the health of each.

    A kernel or ramdisk with the status "missing" was deleted, or is not
    visible to this project. No server boots from such an AMI. A table has
    what matters most; name other columns with -c, or use another format, such
    as -f json.
    """

    spare = frozenset({
        'container_format', 'updated_at', 'hash_algo', 'hash_value',
        'kernel_id', 'kernel_name', 'kernel_status', 'kernel_size',
        'ramdisk_id', 'ramdisk_name', 'ramdisk_status', 'ramdisk_size',
        'properties',
    })  # fmt: skip
    spare_if_unset = frozenset({
        'protected', 'hidden', 'architecture', 'os_distro', 'os_version',
        'min_ram', 'tags', 'stores', 'findings',
    })  # fmt: skip

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        options.add(parser, options.image('Image to show'))
        command.add_human_readable(parser)
        options.add(parser, options.NETWORK)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance import links
        from amiclient.glance.verify import rules
        from amiclient.osc import columns

        cloud = self.catalog(parsed_args)
        report = rules.report(cloud, links.show(cloud, parsed_args.ami))
        return columns.one(columns.AMI, report)


#: How an AMI is saved.
_LAYOUTS = ('directory', 'uec')


class _FormatOrLayout(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: typing.Any,
        option_string: str | None = None,
    ) -> None:
        dest = 'layout' if values in _LAYOUTS else self.dest
        setattr(namespace, dest, values)


def _add_old_layout(group: argparse._ArgumentGroup) -> None:
    """Let ``--format`` say the layout, as it did once, and not in the help.

    :param group: cliff's options of formatters.
    """
    old = group._option_string_actions['--format']
    choices = tuple(old.choices or ())
    group.conflict_handler = 'resolve'
    group.add_argument(
        *old.option_strings,
        action=_FormatOrLayout,
        dest=old.dest,
        choices=(*choices, *_LAYOUTS),
        metavar=f'{{{",".join(choices)}}}',
        default=old.default,
        help=old.help,
    )


class SaveAmi(command.ShowOne):
    """Download an AMI with its kernel and its ramdisk to files.

    The files are verified and described by a manifest: "openstack ami upload"
    registers the same AMI in another cloud. After an interruption, run the
    command again: complete files are not downloaded again. An archive of an
    AMI that has changed in the meantime is created again.
    """

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        directory = (
            'Directory to save to: new, empty, or from an earlier run '
            '(default: one with the name of the AMI; the current one for an '
            'archive)'
        )
        options.add(
            parser,
            options.image('Image to save')
            | {'--directory <directory>': directory}
            | options.KEEP_HARDWARE,
        )
        signature = (
            'Save signed images even if their signatures do not match their '
            'data, or cannot be checked (default: fail)'
        )
        options.add(
            parser,
            {'--no-verify-signature': signature},
            dest='verify_signature',
            action='store_false',
        )
        parser.add_argument(
            '--layout',
            choices=_LAYOUTS,
            default='directory',
            help='Save as files in a directory, or as one UEC archive '
            '(default: directory)',
        )
        _add_old_layout(self._formatter_group)
        command.add_human_readable(parser)
        options.add(parser, options.PROGRESS | options.NETWORK)

    def take_action(self, parsed_args: argparse.Namespace) -> command.Result:
        from amiclient.glance.transfer import save
        from amiclient.osc import columns

        wanted = options.fill(
            save.SaveRequest,
            parsed_args,
            patience=options.patience(parsed_args),
        )
        proxy, watch = self.proxy(), self.watch(parsed_args)
        saved = save.save(wanted, proxy, progress=watch)
        return columns.one(columns.SAVED, saved)
