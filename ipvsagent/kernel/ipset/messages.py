"""Packs and parses messages of ipset over nfnetlink (include/uapi/linux/netfilter/ipset/ip_set.h), and explains its
refusals.

Pure: it opens no socket. Numbers are in network byte order; each has the flag NLA_F_NET_BYTEORDER.
"""

from __future__ import annotations

import errno
import struct

from msgspec import Struct

from ipvsagent.address import Family
from ipvsagent.errors import KernelError, NotThere
from ipvsagent.kernel.ipset.members import CADT_FLAGS, NESTED, NET_ORDER
from ipvsagent.kernel.netlink import Body, attribute, attributes
from ipvsagent.rows import SetSpec

NETLINK_NETFILTER = 12
_SUBSYSTEM = 6 << 8  # NFNL_SUBSYS_IPSET
PROTOCOL, LIST, ADD, DEL, TEST = (_SUBSYSTEM | n for n in (1, 7, 9, 10, 11))

_PROTOCOL, _SETNAME, _TYPENAME, _FAMILY, _FLAGS, _DATA, _ADT, _MIN = 1, 2, 3, 5, 6, 7, 8, 10
_TIMEOUT, _HASHSIZE, _MAXELEM, _ELEMENTS, _REFERENCES = 6, 18, 19, 24, 25
_LIST_HEADER = 4  # IPSET_FLAG_LIST_HEADER
_WITH_SKBINFO = 0x40  # IPSET_FLAG_WITH_SKBINFO
_ORDINARY = {
    _TIMEOUT,
    _HASHSIZE,
    _MAXELEM,
    CADT_FLAGS,
    _ELEMENTS,
    _REFERENCES,
    17,
    21,
    26,
}  # initval, bucketsize, memsize

EXIST = 4103  # IPSET_ERR_EXIST: TEST did not find it
FIND_TYPE, BUSY, TYPE_MISMATCH, HASH_FULL = 4098, 4100, 4102, 4352
_REFUSALS = {
    4097: "the kernel speaks another version of ipset's protocol",
    FIND_TYPE: "the kernel does not know this kind of set",
    4099: "the kernel can hold no more sets",
    TYPE_MISMATCH: "sets of different kinds cannot be swapped",
    4104: "the prefix length is not one a hash set can hold",
    4106: "the set is of the other address family",
    4114: "the set was made without skbinfo, so its members carry no mark",
    4353: "no such element",
    4354: "the set cannot hold this protocol",
    4355: "the protocol is missing",
}

NEWEST_PROTOCOL, OLDEST_PROTOCOL = 7, 6
_FAMILIES = {2: Family.IPV4, 10: Family.IPV6}


class SetError(KernelError):
    """Reports a refusal of ipset. `code` is an errno or one of ipset's own numbers (IPSET_ERR_*), from 4097 on."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)
        self.args = (detail,)


class SetFull(SetError):
    pass


class SetInUse(SetError):
    """Reports that a rule, or another program, uses the set."""


def refusal(error: KernelError, name: str, size: int | None = None) -> KernelError:
    """Return the same refusal, with a text that explains it for the set of this name. size: its max_elements, if
    known."""
    if error.code == HASH_FULL:
        return SetFull(HASH_FULL, f"set {name} is full{f': it holds {size} elements' if size is not None else ''}")
    if error.code == BUSY:
        return SetInUse(BUSY, f"set {name} is in use by a rule of the packet filter")
    if error.code == errno.ENOENT:
        return NotThere(errno.ENOENT, f"there is no set {name}")
    if error.code > 4096:
        return SetError(error.code, f"set {name}: {_REFUSALS.get(error.code, f'ipset error {error.code}')}")
    return error


class SetHeader(Struct, frozen=True, gc=False):
    """Describes what a set is and holds. odd: it has options that ours never have."""

    name: str
    kind: str
    family: Family | None
    max_elements: int
    skbinfo: bool
    odd: bool
    elements: int
    references: int

    def fits(self, spec: SetSpec) -> bool:
        held = (self.name, self.kind, self.family, self.max_elements, self.skbinfo)
        return not self.odd and held == (spec.name, spec.kind, spec.family, spec.max_elements, spec.skbinfo)


class Codec:
    """Packs the bodies of requests in one version of the protocol."""

    def __init__(self, protocol: int = NEWEST_PROTOCOL) -> None:
        self._start = struct.pack("=BBH", 2, 0, 0) + attribute(_PROTOCOL, bytes([protocol]))

    def version(self) -> bytes:
        return self._start

    def named(self, name: str) -> bytes:
        """Pack a LIST of one set."""
        return self._start + attribute(_SETNAME, name.encode() + b"\0")

    def headers(self) -> bytes:
        """Pack a LIST of all sets without their members."""
        return self._start + attribute(_FLAGS | NET_ORDER, _LIST_HEADER.to_bytes(4, "big"))

    def member(self, name: bytes, packed: bytes) -> bytes:
        """Pack an ADD, DEL or TEST; `name` is from `named`."""
        return name + _NEST.pack(len(packed) + 4, _DATA | NESTED) + packed


_NEST = struct.Struct("=HH")


def protocol_range(body: Body) -> tuple[int, int]:
    """Return the oldest and the newest version that the kernel speaks."""
    found = attributes(body.data, body.start + 4, body.end)
    newest = found[_PROTOCOL][0]
    return found[_MIN][0] if _MIN in found else newest, newest


def header_of(body: Body) -> SetHeader | None:
    """Return the header in an answer to LIST; None for a further part of a set's members."""
    found = attributes(body.data, body.start + 4, body.end)
    if _DATA not in found:
        return None
    data = attributes(found[_DATA])
    flags = _number(data, CADT_FLAGS)
    return SetHeader(
        found[_SETNAME].rstrip(b"\0").decode(errors="replace"),
        found[_TYPENAME].rstrip(b"\0").decode(errors="replace"),
        _FAMILIES.get(found[_FAMILY][0]),
        _number(data, _MAXELEM),
        bool(flags & _WITH_SKBINFO),
        bool(flags & ~_WITH_SKBINFO) or not data.keys() <= _ORDINARY,
        _number(data, _ELEMENTS),
        _number(data, _REFERENCES),
    )


def members_of(body: Body) -> bytes:
    """Return the packed members in an answer to LIST."""
    return attributes(body.data, body.start + 4, body.end).get(_ADT, b"")


def _number(found: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(found.get(kind, b""), "big")
