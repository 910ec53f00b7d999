"""Formats the listings of `ipvsadm -Ln`, byte for byte (ipvsadm 1.31: ipvsadm.c, print_title, print_service_entry).

That includes trailing spaces and the tool's mistakes: marks above 2^31 are printed as negative numbers, and of the
counters of real servers only bytes have more than 32 bits. The caller passes rows with their counters; nothing here
reads a kernel.
Sorting is in ipvsadm_order.py, saved rules are in ipvsadm_rules.py, the other tables in ipvsadm_tables.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from ipvsagent.address import Family, endpoint_text
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows import (
    FULL_MASK,
    FULL_PREFIX,
    ONE_PACKET,
    PERSISTENT,
    SCHEDULER_FLAGS,
    Counters,
    Observed,
    RealServerRow,
    Tunnel,
    VirtualServerRow,
    scheduler_flag_names,
)
from ipvsagent.status.ipvsadm_order import Entry, in_order


class Columns(Enum):
    """Names what a listing shows of each real server. If several are given, ipvsadm uses the first in this order."""

    STATS = "stats"
    RATE = "rate"
    THRESHOLDS = "thresholds"
    PERSISTENT = "persistent-conn"
    TUNNEL = "tun-info"
    DEFAULT = ""


_REAL = "  -> RemoteAddress:Port"
_TITLES = {
    Columns.STATS: f"{'Prot LocalAddress:Port':<33}    Conns   InPkts  OutPkts  InBytes OutBytes\n{_REAL}\n",
    Columns.RATE: f"{'Prot LocalAddress:Port':<33}      CPS    InPPS   OutPPS    InBPS   OutBPS\n{_REAL}\n",
    Columns.THRESHOLDS: f"{'Prot LocalAddress:Port':<33} Uthreshold Lthreshold ActiveConn InActConn \n{_REAL}\n",
    Columns.PERSISTENT: f"{'Prot LocalAddress:Port':<33} Weight    PersistConn ActiveConn InActConn \n{_REAL}\n",
    Columns.TUNNEL: "Prot LocalAddress:Port Scheduler Flags\n"
    f"{_REAL}           Forward TunnelInfo    Weight ActiveConn InActConn\n",
    Columns.DEFAULT: f"Prot LocalAddress:Port Scheduler Flags\n{_REAL}           Forward Weight ActiveConn InActConn\n",
}
_FORWARD = {
    Forwarding.MASQUERADE: "Masq",
    Forwarding.LOCAL: "Local",
    Forwarding.TUNNEL: "Tunnel",
    Forwarding.ROUTE: "Route",
}
_ZERO = Counters()


def version_line(version: tuple[int, int, int], size: int) -> str:
    return f"IP Virtual Server version {'.'.join(map(str, version))} (size={size})\n"


def listing(
    entries: Iterable[Entry], columns: Columns = Columns.DEFAULT, *, exact: bool = False, nosort: bool = False
) -> str:
    """Return titles and rows, without the version line, which only a listing of the whole table has.

    entries: in the kernel's order, with counters for STATS and RATE. exact: counters in full, not `100000K`.
    """
    lines = [_TITLES[columns]]
    for server, reals in entries if nosort else in_order(entries):
        assert isinstance(server.row, VirtualServerRow)
        if columns in (Columns.STATS, Columns.RATE):
            lines.append(f"{name_text(server.row.id):<33}{_totals(server, columns, exact)}\n")
        else:
            lines.append(service_text(server.row) + "\n")
        lines.extend(_real_server(real, columns, exact) for real in reals)
    return "".join(lines)


def name_text(server: VirtualServerId) -> str:
    if server.protocol is Protocol.FWM:
        return f"FWM  {signed_mark(server.port)}{' IPv6' if server.family is Family.IPV6 else ''}"
    return f"{server.protocol:<4} {endpoint_text(server.address, server.port)}"


def signed_mark(mark: int) -> int:
    """Return a firewall mark as ipvsadm 1.31 prints it, with %d."""
    return mark - (1 << 32) if mark >> 31 else mark


def flag_names(row: VirtualServerRow) -> str:
    """Return the flags as print_sched_flags prints them. It has no name for the third flag of `sh` and `mh`, so this
    may be empty."""
    names = scheduler_flag_names(row.scheduler, row.flags)
    if row.scheduler in ("sh", "mh"):
        names = [name for name in names if name != "flag-3"]
    return ",".join(names)


def mask_text(row: VirtualServerRow) -> str:
    """Return the persistence mask, `255.255.255.0` or a prefix length; "" if each address counts as a client."""
    if row.id.family is Family.IPV6:
        return "" if row.mask == FULL_PREFIX else str(row.mask)
    return "" if row.mask == FULL_MASK else ".".join(str(row.mask >> shift & 255) for shift in (24, 16, 8, 0))


def service_text(row: VirtualServerRow) -> str:
    text = f"{name_text(row.id)} {row.scheduler}"
    if row.flags & SCHEDULER_FLAGS:
        text += f" ({flag_names(row)})"
    if row.flags & PERSISTENT:
        text += f" persistent {row.timeout}"
        if mask := mask_text(row):
            text += f" mask {mask}"
        if row.pe_name:
            text += f" pe {row.pe_name}"
    if row.flags & ONE_PACKET:
        text += " ops"
    return text


def large_number(number: int, exact: bool = False) -> str:
    """Format a number in nine characters, more only if `exact` (print_largenum). It is truncated, not rounded."""
    if exact:
        return f"{number:>8}".rjust(9) if number < 10**8 else f" {number}"
    for limit, divisor, unit in _UNITS:
        if number < limit:
            return f"{number // divisor:>{9 - len(unit)}}{unit}"
    return f"{number // 10**12:>8}T"


_UNITS = ((10**8, 1, ""), (10**9, 10**3, "K"), (10**11, 10**6, "M"), (10**14, 10**9, "G"))


def _totals(seen: Observed, columns: Columns, exact: bool) -> str:
    return "".join(large_number(number, exact) for number in _five(seen.counters or _ZERO, columns))


def _five(c: Counters, columns: Columns) -> tuple[int, int, int, int, int]:
    if columns is Columns.STATS:
        return c.connections, c.in_packets, c.out_packets, c.in_bytes, c.out_bytes
    return c.cps, c.in_pps, c.out_pps, c.in_bps, c.out_bps


def _real_server(seen: Observed, columns: Columns, exact: bool) -> str:
    row = seen.row
    assert isinstance(row, RealServerRow)
    start = f"  -> {endpoint_text(row.address, row.port):<28}"
    connections = f"{seen.active:<10} {seen.inactive:<10}\n"
    match columns:
        case Columns.STATS | Columns.RATE:
            return start + _real_server_totals(seen, columns, exact)
        case Columns.THRESHOLDS:
            return f"{start} {row.upper_threshold:<10} {row.lower_threshold:<10} {connections}"
        case Columns.PERSISTENT:
            return f"{start} {row.weight:<9} {seen.persistent:<11} {connections}"
        case Columns.TUNNEL:
            tunnel = _tunnel_text(row.tunnel) if row.forwarding is Forwarding.TUNNEL else "n/a"
            return f"{start} {_FORWARD[row.forwarding]:<7} {tunnel:<13} {row.weight:<6} {connections}"
        case _:
            return f"{start} {_FORWARD[row.forwarding]:<7} {row.weight:<6} {connections}"


def _real_server_totals(seen: Observed, columns: Columns, exact: bool) -> str:
    """Format the counters of a real server: ipvs_dests_parse_cb reads 64-bit attributes as 32-bit ones, except bytes,
    and rates of connections and packets are never shortened."""
    first, second, third, *last = _five(seen.counters or _ZERO, columns)
    low = [number & 0xFFFFFFFF for number in (first, second, third)]
    if columns is Columns.STATS:
        return "".join(large_number(number, exact) for number in (*low, *last)) + "\n"
    plain = "".join(f" {number:>8}" for number in low)
    return plain + "".join(large_number(number & 0xFFFFFFFF, exact) for number in last) + "\n"


def _tunnel_text(tunnel: Tunnel | None) -> str:
    kind, port, flags = (tunnel.kind, tunnel.port, tunnel.flags) if tunnel else (0, 0, 0)
    checksum = {0: "-c", 1: "+c", 2: "r+c"}.get(flags, "")
    return {0: "ipip", 1: f"gue:{port}:{checksum}", 2: f"gre:{checksum}"}.get(kind, "n/a")
