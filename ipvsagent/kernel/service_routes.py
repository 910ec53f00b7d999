"""Makes whole ranges of Service addresses local to this node: route mode, which replaces binding each address.

It knows rtnetlink, and nothing of Services. The routes lead to the loopback interface, because the kernel refuses IPv6
ones on an interface that is down. Their preferred source is an address of the node, so that its processes need no
masquerade. Their MTU is that of the interface that has this address; otherwise the first large datagram of a process
would be lost, as loopback's own MTU is 64 KiB and IPVS does not fragment (ip_vs_xmit.c).

The kernel keeps a route whose source is gone from the node, so callers write routes again when addresses change.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator, Sequence

from ipvsagent.address import Address
from ipvsagent.config import Network
from ipvsagent.errors import KernelError, NotThere
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.links import links
from ipvsagent.kernel.netlink import CREATE, NETLINK_ROUTE, REPLACE, NetlinkSocket
from ipvsagent.kernel.routes import DELETE_ROUTE, NEW_ROUTE, PROTOCOL, local_routes, pack_local_route
from ipvsagent.rows import Failure, Keys, Observed, Op, Owner, RouteRow, Verb

_OF_ADDRESSES = (0, 2)  # RTPROT_UNSPEC, of IPv6 addresses in older kernels, and RTPROT_KERNEL


class RouteTable:
    """Implements the `KernelTable` of `RouteRow`, for one thread. Reads and deletes only routes with our protocol
    number."""

    def __init__(self, addresses: AddressTable, timeout: float = 10.0) -> None:
        self._addresses = addresses
        self.networks: set[Network] = set()
        """The ranges that are local by our routes, as far as this table has read and written; `Ownership` shares it."""
        self._held: dict[str, RouteRow] = {}
        self._socket = NetlinkSocket(NETLINK_ROUTE, timeout=timeout)

    def close(self) -> None:
        self._socket.close()

    def refresh(self) -> set[Network]:
        """Read our routes again. Return `networks`, which every later read and write keeps up to date."""
        self.read(None)
        return self.networks

    def read(self, keys: Keys) -> Iterator[Observed]:
        """Read all of ours, whatever is asked for, with a dump for each address family."""
        found = [RouteRow(route.network, route.source) for route in local_routes(self._socket, PROTOCOL)]
        self._held = {row.network: row for row in found}
        self._note()
        return iter([Observed(row, Owner.OURS) for row in found if keys is None or row.key in set(keys)])

    def others(self) -> set[str]:
        """Return networks that are local by routes of other programs, and not by the kernel's for an address."""
        ordinary = (PROTOCOL, *_OF_ADDRESSES)
        return {route.network for route in local_routes(self._socket) if route.protocol not in ordinary}

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        """Write ops in one batch: ADD replaces a route of ours with another source, and DELETE deletes exactly the row
        that it names."""
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
                failures.append(Failure(op, KernelError.of(errno.EINVAL, "not sent: it is not a route")))
                continue
            if op.verb is Verb.DELETE and held.get(row.network, row) != row:
                continue
            if op.verb is not Verb.DELETE:
                held[row.network] = row
            if row.source and row.source not in mtus:
                mtus[row.source] = _mtu_of(row.source, self._addresses)
            sent[sequence] = op, row
            messages.append(_pack(op.verb, row, sequence, loopback, mtus.get(row.source)))
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


def _pack(verb: Verb, row: RouteRow, sequence: int, loopback: int, mtu: int | None) -> bytes:
    network = ipaddress.ip_network(row.network)
    place = (Address(str(network.network_address)), network.prefixlen)
    if verb is Verb.DELETE:
        return pack_local_route(DELETE_ROUTE, 0, sequence, place, loopback)
    mtu = mtu if network.version == 4 else None
    return pack_local_route(NEW_ROUTE, CREATE | REPLACE, sequence, place, loopback, row.source or None, mtu)


def _mtu_of(source: Address, addresses: AddressTable) -> int | None:
    """Return the MTU of the interface that has this address; None if none has."""
    name = addresses.node_addresses().get(source)
    return next((link.mtu for link in links() if link.name == name), None)
