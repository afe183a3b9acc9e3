# SPDX-License-Identifier: Apache-2.0

"""The records of the cloud side: images as they are, and as they shall be."""

from collections.abc import Iterator, Mapping
import dataclasses
import datetime
import enum
import json
import pathlib
import re
import types
from typing import Any, Self

from amiclient.glance import answers
from amiclient import locks
from amiclient import sparse

#: The names, by Glance, of what every image has; all others are properties.
ATTRIBUTES = frozenset(
    {
        'checksum',
        'container_format',
        'created_at',
        'direct_url',
        'disk_format',
        'file',
        'id',
        'locations',
        'min_disk',
        'min_ram',
        'name',
        'os_hash_algo',
        'os_hash_value',
        'os_hidden',
        'owner',
        'protected',
        'schema',
        'self',
        'size',
        'status',
        'stores',
        'tags',
        'updated_at',
        'virtual_size',
        'visibility',
    }
)

#: As Nova takes it for a link, and passes it on to Glance, which compares it
#: letter by letter.
UUID = re.compile(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', re.IGNORECASE)

#: Each shows an image to whom the one before does, and to others.
VISIBILITIES = ('private', 'shared', 'community', 'public')


def rank(visibility: str) -> int:
    """Tell how many see an image, to compare it."""
    return VISIBILITIES.index(visibility)


def literal(value: str) -> str:
    """Write the value of a filter so that Glance takes it as it is.

    With a colon in it, Glance takes what is before that for an operator
    (glance.common.utils.split_filter_op); what comes after its own operator
    may hold anything: colons, commas, quotes.
    """
    return f'eq:{value}' if ':' in value else value


#: Those with which everybody can boot an image who knows its id.
OPEN = ('public', 'community')

#: Formats of a file that is as large as the disk that the guest sees.
PLAIN = ('ami', 'raw')


#: The property by which Ironic boots kernel and ramdisk, and writes no disk.
DISKLESS = 'ironic_ramdisk_deploy'


class Kind(enum.Enum):
    """What an image is within a triple; the value is Glance's format."""

    AMI = 'ami'
    AKI = 'aki'
    ARI = 'ari'

    @property
    def noun(self) -> str:
        """What to call it in a sentence."""
        return {'ami': 'image', 'aki': 'kernel', 'ari': 'ramdisk'}[self.value]


#: The properties that link to a kernel, and to a ramdisk.
LINKS = {Kind.AKI: 'kernel_id', Kind.ARI: 'ramdisk_id'}


@dataclasses.dataclass(frozen=True)
class NewImage:
    """An image that is to be created.

    What is None is left for Glance to choose. ``properties`` holds every
    further property, ``kernel_id`` and ``ramdisk_id`` included.

    :param min_disk: GiB.
    :param min_ram: MiB.
    """

    name: str
    disk_format: str
    container_format: str
    id: str | None = None
    visibility: str | None = None
    protected: bool | None = None
    hidden: bool | None = None
    owner: str | None = None
    min_disk: int = 0
    min_ram: int = 0
    tags: tuple[str, ...] = ()
    properties: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: types.MappingProxyType({})
    )

    def to_json(self) -> dict[str, Any]:
        """Write the body of ``POST /v2/images``."""
        given = dataclasses.asdict(dataclasses.replace(self, properties={}))
        del given['properties']
        given['os_hidden'] = given.pop('hidden')
        given = {k: v for k, v in given.items() if v is not None}
        return {**self.properties, **given, 'tags': list(self.tags)}


@dataclasses.dataclass(frozen=True)
class Packing:
    """How a compressed qcow2 image is made.

    :param directory: in which it is made.
    :param zstd: whether by zstd rather than zlib, if qemu-img can.
    """

    directory: pathlib.Path
    zstd: bool = False


