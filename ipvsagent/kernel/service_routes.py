"""Routes that make whole ranges of Service addresses local to this node: route mode, in place of an address for each.

Knows rtnetlink, nothing of Services. The routes lead to the loopback interface, because the kernel refuses IPv6 ones on
an interface that is down. Their preferred source is an address of the node, so that its processes need no masquerade;
their MTU is that of the interface which has this address, or the first large datagram of a process would be lost:
loopback's own MTU is 64 KiB, and IPVS does not cut (ip_vs_xmit.c).

The kernel keeps a route whose source is gone from the node; whoever wants routes says so anew when addresses change.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator, Sequence

from ipvsagent.address import Address, unpack
from ipvsagent.config import Network
from ipvsagent.errors import KernelError, NotThere
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.links import links
from ipvsagent.kernel.netlink import CREATE, NETLINK_ROUTE, REPLACE, Body, NetlinkSocket, attributes
from ipvsagent.kernel.routes import (
    DELETE_ROUTE,
    DESTINATION,
    GET_ROUTE,
    LOCAL,
    LOCAL_TABLE,
    NEW_ROUTE,
    PROTOCOL,
    RTMSG,
    SOURCE,
    pack_local_route,
)
from ipvsagent.rows import Failure, Keys, Observed, Op, Owner, RouteRow, Verb

_OF_ADDRESSES = (0, 2)  # RTPROT_UNSPEC, of IPv6 addresses in older kernels, and RTPROT_KERNEL


class RouteTable:
    """`KernelTable` of `RouteRow`. For one thread. Only routes with our protocol number are read or deleted.

    networks: the ranges that are local by our routes, as far as this table has read and written; shared with
    `Ownership`.
    """

    def __init__(self, addresses: AddressTable, timeout: float = 10.0) -> None:
        self._addresses = addresses
        self.networks: set[Network] = set()
        self._held: dict[str, RouteRow] = {}
        self._socket = NetlinkSocket(NETLINK_ROUTE, timeout=timeout)

    def close(self) -> None:
        self._socket.close()

    def refresh(self) -> set[Network]:
        """Read our routes again. Return `networks`, which every later read and write keeps up to date."""
        self.read(None)
        return self.networks

    def read(self, keys: Keys) -> Iterator[Observed]:
        """Always two dumps, whatever is asked for; the kernel leaves out other tables' routes from 4.20 on."""
        found = [row for row, protocol in self._dump(PROTOCOL) if protocol == PROTOCOL]
        self._held = {row.network: row for row in found}
        self._note()
        return iter([Observed(row, Owner.OURS) for row in found if keys is None or row.key in set(keys)])

    def others(self) -> set[str]:
        """Networks that are local by routes which other programs made, and not the kernel for an address."""
        return {row.network for row, protocol in self._dump() if protocol not in (PROTOCOL, *_OF_ADDRESSES)}

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        """ADD replaces a route of ours with another source; DELETE is for exactly the row it names."""
        failures = []
        held = dict(self._held)
        loopback = socket.if_nametoindex("lo")
        sent: dict[int, tuple[Op, RouteRow]] = {}
        messages = []
        mtus: dict[Address, int | None] = {}
        first = self._socket.reserve(len(ops))
        for sequence, op in enumerate(ops, first):
            row = op.row
            if not isinstance(row, RouteRow):
                failures.append(Failure(op, KernelError.of(errno.EINVAL, "not sent: it is no route")))
                continue
            if op.verb is Verb.DELETE and held.get(row.network, row) != row:
                continue
            if op.verb is not Verb.DELETE:
                held[row.network] = row
            if row.source and row.source not in mtus:
                mtus[row.source] = _mtu_of(row.source, self._addresses)
            sent[sequence] = op, row
            messages.append(_packed(op.verb, row, sequence, loopback, mtus.get(row.source)))
        errors = self._socket.send(messages)
        for sequence, (op, row) in sent.items():
            error = errors.get(sequence)
            if error is not None and not (op.verb is Verb.DELETE and isinstance(error, NotThere)):
                failures.append(Failure(op, error))
            elif op.verb is Verb.DELETE:
                self._held.pop(row.network, None)
            else:
                self._held[row.network] = row
        self._note()
        return failures

    def _note(self) -> None:
        self.networks.clear()
        self.networks.update(ipaddress.ip_network(network) for network in self._held)

    def _dump(self, asked: int = 0) -> Iterator[tuple[RouteRow, int]]:
        """Local routes, with the protocol number of each. asked: only of this one, where the kernel can tell."""
        for family in (socket.AF_INET, socket.AF_INET6):
            request = RTMSG.pack(family, 0, 0, 0, LOCAL_TABLE, asked, 0, LOCAL, 0)
            try:
                answers = self._socket.dump(GET_ROUTE, request)
            except KernelError as error:
                if error.code in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT):  # IPv6 is off
                    continue
                raise
            yield from filter(None, map(_row, answers))


def _packed(verb: Verb, row: RouteRow, sequence: int, loopback: int, mtu: int | None) -> bytes:
    network = ipaddress.ip_network(row.network)
    place = (Address(str(network.network_address)), network.prefixlen)
    if verb is Verb.DELETE:
        return pack_local_route(DELETE_ROUTE, 0, sequence, place, loopback)
    mtu = mtu if network.version == 4 else None
    return pack_local_route(NEW_ROUTE, CREATE | REPLACE, sequence, place, loopback, row.source or None, mtu)


def _row(body: Body) -> tuple[RouteRow, int] | None:
    data, start, end = body
    _, prefix, _, _, table, protocol, _, kind, _ = RTMSG.unpack_from(data, start)
    found = attributes(data, start + RTMSG.size, end)
    if (table, kind) != (LOCAL_TABLE, LOCAL) or DESTINATION not in found:
        return None
    source = found.get(SOURCE)
    return RouteRow(f"{unpack(found[DESTINATION])}/{prefix}", unpack(source) if source else Address("")), protocol


def _mtu_of(source: Address, addresses: AddressTable) -> int | None:
    """Of the interface that has this address; None if none has."""
    name = addresses.node_addresses().get(source)
    return next((link.mtu for link in links() if link.name == name), None)
