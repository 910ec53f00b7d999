"""Packs and unpacks members of ipsets: their text, as `ipset save` prints it, and the attributes that carry them.

A member is a key and, after a space, options that come with it: `10.96.0.1,tcp:80 skbmark 0x100000/0xff00000`.
The kernel finds members by key alone. Texts are canonical, so that equal members are equal texts; others are
refused, because they would read back differently. Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ipvsagent.address import Address, Family, pack, unpack
from ipvsagent.kernel.netlink import attribute, attributes

IP, CIDR, PORT, PROTO, CADT_FLAGS = 1, 3, 4, 7, 8  # IPSET_ATTR_*
IP2, CIDR2, SKBMARK, SKBPRIO, SKBQUEUE = 20, 21, 27, 28, 29
NESTED, NET_ORDER = 0x8000, 0x4000
_NOMATCH = 0x4  # IPSET_FLAG_NOMATCH
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}

KINDS = {
    "hash:ip": ("ip",),
    "hash:net": ("net",),
    "hash:ip,port": ("ip", "port"),
    "hash:ip,port,ip": ("ip", "port", "ip"),
    "hash:ip,port,net": ("ip", "port", "net"),
}
"""The parts of a key, by kind of set."""


def key_of(member: str) -> str:
    return member.partition(" ")[0]


def pack_member(kind: str, family: Family, member: str) -> bytes:
    """Pack the attributes of a member. Raises ValueError with what is wrong with the text."""
    key, _, options = member.partition(" ")
    parts = key.split(",")
    shape = KINDS[kind]
    if len(parts) != len(shape):
        raise ValueError(f"{member!r} is not a member of a set of kind {kind}")
    packed = _pack_place(parts[0], shape[0], family, IP, CIDR)
    if len(parts) > 1:
        packed += _pack_port(parts[1])
    if len(parts) > 2:
        packed += _pack_place(parts[2], shape[2], family, IP2, CIDR2)
    return packed + _pack_options(options) if options else packed


def _pack_place(text: str, what: str, family: Family, address_kind: int, prefix_kind: int) -> bytes:
    address, slash, length = text.partition("/")
    try:
        raw = pack(Address(address))
    except OSError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if (family is Family.IPV6) is not (len(raw) == 16):
        raise ValueError(f"{text} is not an {family} address")
    if unpack(raw) != address:
        raise ValueError(f"{text} is not canonical: {unpack(raw)} is")
    packed = _ADDRESS[len(raw)].pack(*_address_headers(address_kind, len(raw)), raw)
    if not slash:
        return packed
    if what != "net":
        raise ValueError(f"{text}: only addresses fit here, not networks")
    return packed + _pack_prefix(text, raw, length, prefix_kind)


def _pack_prefix(text: str, raw: bytes, length: str, kind: int) -> bytes:
    bits = len(raw) * 8
    if not length.isdecimal() or str(int(length)) != length or int(length) > bits:
        raise ValueError(f"{text} is not a network")
    prefix = int(length)
    if prefix == 0:
        halves = "::/1 and 8000::/1" if bits == 128 else "0.0.0.0/1 and 128.0.0.0/1"
        raise ValueError(f"a hash set cannot hold {text}: add its two halves, {halves}")
    if prefix == bits:
        raise ValueError(f"{text} is not canonical: a full prefix is left out")
    if int.from_bytes(raw, "big") & ((1 << bits - prefix) - 1):
        raise ValueError(f"{text} has bits set beyond its prefix")
    return attribute(kind, bytes([prefix]))


def _pack_port(text: str) -> bytes:
    name, _, digits = text.partition(":")
    number = _PROTOCOLS.get(name)
    if number is None:
        number = int(name) if name.isdecimal() and str(int(name)) == name else 256
    port = int(digits) if digits.isdecimal() and len(digits) < 6 else -1
    if number > 255 or (name.isdecimal() and number in _PROTOCOL_NAMES) or str(port) != digits or port > 0xFFFF:
        raise ValueError(f"{text!r} is not a protocol and port such as tcp:80")
    return _PORT.pack(6, PORT | NET_ORDER, port.to_bytes(2, "big"), 5, PROTO, number)


_PORT = struct.Struct("=HH2sxxHHBxxx")
_ADDRESS = {4: struct.Struct("=HHHH4s"), 16: struct.Struct("=HHHH16s")}


def _address_headers(kind: int, size: int) -> tuple[int, int, int, int]:
    """Return the headers of the nest and of the address in it, IPSET_ATTR_IPADDR_IPV4 or _IPV6."""
    return size + 8, kind | NESTED, size + 4, (1 if size == 4 else 2) | NET_ORDER


def _pack_options(text: str) -> bytes:
    word, _, value = text.partition(" ")
    if word == "nomatch" and not value:
        return attribute(CADT_FLAGS | NET_ORDER, _NOMATCH.to_bytes(4, "big"))
    if word == "skbmark":
        mark, slash, mask = value.partition("/")
        try:
            numbers = int(mark, 16), int(mask, 16) if slash else 0xFFFFFFFF
        except ValueError:
            numbers = (-1, -1)
        if all(0 <= number <= 0xFFFFFFFF for number in numbers) and _skbmark_text(*numbers) == text:
            return attribute(SKBMARK | NET_ORDER, struct.pack(">II", *numbers))
    raise ValueError(f"{text!r} is not an option such as skbmark 0x10/0xff")


def _skbmark_text(mark: int, mask: int) -> str:
    return f"skbmark 0x{mark:x}" if mask == 0xFFFFFFFF else f"skbmark 0x{mark:x}/0x{mask:x}"


def unpack_members(data: bytes) -> Iterator[str]:
    """Yield the members of an IPSET_ATTR_ADT payload."""
    offset, end = 0, len(data)
    while offset + 4 <= end:
        length = int.from_bytes(data[offset : offset + 2], "little" if _LITTLE else "big")
        if length < 4:
            return
        yield _member_text(attributes(data, offset + 4, min(offset + length, end)))
        offset += length + 3 & ~3


_LITTLE = struct.pack("=H", 1)[0] == 1


def _member_text(found: dict[int, bytes]) -> str:
    if IP not in found:  # bitmap:port
        return str(int.from_bytes(found.get(PORT, b""), "big"))
    text = _place_text(found, IP, CIDR)
    if PORT in found:
        number = found[PROTO][0]
        text += f",{_PROTOCOL_NAMES.get(number, number)}:{int.from_bytes(found[PORT], 'big')}"
    if IP2 in found:
        text += f",{_place_text(found, IP2, CIDR2)}"
    if CADT_FLAGS in found and int.from_bytes(found[CADT_FLAGS], "big") & _NOMATCH:
        text += " nomatch"
    if SKBMARK in found:
        text += " " + _skbmark_text(*struct.unpack(">II", found[SKBMARK]))
    if SKBPRIO in found:
        text += " skbprio {:x}:{:x}".format(*struct.unpack(">HH", found[SKBPRIO]))
    if SKBQUEUE in found:
        text += f" skbqueue {int.from_bytes(found[SKBQUEUE], 'big')}"
    return text


def _place_text(found: dict[int, bytes], address_kind: int, prefix_kind: int) -> str:
    raw = found[address_kind][4:]  # in a nest of its own
    prefix = found.get(prefix_kind)
    if prefix is None or prefix[0] == len(raw) * 8:
        return unpack(raw)
    return f"{unpack(raw)}/{prefix[0]}"