@dataclasses.dataclass(frozen=True)
class Payload:
    """The bytes that are to become an image's data.

    :param path: the file or block device that holds them, from byte 0.
    :param size: how many of its bytes to send; it may hold more.
    :param blank: how many bytes at the beginning are sent as zeros, whatever
        the file holds there (an old boot sector: see the design notes).
    :param pack: how a compressed qcow2 image is made of it before; None if
        it is sent as it is.
    :param state: what :func:`amiclient.locks.state` said of the file when it
        was looked at: nothing else is sent. None for one of our own.
    :param sha512: of what is sent, in hex; None if nobody has computed it.
    """

    path: pathlib.Path
    size: int
    blank: int = 0
    pack: Packing | None = None
    state: locks.State | None = None
    sha512: str | None = None

    @classmethod
    def of(cls, path: pathlib.Path) -> Self:
        """Take all of a file, as it is now."""
        state = locks.state(path)
        return cls(path, sparse.size(path), state=state)

    def refuse_changed(self, now: locks.State | None = None) -> None:
        """Refuse a file that is not what it was when it was looked at.

        :param now: of what was opened; None for what has the name.
        :raises BusyError: if it was changed, or replaced.
        """
        if self.state is not None:
            locks.refuse_changed(self.path, self.state, now)


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """An image as Glance describes it.

    :param size: bytes; None until it has data.
    :param hash_value: hex digest by ``hash_algo``, of the stored data.
    :param checksum: MD5 in hex; operators may disable it.
    :param virtual_size: bytes of the disk that a guest sees; None where
        Glance does not look into the format.
    :param stores: ids of those that hold its data, where there is a choice.
    """

    id: str
    name: str | None
    status: str
    disk_format: str | None
    container_format: str | None
    size: int | None
    min_disk: int
    min_ram: int
    visibility: str
    protected: bool
    hidden: bool
    owner: str | None
    hash_algo: str | None
    hash_value: str | None
    checksum: str | None
    created_at: datetime.datetime | None
    updated_at: datetime.datetime | None
    tags: tuple[str, ...]
    properties: Mapping[str, str | None]
    virtual_size: int | None = None
    stores: tuple[str, ...] = ()

    @classmethod
    def from_json(
        cls,
        body: Mapping[str, Any] | answers.Object,
        doing: str = 'reading an image',
    ) -> Self:
        """Take an image from an answer of Glance's.

        :param body: the object of ``GET /v2/images/{id}``, or one of a list.
            Its properties lie among its attributes.
        :param doing: what was tried, such as ``getting image 8f0c``.
        """
        if not isinstance(body, answers.Object):
            body = answers.taken(body, 'an image', doing)
        return cls(
            id=body.id(),
            name=body.text('name'),
            status=body.word('status'),
            disk_format=body.text('disk_format'),
            container_format=body.text('container_format'),
            size=body.number('size'),
            min_disk=body.number('min_disk') or 0,
            min_ram=body.number('min_ram') or 0,
            visibility=body.text('visibility') or 'private',
            protected=body.flag('protected'),
            hidden=body.flag('os_hidden'),
            owner=body.text('owner'),
            hash_algo=body.text('os_hash_algo'),
            hash_value=body.digest('os_hash_value'),
            checksum=body.digest('checksum'),
            created_at=body.instant('created_at'),
            updated_at=body.instant('updated_at'),
            tags=body.texts('tags'),
            properties=_properties(body),
            virtual_size=body.number('virtual_size'),
            stores=tuple(filter(None, (body.text('stores') or '').split(','))),
        )

    @property
    def is_snapshot(self) -> bool:
        """Whether Nova made it of a server."""
        return self.properties.get('image_type') == 'snapshot' or bool(
            self.properties.get('base_image_ref')
        )

    @property
    def kernel_id(self) -> str | None:
        """The id of the AKI that this image links to."""
        return self.properties.get('kernel_id') or None

    @property
    def ramdisk_id(self) -> str | None:
        """The id of the ARI that this image links to."""
        return self.properties.get('ramdisk_id') or None

    @property
    def role(self) -> str | None:
        """What it is within a triple, for people; None if nothing."""
        roles = {'ami': 'AMI', 'aki': 'kernel', 'ari': 'ramdisk'}
        other = 'AMI' if self.kernel_id else None
        return roles.get(self.disk_format or '', other)

    @property
    def traits(self) -> Iterator[str]:
        """What to tell it by from others of its name."""
        yield self.role or self.disk_format or 'no format'
        if self.hidden:
            yield 'hidden'
        yield self.status
        if self.created_at:
            yield f'created {self.created_at:%F %R}'

    def may_be(self, kind: Kind) -> bool:
        """Whether it may be one within a triple, as far as itself can tell.

        A kernel may be stored in another format; what links to it tells then.
        """
        if self.disk_format == kind.value:
            return True
        if self.disk_format in [each.value for each in Kind]:
            return False
        return self.has_link == (kind is Kind.AMI)

    @property
    def has_link(self) -> bool:
        """Whether it has a link to a kernel or a ramdisk, even a bad one."""
        return not self.properties.keys().isdisjoint(LINKS.values())

    @property
    def title(self) -> str:
        """What to call it in a sentence, after a noun."""
        return f'{self.name!r} ({self.id})'

    @property
    def showing(self) -> str:
        """The command that tells most about it."""
        command = {None: 'image', 'AMI': 'ami'}.get(
            self.role, f'ami {self.role}'
        )
        return f'openstack {command} show {self.id}'


