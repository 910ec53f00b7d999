"""The listings of `ipvsadm -Ln`, byte for byte (ipvsadm 1.31, ipvsadm.c print_service_entry and friends).

Trailing spaces are part of it. Rows come in with what the kernel counts; nothing here reads a kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ipvsagent.address import Address, Family, endpoint_text, pack
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows import (
    FULL_MASK,
    FULL_PREFIX,
    ONE_PACKET,
    PERSISTENT,
    SCHEDULER_FLAGS,
    Observed,
    RealServerRow,
    VirtualServerRow,
    scheduler_flag_names,
)

_FORWARD = {
    Forwarding.MASQUERADE: "Masq",
    Forwarding.LOCAL: "Local",
    Forwarding.TUNNEL: "Tunnel",
    Forwarding.ROUTE: "Route",
}
_NUMBER = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132, Protocol.FWM: 0}

T = TypeVar("T")
Entry = tuple[Observed, list[Observed]]


def version_line(version: tuple[int, int, int], size: int) -> str:
    return f"IP Virtual Server version {'.'.join(map(str, version))} (size={size})\n"


def listing(entries: Iterable[Entry]) -> str:
    """The default listing without its version line. entries: a virtual server with its real servers, in kernel order."""
    lines = [
        "Prot LocalAddress:Port Scheduler Flags\n",
        "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n",
    ]
    for server, real_servers in in_order(entries):
        assert isinstance(server.row, VirtualServerRow)
        lines.append(service_text(server.row) + "\n")
        for seen in real_servers:
            row = seen.row
            assert isinstance(row, RealServerRow)
            lines.append(
                f"  -> {endpoint_text(row.address, row.port):<28} {_FORWARD[row.forwarding]:<7} {row.weight:<6} "
                f"{seen.active:<10} {seen.inactive:<10}\n"
            )
    return "".join(lines)


def name_text(server: VirtualServerId) -> str:
    if server.protocol is Protocol.FWM:
        return f"FWM  {server.port}{' IPv6' if server.family is Family.IPV6 else ''}"
    return f"{server.protocol:<4} {endpoint_text(server.address, server.port)}"


def service_text(row: VirtualServerRow) -> str:
    text = f"{name_text(row.id)} {row.scheduler}"
    if row.flags & SCHEDULER_FLAGS:
        text += f" ({','.join(scheduler_flag_names(row.scheduler, row.flags))})"
    if row.flags & PERSISTENT:
        text += f" persistent {row.timeout}"
        if row.id.family is Family.IPV4 and row.mask != FULL_MASK:
            text += " mask " + ".".join(str(row.mask >> s & 255) for s in (24, 16, 8, 0))
        elif row.id.family is Family.IPV6 and row.mask != FULL_PREFIX:
            text += f" mask {row.mask}"
        if row.pe_name:
            text += f" pe {row.pe_name}"
    if row.flags & ONE_PACKET:
        text += " ops"
    return text


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """ipvsadm's order. It takes differences of addresses in signed 32-bit arithmetic, so 192.168.0.1 sorts before
    10.0.0.1, and triples can be cyclic; then the outcome depends on glibc's merge sort over the kernel's order,
    which is why the sort here is that very one."""
    servers = _merge_sort([(_server_key(e), e) for e in entries], _by_key)
    return [
        (server, [seen for _, seen in _merge_sort([(_real_server_key(s), s) for s in rows], _by_key)])
        for _, (server, rows) in servers
    ]


def _by_key(a: tuple[Sequence[int], object], b: tuple[Sequence[int], object]) -> int:
    return _compare(a[0], b[0])


def _merge_sort(items: list[T], compare: Callable[[T, T], int]) -> list[T]:
    if len(items) < 2:
        return items
    middle = len(items) // 2
    left, right = _merge_sort(items[:middle], compare), _merge_sort(items[middle:], compare)
    merged: list[T] = []
    i = j = 0
    while i < len(left) and j < len(right):
        if compare(left[i], right[j]) <= 0:
            merged.append(left[i])
            i += 1
        else:
            merged.append(right[j])
            j += 1
    return merged + left[i:] + right[j:]


def _compare(a: Sequence[int], b: Sequence[int]) -> int:
    """The first difference, wrapped into a signed 32-bit int as C does it."""
    for x, y in zip(a, b, strict=False):
        difference = (x - y) & 0xFFFFFFFF
        if difference:
            return difference - (1 << 32) if difference >> 31 else difference
    return 0


def _server_key(entry: Entry) -> tuple[int, ...]:
    assert isinstance(entry[0].row, VirtualServerRow)
    server = entry[0].row.id
    fwmark = server.port if server.protocol is Protocol.FWM else 0
    port = 0 if fwmark else server.port
    family = 2 if server.family is Family.IPV4 else 10
    return (fwmark, family, _NUMBER[server.protocol], *_words(server.address), port)


def _real_server_key(seen: Observed) -> tuple[int, ...]:
    assert isinstance(seen.row, RealServerRow)
    return (*_words(seen.row.address), seen.row.port)


def _words(address: Address) -> tuple[int, ...]:
    packed = pack(address)
    return struct.unpack(f"!{len(packed) // 4}I", packed)
