"""Defines the options of `ipvsadm -L`, and which of them exclude each other (ipvsadm.c: commands_v_options and
process_options).

It knows neither a command line nor a kernel.
"""

from __future__ import annotations

import socket

from msgspec import Struct

from ipvsagent.address import Address
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.status.ipvsadm import Columns


class ListOptions(Struct, frozen=True, kw_only=True):
    """Holds the options of one listing."""

    services: tuple[tuple[Protocol, str], ...] = ()
    """The values of -t, -u, --sctp-service and -f, as (protocol, text)."""
    ipv6: bool = False
    """The firewall mark is for IPv6."""
    connections: bool = False
    timeout: bool = False
    daemon: bool = False
    stats: bool = False
    rate: bool = False
    thresholds: bool = False
    persistent_conn: bool = False
    tun_info: bool = False
    exact: bool = False
    nosort: bool = False

    def conflict(self) -> str | None:
        """Return why ipvsadm would refuse these options, or None."""
        tables = [name for name in ("connections", "timeout", "daemon") if getattr(self, name)]
        if len(self.services) > 1:
            return "only one virtual server can be listed by itself"
        if self.ipv6 and not any(protocol is Protocol.FWM for protocol, _ in self.services):
            return "-6 needs -f; an address itself shows its family"
        if len(tables) + len(self.services) > 1:
            return f"{_given(tables[:2])}{'' if len(tables) > 1 else ' and a virtual server'} exclude each other"
        counts = [name for name in ("stats", "rate", "thresholds") if getattr(self, name)]
        if self.persistent_conn and not self.connections:
            counts.append("persistent-conn")
        if tables and counts:
            return f"{_given([tables[0], counts[0]])} exclude each other"
        return None

    @property
    def columns(self) -> Columns:
        asked = {
            Columns.STATS: self.stats,
            Columns.RATE: self.rate,
            Columns.THRESHOLDS: self.thresholds,
            Columns.PERSISTENT: self.persistent_conn,
            Columns.TUNNEL: self.tun_info,
        }
        return next((columns for columns, wanted in asked.items() if wanted), Columns.DEFAULT)

    def virtual_server(self) -> VirtualServerId | None:
        """Return the virtual server to list, None for all. Raises ValueError if an option does not contain one."""
        for protocol, text in self.services:
            return _mark(text, self.ipv6) if protocol is Protocol.FWM else _endpoint(protocol, text)
        return None


def _given(names: list[str]) -> str:
    return " and ".join(f"--{name}" for name in names)


def _mark(text: str, ipv6: bool) -> VirtualServerId:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 0xFFFFFFFF):
        raise ValueError(f"{text!r} is not a firewall mark, a number from 1 to {0xFFFFFFFF}")
    return VirtualServerId(Protocol.FWM, Address("::" if ipv6 else "0.0.0.0"), int(text))


def _endpoint(protocol: Protocol, text: str) -> VirtualServerId:
    """Parse what parse_service accepts, except names, which would need a lookup, and octal and short forms of IPv4. A
    missing port is 0, which stands for the virtual server of all ports."""
    wrong = f"{text!r} is not a virtual server: write ADDRESS, ADDRESS:PORT or [IPV6ADDRESS]:PORT"
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]:")
        if not bracket or ":" not in address:
            raise ValueError(wrong)
    elif text.count(":") > 1:
        address, port = text, "0"
    else:
        address, colon, port = text.partition(":")
        port = port if colon else "0"
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
    except (OSError, ValueError):
        raise ValueError(wrong) from None
    if not (port.isascii() and port.isdigit() and int(port) <= 0xFFFF):
        raise ValueError(f"{port!r} is not a port number")
    return VirtualServerId(protocol, Address(socket.inet_ntop(family, packed)), int(port))
