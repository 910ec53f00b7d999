"""Parses source ranges of Services into networks, once however many ports and addresses they apply to. Pure."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from ipvsagent.address import Family

Networks = tuple[ipaddress.IPv4Network, ...] | tuple[ipaddress.IPv6Network, ...]
NOBODY = {Family.IPV4: ("::/128",), Family.IPV6: ("0.0.0.0/32",)}
"""For each family, source ranges that admit no client: they are of the other family."""


@lru_cache(maxsize=128)
def networks_of(ranges: tuple[str, ...], family: Family) -> Networks:
    """Return the ranges of one family, without those that others contain; sorted."""
    if family is Family.IPV6:
        return tuple(ipaddress.collapse_addresses([ipaddress.IPv6Network(r, strict=False) for r in ranges if ":" in r]))
    return tuple(ipaddress.collapse_addresses([ipaddress.IPv4Network(r, strict=False) for r in ranges if ":" not in r]))
