"""Source ranges of Services as networks, parsed once however many ports and addresses they hold for. Pure."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from ipvsagent.address import Family

Networks = tuple[ipaddress.IPv4Network, ...] | tuple[ipaddress.IPv6Network, ...]
NOBODY = {Family.IPV4: ("::/128",), Family.IPV6: ("0.0.0.0/32",)}
"""Ranges of the other family alone: nobody reaches an address of this one."""


@lru_cache(maxsize=128)
def networks_of(ranges: tuple[str, ...], family: Family) -> Networks:
    """Those of one family, without what others of them contain; sorted."""
    if family is Family.IPV6:
        return tuple(ipaddress.collapse_addresses([ipaddress.IPv6Network(r, strict=False) for r in ranges if ":" in r]))
    return tuple(ipaddress.collapse_addresses([ipaddress.IPv4Network(r, strict=False) for r in ranges if ":" not in r]))
