# SPDX-License-Identifier: Apache-2.0

"""Options that narrow a list down, and the query that they make."""

from __future__ import annotations

import argparse
from collections.abc import Collection
import typing
import uuid

from amiclient import errors
from amiclient.osc import options

if typing.TYPE_CHECKING:
    from amiclient.glance import client
    from amiclient.glance import model

#: What Glance takes for something else than the name of a property.
_RESERVED = frozenset(
    {'limit', 'marker', 'page_size', 'sort', 'sort_dir', 'sort_key'}
)

#: Filters of Glance's, as far as we use them.
Query = dict[str, str | bool | Collection[str]]


def add(parser: argparse.ArgumentParser, *, links: bool = True) -> None:
    """Add the filters of a list.

    :param links: whether the images can be chosen by what they link to.
    """
    name = 'List only images with this name'
    options.add(parser, {'--name <name>': name}, type=str)
    parser.set_defaults(kernel=None, ramdisk=None)
    for noun in ('kernel', 'ramdisk') if links else ():
        what = f'List only images that link to this {noun} (name or ID)'
        options.add(parser, {f'--{noun} <image>': what})
    options.add_property(parser, 'List only images with this property')
    options.add_tag(parser, 'List only images with this tag')
    options.add_visibility(parser, chosen=True)
    options.add_project(parser)
    status = 'List only images with this status, for example active'
    options.add(parser, {'--status <status>': status})
    parser.add_argument(
        '--member-status',
        choices=('accepted', 'pending', 'rejected', 'all'),
        help='Of the images that other projects share with yours, list only '
        'those with this status (default: accepted; all with --all)',
    )
    options.add(
        parser,
        {
            '--hidden': 'List only hidden images',
            '--limit <number>': 'Maximum number of images to list',
            '--marker <image>': 'Start the list after this image (name or ID)',
        },
    )
    sort = (
        'Sort by these attributes, separated by commas, each asc or desc '
        '(default: name:asc)'
    )
    options.add(parser, {'--sort <key>[:<direction>]': sort})


def query(
    parsed_args: argparse.Namespace,
    catalog: client.Catalog,
    project_id: str | None,
) -> Query:
    """Make the query.

    :param project_id: of the project that ``--project`` names.
    """
    from amiclient.glance import model

    made: Query = {**(parsed_args.properties or {})}
    for name in sorted(_RESERVED & made.keys()):
        raise errors.UsageError(
            f'images cannot be filtered by a property {name!r}: Glance uses '
            'this name for another parameter',
            hint='remove it',
        )
    # As `openstack image list --all` does not: see client.ALL.
    all_members = 'all' if parsed_args.visibility == 'all' else None
    chosen = {
        'name': parsed_args.name and model.literal(parsed_args.name),
        'kernel_id': _link(parsed_args.kernel, model.Kind.AKI, catalog),
        'ramdisk_id': _link(parsed_args.ramdisk, model.Kind.ARI, catalog),
        'status': parsed_args.status,
        'visibility': parsed_args.visibility,
        'member_status': parsed_args.member_status or all_members,
        'owner': project_id,
        'sort': parsed_args.sort or 'name:asc',
    }
    made.update({k: v for k, v in chosen.items() if v is not None})
    if parsed_args.tags:
        made['tag'] = parsed_args.tags
    if parsed_args.hidden:
        made['os_hidden'] = True
    return made


def marker(
    parsed_args: argparse.Namespace, catalog: client.Catalog
) -> str | None:
    """Find the id of the image that ``--marker`` names, if it does."""
    given: str | None = parsed_args.marker
    return given and catalog.find(given).id


def _link(
    given: str | None, kind: model.Kind, catalog: client.Catalog
) -> str | None:
    if given is None:
        return None
    hint = f'see `openstack ami {kind.noun} list`'
    try:
        id = str(uuid.UUID(given))
    except ValueError:
        id = None
    try:
        if id is not None:
            image = catalog.get(id)
        else:
            image = catalog.find(given, fits=lambda each: each.may_be(kind))
    except errors.NotFoundError as error:
        if id is not None:
            # AMIs whose kernel is gone can be asked for.
            return id
        raise errors.NotFoundError(
            f'no {kind.noun} has the name {given!r}', hint=hint
        ) from error
    _check_kind(image, kind, catalog, hint)
    return image.id


def _check_kind(
    image: model.ImageRecord,
    kind: model.Kind,
    catalog: client.Catalog,
    hint: str,
) -> None:
    """Refuse an AMI or a ramdisk as a kernel, unless something links to it."""
    from amiclient.glance import links
    from amiclient.glance import model

    roles = {
        model.Kind.AMI.value: 'an AMI',
        model.Kind.AKI.value: 'a kernel',
        model.Kind.ARI.value: 'a ramdisk',
    }
    role = roles.get(image.disk_format or '')
    if role is None or image.disk_format == kind.value:
        return
    using = links.used_by(catalog, [image.id])[image.id]
    if not links.is_linked(image, kind, using):
        raise errors.CloudError(
            f'the image {image.name!r} ({image.id}) is {role}, not a '
            f'{kind.noun}',
            hint=hint,
        )
