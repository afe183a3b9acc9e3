# SPDX-License-Identifier: Apache-2.0

"""Rules about who can see an AMI's kernel and ramdisk, and delete them.

See :mod:`amiclient.glance.verify.health`.
"""

from collections.abc import Iterable, Iterator

from amiclient import findings
from amiclient.glance import model
from amiclient.glance.verify import context


def _less_visible(case: context.Case) -> Iterator[findings.Finding]:
    ami = case.image
    for kind, part in case.parts:
        if part.visibility in context.OPEN:
            continue
        is_open = ami.visibility in context.OPEN
        lacking = case.audience(ami) - case.audience(part)
        advice = None
        if is_open:
            fails = 'all others'
            visibility = ami.visibility
            if visibility == 'public' and not case.viewer.admin:
                visibility = 'community'
                advice = (
                    'only an administrator may make it public, but community '
                    'will do'
                )
            commands = [context.setting(part, f'--{visibility}')]
        elif part.visibility != 'private':
            continue
        elif lacking:
            fails = f'project {_listed(lacking)}'
            commands = [
                context.setting(part, '--shared'),
                *_added(part, lacking),
            ]
        elif not case.is_known(ami):
            fails = 'those that the AMI may be shared with'
            commands = [context.setting(part, '--shared')]
        else:
            continue
        boots = f'project {part.owner}'
        if part.visibility == 'shared':
            boots += ' and those that it is shared with'
        yield context.found(
            case,
            'error' if is_open or lacking else 'warning',
            'less-visible',
            f'{context.name(kind, part)} is {part.visibility}, the AMI '
            f'{ami.visibility}: it boots for {boots}, and fails for {fails}',
            *commands,
            kind=kind,
            image=part,
            advice=advice,
        )


def _members_differ(case: context.Case) -> Iterator[findings.Finding]:
    if case.members is None or case.image.visibility in context.OPEN:
        return
    for kind, part in case.parts:
        lacking = case.audience(case.image) - case.audience(part)
        if part.visibility != 'shared' or not lacking:
            continue
        if case.is_known(part):
            yield context.found(
                case,
                'error',
                'members-differ',
                f'{context.name(kind, part)} is not shared with project '
                f'{_listed(lacking)}, as the AMI is: it fails there',
                *_added(part, lacking),
                kind=kind,
                image=part,
            )
        elif lacking != {case.viewer.project}:
            # That the viewer sees it is known by now.
            others = lacking - {case.viewer.project}
            yield context.found(
                case,
                'warning',
                'members-differ',
                f'{context.name(kind, part)} may not be shared with project '
                f'{_listed(others)}, as the AMI is; only its owner, project '
                f'{part.owner}, can tell',
                kind=kind,
            )


def _added(
    image: model.ImageRecord, projects: Iterable[str | None]
) -> list[tuple[str, ...]]:
    return [
        ('openstack', 'image', 'add', 'project', image.id, project)
        for project in sorted(project for project in projects if project)
    ]


def _listed(projects: Iterable[str | None]) -> str:
    return ', '.join(sorted(map(str, projects)))


def _hidden(case: context.Case) -> Iterator[findings.Finding]:
    for kind, part in case.parts:
        if part.hidden and not case.image.hidden:
            yield context.found(
                case,
                'note',
                'hidden',
                f'{context.name(kind, part)} is hidden, the AMI is not: it '
                'boots, but who tidies up hidden images may delete it',
                context.setting(part, '--unhidden'),
                kind=kind,
                image=part,
            )


def _unprotected(case: context.Case) -> Iterator[findings.Finding]:
    for kind, part in case.parts:
        if case.image.protected and not part.protected:
            yield context.found(
                case,
                'warning',
                'unprotected',
                f'{context.name(kind, part)} is not protected, the AMI is: it '
                'can be deleted, and the AMI does not boot then',
                context.setting(part, '--protected'),
                kind=kind,
                image=part,
            )


def _foreign_owner(case: context.Case) -> Iterator[findings.Finding]:
    for kind, part in case.parts:
        if part.owner != case.image.owner:
            commands = _copied(case, kind, part)
            yield context.found(
                case,
                # The cloud's own kernels are made to be linked to.
                'note' if part.visibility == 'public' else 'warning',
                'foreign-owner',
                f'{context.name(kind, part)} belongs to project {part.owner}, '
                f'the AMI to {case.image.owner}: only a copy of it would be '
                'safe from being withdrawn',
                *commands,
                kind=kind,
                advice=None if commands else context.renewal(case, kind),
            )


def _copied(
    case: context.Case, kind: model.Kind, part: model.ImageRecord
) -> list[tuple[str, ...]]:
    """Write the commands that give an AMI a copy of its own.

    :returns: none if they would fail: the copy is as visible as the AMI.
    """
    is_public = case.image.visibility == 'public'
    if part.status != 'active' or (is_public and not case.viewer.admin):
        return []
    file = f'{kind.noun}-{part.id}'
    named = (f'--{kind.noun}-name', part.name) if part.name else ()
    return [
        ('openstack', 'image', 'save', '--file', file, part.id),
        (
            *('openstack', 'ami', 'set', f'--{kind.noun}', file, *named),
            # Otherwise bytes that the cloud holds already are linked to.
            *('--no-reuse', case.image.id),
        ),
    ]


CHECKS = (
    _less_visible,
    _members_differ,
    _foreign_owner,
    _unprotected,
    _hidden,
)
