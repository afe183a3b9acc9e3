# SPDX-License-Identifier: Apache-2.0

"""Who is known to the embedded cloud, and where its services are."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class User:
    """Somebody who can log in; clouds.yaml has a cloud of that name.

    :param project: the project that the user logs in to.
    :param role: the user's role in it.
    """

    name: str
    project: str
    role: str


USERS = (
    User('demo', 'demo', 'member'),
    User('reader', 'demo', 'reader'),
    User('other', 'other', 'member'),
    User('admin', 'admin', 'admin'),
)

#: Glance itself, which asks Keystone whose tokens it gets.
SERVICE = User('glance', 'service', 'service')


def provide(
    auth: dict[str, str],
    urls: dict[str, str],
    extras: dict[str, str],
    limits: dict[str, int],
) -> None:
    """Make projects, users and endpoints, where missing.

    :param auth: how the administrator logs in; the password is for all.
    :param urls: where Glance answers, by region.
    :param extras: where other services answer, by their type.
    :param limits: quotas that each project has, by Glance's names.
    """
    # It takes half a second to import, and stopping a cloud does without.
    import openstack

    with openstack.connect(
        load_yaml_config=False,
        load_envvars=False,
        region_name='RegionOne',
        auth=auth,
    ) as connection:
        _make_users(connection.identity, auth['password'])
        for region, url in urls.items():
            _make_endpoints(
                connection.identity, 'compute', region, f'{url}/compute/v2.1'
            )
            service = _make_endpoints(
                connection.identity, 'image', region, url
            )
            known = connection.identity.registered_limits(
                service_id=service, region_id=region
            )
            there = {limit.resource_name for limit in known} if limits else ()
            for name, limit in limits.items():
                if name in there:
                    continue
                connection.identity.create_registered_limit(
                    resource_name=name,
                    default_limit=limit,
                    service_id=service,
                    region_id=region,
                )
        for kind, url in extras.items():
            _make_endpoints(connection.identity, kind, 'RegionOne', url)


def _make_users(identity, password: str) -> None:
    roles = {role.name: role for role in identity.roles()}
    projects = {project.name: project for project in identity.projects()}
    users = {user.name for user in identity.users()}
    for user in (*USERS, SERVICE):
        if user.project not in projects:
            projects[user.project] = identity.create_project(
                name=user.project, domain_id='default'
            )
        if user.name not in users:
            made = identity.create_user(
                name=user.name, password=password, domain_id='default'
            )
            identity.assign_project_role_to_user(
                projects[user.project], made, roles[user.role]
            )


def _make_endpoints(identity, kind: str, region: str, url: str) -> str:
    if region not in {known.id for known in identity.regions()}:
        identity.create_region(id=region)
    service = next(iter(identity.services(type=kind)), None)
    service = service or identity.create_service(type=kind, name=kind)
    known = {
        endpoint.interface: endpoint
        for endpoint in identity.endpoints(service_id=service.id)
        if endpoint.region_id == region
    }
    usual = ('public', 'internal', 'admin')
    for interface in usual if kind != 'compute' else ('public',):
        if interface not in known:
            identity.create_endpoint(
                service_id=service.id,
                interface=interface,
                region_id=region,
                url=url,
            )
        elif known[interface].url != url:
            identity.update_endpoint(known[interface], url=url)
    return service.id
