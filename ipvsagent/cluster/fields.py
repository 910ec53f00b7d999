"""Checks fields that several kinds of objects have, each in one place and with one message.

A field that makes its object unusable raises `Broken`, which rejects the object; a field that can be left out makes a
finding.
"""

from __future__ import annotations

import ipaddress
import re
from calendar import timegm
from sys import intern

from ipvsagent.address import SPECIAL_IPV4, Address, Family, parse_address, why_not_reachable
from ipvsagent.cluster import wire
from ipvsagent.cluster.objects import ObjectKey
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import Protocol

FAMILIES = {"IPv4": Family.IPV4, "IPv6": Family.IPV6}
NO_METADATA = wire.Metadata()
ANNOTATION_PREFIXES = ("ipvsagent.io/", "kube-router.io/")

_PROTOCOLS = {"TCP": Protocol.TCP, "UDP": Protocol.UDP, "SCTP": Protocol.SCTP}
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt]([01]\d|2[0-3]):([0-5]\d):([0-5]\d|60)(?:\.\d+)?"
    r"(?:[Zz]|([+-])([01]\d|2[0-3]):([0-5]\d))",
    re.ASCII,
)
_SPECIAL_IPV6 = frozenset({"::", "fe", "ff"})


class Broken(Exception):
    """Rejects the object that is being decoded. `field` is a path as in `Finding.field`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


def is_name(text: object) -> bool:
    """Return whether the API server accepts it as a name: lower-case letters, digits, '-' and '.'."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def identity_of(metadata: wire.Metadata) -> tuple[str, str]:
    """Return (namespace, name); an object without a namespace is in `default`, as for kubectl. Raises Broken."""
    name, namespace = metadata.name, metadata.namespace or "default"
    if not name:
        raise Broken("metadata.name", "is missing")
    for field, text in (("name", name), ("namespace", namespace)):
        if not is_name(text):
            reason = f"{quoted(text)} is not a name, which has lower-case letters, digits, '-' and '.' only"
            raise Broken(f"metadata.{field}", reason)
    return intern(namespace), intern(name)


def created_at(metadata: wire.Metadata) -> int | None:
    """Return creationTimestamp in whole seconds since 1970; None if there is none. Raises Broken."""
    text = metadata.creationTimestamp
    if not text:
        return None
    found = _TIME.fullmatch(text)
    try:
        if found:
            *civil, sign, hours, minutes = found.groups()
            ahead = int(hours) * 3600 + int(minutes) * 60 if sign else 0
            return timegm(tuple(map(int, civil))) - (-ahead if sign == "-" else ahead)
    except ValueError:
        pass
    raise Broken("metadata.creationTimestamp", f"{quoted(text)} is not a time like 2006-01-02T15:04:05Z")


def annotations_of(metadata: wire.Metadata) -> dict[str, str]:
    """Return the annotations that ipvsagent may read."""
    if not metadata.annotations:
        return {}
    return {k: v for k, v in metadata.annotations.items() if k.startswith(ANNOTATION_PREFIXES)}


def address_at(field: str, text: str) -> Address:
    """Parse an address. Raises Broken."""
    try:
        return parse_address(text)
    except ValueError:
        raise Broken(field, f"{quoted(text)} is not an IP address") from None


def protocol_at(field: str, text: str | None) -> Protocol:
    """Parse a protocol; absent is TCP. Raises Broken."""
    protocol = _PROTOCOLS.get(text or "TCP")
    if protocol is None:
        raise Broken(field, f"{quoted(text)} is not TCP, UDP or SCTP")
    return protocol


def number_at(field: str, value: int, lowest: int, highest: int) -> int:
    """Return the value. Raises Broken unless lowest <= value <= highest."""
    if not lowest <= value <= highest:
        shown = str(value) if abs(value) < 10**12 else "a number that large"
        raise Broken(field, f"{shown} is not in the range {lowest} to {highest}")
    return value


def network_of(text: str) -> str | None:
    """Return a CIDR with its host bits cleared, as Go's `ParseCIDR` does; None if the text is not a CIDR."""
    address, slash, length = text.strip().partition("/")
    try:
        if not slash or not length.isascii() or not length.isdigit():
            return None
        return str(ipaddress.ip_network((parse_address(address), int(length)), strict=False))
    except ValueError:
        return None


def why_not_ordinary(address: Address) -> str | None:
    """Return what `why_not_reachable` does, at a fraction of its cost for addresses that begin like ordinary ones."""
    if ":" in address:
        return why_not_reachable(address) if address[:2] in _SPECIAL_IPV6 else None
    return why_not_reachable(address) if address[: address.index(".")] in SPECIAL_IPV4 else None


def left_out(key: ObjectKey, field: str, reason: str) -> Finding:
    """Return a finding about a part that its object is accepted without."""
    return Finding(FindingKind.INVALID_OBJECT, str(key), reason, field)


def quoted(text: object) -> str:
    """Return a text quoted and escaped, so that it cannot corrupt a terminal or a log, and shortened."""
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
