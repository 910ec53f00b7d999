"""Reads and deletes tables of nftables over nfnetlink (include/uapi/linux/netfilter/nf_tables.h).

The program `nft` need not be installed, and on nodes with iptables it rarely is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from ipvsagent.errors import KernelError, NotThere
from ipvsagent.kernel.ipset.messages import NETLINK_NETFILTER
from ipvsagent.kernel.netlink import Body, NetlinkSocket, attribute, message
from ipvsagent.kernel.nftables.messages import (
    FAMILIES,
    NFGENMSG,
    RULE_TABLE,
    TABLE_NAME,
    BaseChain,
    Rule,
    Table,
    parse_base_chain,
    parse_rule,
    parse_table,
)

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_GET_TABLE, _DELETE_TABLE = _SUBSYSTEM << 8 | 1, _SUBSYSTEM << 8 | 2
_GET_CHAIN, _GET_RULE = _SUBSYSTEM << 8 | 4, _SUBSYSTEM << 8 | 7
_BATCH_BEGIN, _BATCH_END = 16, 17  # NFNL_MSG_BATCH_*
_NUMBERS = {name: number for number, name in FAMILIES.items()}


def tables() -> Iterator[Table]:
    """Return the tables of all families; none on a kernel without nf_tables."""
    return (parse_table(*body) for body in _dump(_GET_TABLE, NFGENMSG.pack(0, 0, 0)))


def base_chains() -> list[BaseChain]:
    """Return the chains at hooks of IP packets (ip, ip6, inet), sorted; none on a kernel without nf_tables."""
    by_name = {(table.family, table.name): table for table in tables()}
    found = []
    for body in _dump(_GET_CHAIN, NFGENMSG.pack(0, 0, 0)):
        chain = parse_base_chain(*body)
        if chain is not None:
            table = by_name.get((chain.table.family, chain.table.name), chain.table)
            found.append(msgspec.structs.replace(chain, table=table))
    return sorted(found)


def rules(table: Table) -> dict[str, list[Rule]]:
    """Return the rules of a table in order, by chain; none if the table does not exist."""
    found: dict[str, list[Rule]] = {}
    for body in _dump(_GET_RULE, NFGENMSG.pack(_NUMBERS[table.family], 0, 0) + _name(RULE_TABLE, table.name)):
        rule = parse_rule(*body)
        if rule.table == table.name:  # kernels before 4.2 do not select by table
            found.setdefault(rule.chain, []).append(rule)
    return found


def _dump(kind: int, body: bytes) -> list[Body]:
    """Return the answers; none if the kernel lacks nf_tables or refuses the request."""
    try:
        netlink = NetlinkSocket(NETLINK_NETFILTER)
    except OSError:
        return []
    with contextlib.closing(netlink):
        try:
            return netlink.dump(kind, body)
        except KernelError:
            return []


def _name(kind: int, name: str) -> bytes:
    return attribute(kind, name.encode() + b"\0")


def delete(table: Table) -> None:
    """Delete a table with its chains, rules, sets and maps in one transaction; do nothing if it does not exist.

    Raises KernelError, and OSError on a kernel without netfilter.
    """
    netlink = NetlinkSocket(NETLINK_NETFILTER)
    try:
        first = netlink.reserve(3)
        edge = NFGENMSG.pack(0, 0, _SUBSYSTEM)
        body = NFGENMSG.pack(_NUMBERS[table.family], 0, 0) + _name(TABLE_NAME, table.name)
        # Only newer kernels acknowledge the end of a batch, so the deletion is the message that asks for one.
        deletion = message(_DELETE_TABLE, 0, first + 1, body) + message(_BATCH_END, 0, first + 2, edge)
        errors = netlink.send([message(_BATCH_BEGIN, 0, first, edge), deletion])
    finally:
        netlink.close()
    for error in errors.values():
        if not isinstance(error, NotThere):
            raise error
