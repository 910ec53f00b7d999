"""Unpacks answers of IPVS. The kernel writes them in net/netfilter/ipvs/ip_vs_ctl.c.

Pure. Most rows of a table are real servers, so these are unpacked by fixed offsets, after checking that each attribute
is where current kernels put it. Other layouts are parsed attribute by attribute.
"""

from __future__ import annotations

import socket
import struct
import sys

from ipvsagent.address import Address, unpack
from ipvsagent.kernel.ipvs.attributes import (
    BE32,
    CMD_DEST,
    CMD_SERVICE,
    CMD_TIMEOUT_TCP,
    CMD_TIMEOUT_TCP_FIN,
    CMD_TIMEOUT_UDP,
    DEST_ACTIVE,
    DEST_ADDR,
    DEST_FAMILY,
    DEST_FORWARD,
    DEST_INACTIVE,
    DEST_LOWER,
    DEST_PERSISTENT,
    DEST_PORT,
    DEST_STATS,
    DEST_STATS64,
    DEST_TUN_FLAGS,
    DEST_TUN_PORT,
    DEST_TUN_TYPE,
    DEST_UPPER,
    DEST_WEIGHT,
    INFO_TABLE_SIZE,
    INFO_VERSION,
    PROTOCOL_NUMBERS,
    STATS,
    SVC_ADDR,
    SVC_AF,
    SVC_FLAGS,
    SVC_FWMARK,
    SVC_NETMASK,
    SVC_PE_NAME,
    SVC_PORT,
    SVC_PROTOCOL,
    SVC_SCHED,
    SVC_STATS,
    SVC_STATS64,
    SVC_TIMEOUT,
    U32,
    head_of,
)
from ipvsagent.kernel.netlink import Body, attributes
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows import HASHED, Counters, RealServerRow, Tunnel, VirtualServerRow

_PROTOCOLS = {number: protocol for protocol, number in PROTOCOL_NUMBERS.items()}
# Forwarding method 4, cache bypass, cannot be configured; ipvsadm shows methods that it does not know as routing.
_FORWARDING = (*Forwarding, *([Forwarding.ROUTE] * 4))

# What ip_vs_genl_fill_dest() writes since Linux 5.2 (tunnel attributes), without the statistics.
_LAYOUT = struct.Struct("=8x I16s IH2x II II IB3x IH2x IH2x II II II II II IH2x")
_LAYOUT_HEADS = (
    head_of(DEST_ADDR, 16),
    head_of(DEST_PORT, 2),
    head_of(DEST_FORWARD, 4),
    head_of(DEST_WEIGHT, 4),
    head_of(DEST_TUN_TYPE, 1),
    head_of(DEST_TUN_PORT, 2),
    head_of(DEST_TUN_FLAGS, 2),
    head_of(DEST_UPPER, 4),
    head_of(DEST_LOWER, 4),
    head_of(DEST_ACTIVE, 4),
    head_of(DEST_INACTIVE, 4),
    head_of(DEST_PERSISTENT, 4),
    head_of(DEST_FAMILY, 2),
)


def unpack_service(body: Body, counters: bool = False) -> tuple[VirtualServerRow, Counters | None] | None:
    """Unpack a virtual server and, if asked for, its counters; None if its protocol is unknown."""
    found = attributes(attributes(body.data, body.start + 4, body.end)[CMD_SERVICE])
    v6 = _number(found[SVC_AF]) == socket.AF_INET6
    if SVC_FWMARK in found:
        server = VirtualServerId(Protocol.FWM, Address("::" if v6 else "0.0.0.0"), _number(found[SVC_FWMARK]))
    else:
        protocol = _PROTOCOLS.get(_number(found[SVC_PROTOCOL]))
        if protocol is None:
            return None
        address = unpack(found[SVC_ADDR][: 16 if v6 else 4])
        server = VirtualServerId(protocol, address, int.from_bytes(found[SVC_PORT], "big"))
    row = VirtualServerRow(
        server,
        _text(found[SVC_SCHED]),
        U32.unpack_from(found[SVC_FLAGS])[0] & ~HASHED,
        _number(found[SVC_TIMEOUT]),
        (U32 if v6 else BE32).unpack(found[SVC_NETMASK])[0],
        _text(found[SVC_PE_NAME]) if SVC_PE_NAME in found else "",
    )
    return row, _counters(found, SVC_STATS64, SVC_STATS) if counters else None


