"""Formats the output of `ipvsadm -Sn`, byte for byte, or in a form from which `ipvsadm -R` restores everything.

ipvsadm 1.31 (ipvsadm.c, print_service_entry with FMT_RULE) saves no thresholds, writes marks above 2^31 as negative
numbers, which its parse_fwmark refuses, and prints no name for the third scheduler flag of `sh` and `mh`, though its
parse_sched_flags accepts one.
"""

from __future__ import annotations

from collections.abc import Iterable

from ipvsagent.address import Family, endpoint_text
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows import (
    ONE_PACKET,
    PERSISTENT,
    SCHEDULER_FLAGS,
    RealServerRow,
    Tunnel,
    VirtualServerRow,
    service_option,
    tunnel_options,
)
from ipvsagent.status.ipvsadm import flag_names, mask_text, signed_mark
from ipvsagent.status.ipvsadm_order import Entry, in_order

_METHOD = {Forwarding.MASQUERADE: "-m", Forwarding.TUNNEL: "-i"}
_MAX_THRESHOLD = (1 << 31) - 1  # the most that -x and -y accept; there are never so many connections


def saved(entries: Iterable[Entry], *, complete: bool = False) -> str:
    """Return one line for each row.

    entries: in the kernel's order. complete: include what ipvsadm leaves out. A complete text also contains rows that
    other programs can make and ipvsadm refuses: weights above 65535, TCP with one-packet scheduling, and tunnelled or
    routed real servers on another port than the virtual server's.
    """
    lines = []
    for server, reals in in_order(entries):
        assert isinstance(server.row, VirtualServerRow)
        name = service_option(server.row.id) if complete else _signed_option(server.row.id)
        lines.append(str(server.row) if complete else _rule(server.row, name))
        for real in reals:
            assert isinstance(real.row, RealServerRow)
            lines.append(_real_server_rule(real.row, name, complete))
    return "".join(line + "\n" for line in lines)


def _signed_option(server: VirtualServerId) -> str:
    if server.protocol is not Protocol.FWM:
        return service_option(server)
    return f"-f {signed_mark(server.port)}{' -6' if server.family is Family.IPV6 else ''}"


def _rule(row: VirtualServerRow, name: str) -> str:
    line = f"-A {name} -s {row.scheduler}"
    if row.flags & PERSISTENT:
        line += f" -p {row.timeout}"
        if mask := mask_text(row):
            line += f" -M {mask}"
    if row.pe_name:
        line += f" --pe {row.pe_name}"
    if row.flags & ONE_PACKET:
        line += " -o"
    if row.flags & SCHEDULER_FLAGS:
        line += f" -b {flag_names(row)}"
    return line


def _real_server_rule(row: RealServerRow, name: str, complete: bool) -> str:
    line = f"-a {name} -r {endpoint_text(row.address, row.port)} {_METHOD.get(row.forwarding, '-g')} -w {row.weight}"
    if row.forwarding is Forwarding.TUNNEL:
        line += tunnel_options(row.tunnel or Tunnel())
    if complete and row.upper_threshold:
        line += f" -x {min(row.upper_threshold, _MAX_THRESHOLD)}"
    if complete and row.lower_threshold:
        line += f" -y {min(row.lower_threshold, _MAX_THRESHOLD)}"
    return line
