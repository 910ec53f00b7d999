"""Represents IP addresses as values.

An `Address` is canonical text, as `inet_ntop(3)` and therefore `ipvsadm` and `ip` print it: the same address
is always the same string. It is text and not an `ipaddress` object because addresses are dictionary keys on every
hot path: a string's hash is cached, an `ipaddress` object's is computed from hexadecimal text at each look-up.

The functions of `socket` used here only convert and do no I/O; no other pure module may import it.
"""

from __future__ import annotations

import ipaddress
import socket
from enum import StrEnum
from typing import NewType

Address = NewType("Address", str)
SPECIAL_IPV4 = frozenset({"0", "127", "169", "255", *map(str, range(224, 240))})
"""First octets of blocks with addresses that `why_not_reachable` objects to."""


class Family(StrEnum):
    """Names an address family, spelled as in `Service.spec.ipFamilies` and in kube-proxy's metric labels."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


def parse_address(text: str) -> Address:
    """Return the canonical form of an IPv4 or IPv6 address.

    IPv4 octets with leading zeros are read as decimal, as Kubernetes' `ParseIPSloppy` reads them
    (k8s.io/utils/net/parse.go). Raises ValueError for anything else that is not an address, and for zones.
    """
    text = text.strip()
    try:
        if ":" in text:
            return Address(socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, text)))
        socket.inet_pton(socket.AF_INET, text)  # accepts the canonical form only
        return Address(text)
    except (OSError, ValueError):
        octets = text.split(".")
        if len(octets) == 4 and all(o.isascii() and o.isdigit() and int(o) < 256 for o in octets):
            return Address(".".join(str(int(o)) for o in octets))
        raise ValueError(f"{text!r} is not an IP address") from None


def family_of(address: Address) -> Family:
    return Family.IPV6 if ":" in address else Family.IPV4


def pack(address: Address) -> bytes:
    """Return the address in network byte order: 4 bytes for IPv4, 16 for IPv6."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def unpack(packed: bytes) -> Address:
    """Return the address of 4 or 16 bytes: the inverse of `pack`."""
    return Address(socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed))


def endpoint_text(address: Address, port: int) -> str:
    """Return `10.0.0.1:80` or `[fd00::1]:80`, as `ipvsadm -n` prints it."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def is_ordinary_ipv4(text: str) -> bool:
    """Return whether a text is the canonical form of an IPv4 address that `why_not_reachable` surely accepts.

    It may return False for such an address, too: it checks the first octet only, because it runs for each endpoint of
    a cluster.
    """
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        return False
    return text[: text.index(".")] not in SPECIAL_IPV4


def why_not_reachable(address: Address) -> str | None:
    """Return why an address can be neither an endpoint nor served, or None if it can.

    The list is the API server's own: `ValidateEndpointIP`, pkg/apis/core/validation/validation.go.
    """
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        return "it is the unspecified address"
    if ip.is_loopback:
        return "it is a loopback address"
    if ip.is_link_local:
        return "it is a link-local address"
    if ip.is_multicast:
        return "it is a multicast address"
    if address == "255.255.255.255":
        return "it is the broadcast address"
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        return "it is an IPv4-mapped IPv6 address"
    return None