def _properties(body: answers.Object) -> Mapping[str, str | None]:
    """Take what are not attributes, all of it as text.

    Glance keeps nothing else; what the cloud made of it stays JSON.
    """
    for link in LINKS.values():
        body.text(link)
    return types.MappingProxyType(
        {
            key: value
            if value is None or isinstance(value, str)
            else json.dumps(value)
            for key, value in body.members.items()
            if key not in ATTRIBUTES
        }
    )


@dataclasses.dataclass(frozen=True)
class Member:
    """A project that an image is shared with.

    :param project: its id.
    :param status: ``accepted``, ``pending`` or ``rejected``. Whatever it is,
        the project can boot the image by its id; lists show accepted ones.
    """

    project: str
    status: str


@dataclasses.dataclass(frozen=True)
class ImageStore:
    """A place in which a cloud keeps data.

    :param default: whether it is used unless another is asked for.
    :param read_only: whether the operator alone brings data to it.
    """

    id: str
    default: bool = False
    read_only: bool = False


@dataclasses.dataclass(frozen=True)
class Sent:
    """What one upload did.

    :param record: the image as Glance describes it afterwards, verified.
    :param uploaded: bytes sent by the attempt that succeeded.
    :param sha512: hex digest of the bytes that were sent.
    :param imported: whether they had to be staged and imported.
    """

    record: ImageRecord
    uploaded: int
    sha512: str
    imported: bool = False


@dataclasses.dataclass(frozen=True)
class Triple:
    """An AMI with the kernel and ramdisk that it links to.

    :param uploaded: bytes that were sent for the three together.
    :param reused: ids of images that were in the cloud before.
    """

    ami: ImageRecord
    kernel: ImageRecord | None
    ramdisk: ImageRecord | None
    uploaded: int = 0
    reused: tuple[str, ...] = ()


#: The property whose command line of the kernel replaces all of Nova's
#: (nova/virt/libvirt/driver.py).
COMMAND_LINE = 'os_command_line'


#: What Nova calls the root disk on each bus that it knows for QEMU and KVM
#: (nova/virt/libvirt/blockinfo.py), and what the kernel calls it. None is that
#: of an image which does not say.
BUSES = {
    None: ('/dev/vda', '/dev/vda'),
    'virtio': ('/dev/vda', '/dev/vda'),
    'scsi': ('/dev/sda', '/dev/sda'),
    'sata': ('/dev/sda', '/dev/sda'),
    'usb': ('/dev/sda', '/dev/sda'),
    'ide': ('/dev/hda', '/dev/sda'),
    'fdc': ('/dev/fda', '/dev/fd0'),
}

#: The name of a disk, and what is behind it in that of one of its partitions.
_DISK = re.compile(r'(/dev/(?:[hsv]|xv)d[a-z])(\d*)')


def root_of(line: str) -> str | None:
    """Tell what a command line has for the root filesystem.

    :returns: the last one, which counts; None if it has none.
    """
    words = [word for word in line.split() if word.startswith('root=')]
    return words[-1].removeprefix('root=') if words else None


def has_root(line: str) -> bool:
    """Tell whether a command line names the root filesystem."""
    return root_of(line) is not None


def disk_of(root: str) -> tuple[str | None, str | None]:
    """Tell where a command line has the root filesystem.

    :returns: the disk, and the partition; None where it does not say so, and
        an empty partition for the disk itself.
    """
    if found := _DISK.fullmatch(root):
        return found[1], found[2]
    by_table = ('PARTUUID=', 'PARTLABEL=', '/dev/disk/by-part')
    return None, root if root.startswith(by_table) else None


def with_root(line: str, bus: str | None) -> str:
    """Add what Nova would have said to a command line without ``root=``.

    :param bus: the property ``hw_disk_bus``, which decides on the device.
    """
    device = BUSES.get(bus, BUSES[None])[1]
    # The kernel keeps to the consoles that were chosen.
    chosen = any(word.startswith('console=') for word in line.split())
    consoles = '' if chosen else 'console=tty0 console=ttyS0'
    return ' '.join(filter(None, (f'root={device}', consoles, line)))


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


def architectures_differ(one: str | None, other: str | None) -> bool:
    """Tell whether Nova takes two names for two architectures.

    :returns: False as well if one is not known.
    """
    if not one or not other:
        return False
    one, other = one.lower(), other.lower()
    return _ARCHITECTURES.get(one, one) != _ARCHITECTURES.get(other, other)
