"""Defines kernel rows, and operations on them.

A `Row` is an entry of a kernel table: a virtual server, a real server, a bound address. `str(row)` is the line
that the operator's own tool would print (`ipvsadm -Sn`, `ip address`), and `str(op)` is what `plan` prints and what a
failure quotes. Each row knows its noun, its command, and its rank among the writes. Rows exist while a change is in
flight; what is kept are `VirtualServer`s.

    ipvs.py          virtual and real servers
    shared.py        addresses, members of sets, routes, translations
    nat_chains.py    a virtual server as chains of iptables
    server_row.py    what the rows of virtual servers have in common
    packet_rules.py  the constant packet rules
    ops.py           changes, the diff and the order of writes
    table.py         what a kernel table is
"""

from ipvsagent.rows.ipvs import (
    FULL_MASK,
    FULL_PREFIX,
    HASHED,
    ONE_PACKET,
    PERSISTENT,
    SCHED1,
    SCHED2,
    SCHED3,
    SCHEDULER_FLAGS,
    RealServerRow,
    Tunnel,
    VirtualServerRow,
    scheduler_flag_names,
    service_option,
    tunnel_options,
)
from ipvsagent.rows.ops import Failure, Op, Row, diff, order
from ipvsagent.rows.shared import AddressRow, RouteRow, SetMemberRow, SetSpec, SharedRow, TranslationRow
from ipvsagent.rows.table import Counters, KernelTable, Keys, Observed, Owner
from ipvsagent.rows.verb import Verb

__all__ = [
    "FULL_MASK",
    "FULL_PREFIX",
    "HASHED",
    "ONE_PACKET",
    "PERSISTENT",
    "SCHED1",
    "SCHED2",
    "SCHED3",
    "SCHEDULER_FLAGS",
    "AddressRow",
    "Counters",
    "Failure",
    "KernelTable",
    "Keys",
    "Observed",
    "Op",
    "Owner",
    "RealServerRow",
    "RouteRow",
    "Row",
    "SetMemberRow",
    "SetSpec",
    "SharedRow",
    "TranslationRow",
    "Tunnel",
    "Verb",
    "VirtualServerRow",
    "diff",
    "order",
    "scheduler_flag_names",
    "service_option",
    "tunnel_options",
]
