# SPDX-License-Identifier: Apache-2.0

"""The names of architectures, and whether two are one."""

#: Other names for architectures, as Nova takes them
#: (nova.objects.fields.Architecture.canonicalize).
_ARCHITECTURES = {
    'amd64': 'x86_64',
    'x64': 'x86_64',
    'arm64': 'aarch64',
    'i386': 'i686',
    'i486': 'i686',
    'i586': 'i686',
    'ppc64el': 'ppc64le',
}


def differ(one: str | None, other: str | None) -> bool:
    """Tell whether Nova takes two names for two architectures.

    :returns: False as well if one is not known.
    """
    return bool(one and other and _canonical(one) != _canonical(other))


def _canonical(architecture: str) -> str:
    lower = architecture.lower()
    return _ARCHITECTURES.get(lower, lower)
