"""Tables of nftables, over nfnetlink (include/uapi/linux/netfilter/nf_tables.h): the program `nft` need not be
installed, and seldom is where iptables is."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from msgspec import Struct

from ipvsagent.errors import KernelError, NotThere
from ipvsagent.kernel.ipset_messages import NETLINK_NETFILTER
from ipvsagent.kernel.netlink import NetlinkSocket, attribute, attributes, message

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_GET_TABLE, _DELETE_TABLE = _SUBSYSTEM << 8 | 1, _SUBSYSTEM << 8 | 2
_BATCH_BEGIN, _BATCH_END = 16, 17  # NFNL_MSG_BATCH_*
_NAME = 1  # NFTA_TABLE_NAME
_NFGENMSG = struct.Struct(">BBH")  # family, version, resource
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", socket.AF_INET6: "ip6"}
_NUMBERS = {name: number for number, name in _FAMILIES.items()}


class Table(Struct, frozen=True, order=True):
    """family: as `nft` calls it, ip or ip6."""

    family: str
    name: str


def tables() -> Iterator[Table]:
    """Of all families; none on a kernel without nf_tables."""
    try:
        netlink = NetlinkSocket(NETLINK_NETFILTER)
    except OSError:
        return
    try:
        answers = netlink.dump(_GET_TABLE, _NFGENMSG.pack(0, 0, 0))
    except KernelError:
        return
    finally:
        netlink.close()
    for data, start, end in answers:
        name = attributes(data, start + _NFGENMSG.size, end).get(_NAME, b"").rstrip(b"\0").decode(errors="replace")
        yield Table(_FAMILIES.get(data[start], str(data[start])), name)


def delete(table: Table) -> None:
    """With its chains, rules, sets and maps, in one transaction; that it is gone already is no error.

    Raises KernelError, OSError where there is no netfilter.
    """
    netlink = NetlinkSocket(NETLINK_NETFILTER)
    try:
        first = netlink.reserve(3)
        edge = _NFGENMSG.pack(0, 0, _SUBSYSTEM)
        body = _NFGENMSG.pack(_NUMBERS[table.family], 0, 0) + attribute(_NAME, table.name.encode() + b"\0")
        # Only newer kernels acknowledge the end of a batch, so what is acknowledged is the deletion.
        deletion = message(_DELETE_TABLE, 0, first + 1, body) + message(_BATCH_END, 0, first + 2, edge)
        errors = netlink.send([message(_BATCH_BEGIN, 0, first, edge), deletion])
    finally:
        netlink.close()
    for error in errors.values():
        if not isinstance(error, NotThere):
            raise error