def unpack_dest(server: VirtualServerId, body: Body) -> tuple[RealServerRow, int, int, int]:
    """Unpack a real server, and how many active, inactive and persistent connections it has."""
    data, start, end = body
    if end - start >= _LAYOUT.size:
        fields = _LAYOUT.unpack_from(data, start)
        if fields[::2] == _LAYOUT_HEADS:
            address, port, forward, weight, kind, tunnel_port, tunnel_flags, *rest = fields[1::2]
            upper, lower, active, inactive, persistent, family = rest
            row = RealServerRow(
                server,
                unpack(address if family == socket.AF_INET6 else address[:4]),
                socket.ntohs(port),
                weight,
                _FORWARDING[forward & 7],
                upper,
                lower,
                Tunnel(kind, socket.ntohs(tunnel_port), tunnel_flags) if kind or tunnel_port or tunnel_flags else None,
            )
            return row, active, inactive, persistent
    return _parse_dest(server, body)


def _parse_dest(server: VirtualServerId, body: Body) -> tuple[RealServerRow, int, int, int]:
    """Unpack a real server from a kernel that writes other attributes, or in another order."""
    found = attributes(attributes(body.data, body.start + 4, body.end)[CMD_DEST])
    # Before Linux 3.18, a real server has the family of its virtual server, and there is no such attribute.
    v6 = _number(found[DEST_FAMILY]) == socket.AF_INET6 if DEST_FAMILY in found else ":" in server.address
    tunnel = Tunnel(
        _number(found.get(DEST_TUN_TYPE, b"")),
        int.from_bytes(found.get(DEST_TUN_PORT, b""), "big"),
        _number(found.get(DEST_TUN_FLAGS, b"")),
    )
    row = RealServerRow(
        server,
        unpack(found[DEST_ADDR][: 16 if v6 else 4]),
        int.from_bytes(found[DEST_PORT], "big"),
        _number(found[DEST_WEIGHT]),
        _FORWARDING[_number(found[DEST_FORWARD]) & 7],
        _number(found.get(DEST_UPPER, b"")),
        _number(found.get(DEST_LOWER, b"")),
        None if tunnel == Tunnel() else tunnel,
    )
    counts = (_number(found.get(kind, b"")) for kind in (DEST_ACTIVE, DEST_INACTIVE, DEST_PERSISTENT))
    active, inactive, persistent = counts
    return row, active, inactive, persistent


def unpack_dest_counters(body: Body) -> Counters | None:
    """Unpack the counters of a real server."""
    found = attributes(attributes(body.data, body.start + 4, body.end)[CMD_DEST])
    return _counters(found, DEST_STATS64, DEST_STATS)


def unpack_info(body: Body) -> tuple[tuple[int, int, int], int]:
    """Unpack the version of IPVS, and how many buckets its connection table has."""
    found = attributes(body.data, body.start + 4, body.end)
    version = _number(found[INFO_VERSION])
    return (version >> 16 & 255, version >> 8 & 255, version & 255), _number(found[INFO_TABLE_SIZE])


def unpack_timeouts(body: Body) -> tuple[int, int, int]:
    """Unpack the timeouts in seconds: TCP established, TCP after FIN, UDP."""
    found = attributes(body.data, body.start + 4, body.end)
    return (
        _number(found.get(CMD_TIMEOUT_TCP, b"")),
        _number(found.get(CMD_TIMEOUT_TCP_FIN, b"")),
        _number(found.get(CMD_TIMEOUT_UDP, b"")),
    )


def _counters(found: dict[int, bytes], wide: int, narrow: int) -> Counters | None:
    """Unpack the 64-bit statistics, or the 32-bit ones of kernels before 4.1."""
    nested = found.get(wide) or found.get(narrow)
    if nested is None:
        return None
    values = attributes(nested)
    return Counters(*(_number(values.get(kind, b"")) for kind in STATS))


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, sys.byteorder)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode(errors="replace")
