"""Makes whole ranges of Service addresses local to this node: route mode, which replaces binding each address.

It knows rtnetlink, and nothing of Services. The routes lead to the loopback interface, because the kernel refuses IPv6
ones on an interface that is down. Their preferred source is an address of the node, so that its processes need no
masquerade. Their MTU is that of the interface that has this address; otherwise the first large datagram of a process
would be lost, as loopback's own MTU is 64 KiB and IPVS does not fragment (ip_vs_xmit.c).

The kernel keeps a route whose source is gone from the node, so callers write routes again when addresses change.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator, Sequence

from ipvsagent.address import Address
from ipvsagent.config import Network
from ipvsagent.errors import KernelError, NotThere
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.netlink import NETLINK_ROUTE, NetlinkSocket
from ipvsagent.kernel.pyroute import LocalRoute, Rtnetlink
from ipvsagent.kernel.routes import PROTOCOL, local_routes
from ipvsagent.rows import Failure, Keys, Observed, Op, Owner, RouteRow, Verb

_OF_ADDRESSES = (0, 2)  # RTPROT_UNSPEC, of IPv6 addresses in older kernels, and RTPROT_KERNEL


class RouteTable:
    """Implements the `KernelTable` of `RouteRow`, for one thread. Reads and deletes only routes with our protocol
    number."""

    def __init__(self, addresses: AddressTable, timeout: float = 10.0) -> None:
        self._addresses = addresses
        self._timeout = timeout
        self.networks: set[Network] = set()
        """The ranges that are local by our routes, as far as this table has read and written; `Ownership` shares it."""
        self._held: dict[str, RouteRow] = {}
        self._reader = NetlinkSocket(NETLINK_ROUTE, timeout=timeout)
        self._writer: Rtnetlink | None = None

    def close(self) -> None:
        self._reader.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def refresh(self) -> set[Network]:
        """Read our routes again. Return `networks`, which every later read and write keeps up to date."""
        self.read(None)
        return self.networks

    def read(self, keys: Keys) -> Iterator[Observed]:
        """Read all of ours, whatever is asked for, with a dump for each address family."""
        found = [RouteRow(route.network, route.source) for route in local_routes(self._reader, PROTOCOL)]
        self._held = {row.network: row for row in found}
        self._note()
        return iter([Observed(row, Owner.OURS) for row in found if keys is None or row.key in set(keys)])

    def others(self) -> set[str]:
        """Return networks that are local by routes of other programs, and not by the kernel's for an address."""
        ordinary = (PROTOCOL, *_OF_ADDRESSES)
        return {route.network for route in local_routes(self._reader) if route.protocol not in ordinary}

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        """Write ops: ADD replaces a route of ours with another source, and DELETE deletes exactly the row that it
        names."""
        failures = []
        wanted = dict(self._held)
        for op in ops:
            row = op.row
            if not isinstance(row, RouteRow):
                failures.append(Failure(op, KernelError.of(errno.EINVAL, "not sent: it is not a route")))
                continue
            if op.verb is Verb.DELETE and wanted.get(row.network, row) != row:
                continue
            if op.verb is not Verb.DELETE:
                wanted[row.network] = row
            try:
                self._apply(op.verb, row)
            except KernelError as error:
                failures.append(Failure(op, error))
        self._note()
        return failures

    def _apply(self, verb: Verb, row: RouteRow) -> None:
        loopback = socket.if_nametoindex("lo")
        route = LocalRoute(row.network, PROTOCOL, row.source)
        if verb is Verb.DELETE:
            with contextlib.suppress(NotThere):
                self._rtnetlink().delete_local_route(route, loopback)
            self._held.pop(row.network, None)
            return
        mtu = self._mtu_of(row.source) if row.source and ":" not in row.network else None
        self._rtnetlink().replace_local_route(route, loopback, mtu)
        self._held[row.network] = row

    def _rtnetlink(self) -> Rtnetlink:
        if self._writer is None:
            self._writer = Rtnetlink(timeout=self._timeout)
        return self._writer

    def _mtu_of(self, source: Address) -> int | None:
        """Return the MTU of the interface that has this address; None if none has."""
        name = self._addresses.node_addresses().get(source)
        return next((link.mtu for link in self._rtnetlink().links() if link.name == name), None)

    def _note(self) -> None:
        self.networks.clear()
        self.networks.update(ipaddress.ip_network(network) for network in self._held)
