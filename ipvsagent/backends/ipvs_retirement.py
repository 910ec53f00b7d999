"""Removes what the IPVS backend left on a node that uses iptables now, without losing a connection.

New connections traverse the rules of nat first and never reach IPVS. Connections that IPVS has continue there as long
as their virtual server and its address exist. So a virtual server is removed when it no longer has connections, or when
the drain timeout is over; until then its real servers have weight 0, because a Service that is deleted meanwhile has no
rules of nat. The addresses are removed together with the last virtual server: connections of clients on this node,
which are translated or had a firewall mark (agents up to 0.1.0), cannot be attributed to an address.

The same holds for what kube-proxy's ipvs mode left, also on the node's own addresses. There a virtual server takes no
packet of a Service that is served, but would continue to answer on a node port that no Service has now. kube-proxy's
ipsets show which virtual servers these are; without the sets, they are treated as another program's.

Before Services are served, bound addresses become local routes that name an address of the node as the preferred
source. Otherwise a process on this node would take the Service's address as its own source, and lose its new connection
when that address is removed. An address that is also local through another program gets no route of ours: the kernel
would replace the other program's route.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from msgspec.structs import replace

from ipvsagent.address import Address, Family, family_of, parse_address
from ipvsagent.config import Config
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel import host
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.ipvs.ownership import Ledger, Ownership
from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.kernel.kube_proxy import sets as kube_proxy_sets
from ipvsagent.kernel.service_routes import RouteTable
from ipvsagent.model import VirtualServerId
from ipvsagent.render.set_members import VIP_SETS
from ipvsagent.rows import AddressRow, Op, Owner, RealServerRow, RouteRow, Verb, VirtualServerRow

_PAUSE = 10.0
"""How long `drain` pauses, as a multiple of the time it took: it reads every virtual server."""
_OUTSIDE = {
    Family.IPV4: (socket.AF_INET, "198.51.100.1"),
    Family.IPV6: (socket.AF_INET6, "2001:db8::1"),
}
"""Documentation addresses. The route to them is the default route."""


class Retirement:
    """Removes what the IPVS backend left on this node."""

    def __init__(self, config: Config, addresses: AddressTable, ledger: Ledger, sets: SetTable) -> None:
        """Read what there is to remove. Raises StartError, KernelError."""
        self._config = config
        self._addresses = addresses
        self._sets = sets
        self._routes = RouteTable(addresses)
        bound, routed = addresses.refresh(), self._routes.refresh()
        self._ownership = Ownership(ledger, bound, map(str, config.excluded), routed)
        self._began: float | None = None
        self._due = 0.0
        self._ipvs: IpvsTable | None = None
        if host.ip_vs_presence() is host.IpvsPresence.PRESENT:
            kube_proxy_sets.claim_kube_proxy_servers(self._ownership, sets, addresses)
            self._ipvs = IpvsTable(self._ownership)
        self.left = sum(seen.owner is Owner.OURS for seen in self._ipvs.services()) if self._ipvs else 0
        """The number of virtual servers that are left."""

    def begin(self) -> None:
        """Turn bound addresses into routes. Connections are not affected. Raises StartError, KernelError."""
        if self._addresses.has_interface():
            self._addresses.ensure_interface()  # raises if the interface is not ours
        if self._ipvs:
            self._ownership.reconcile_ledger(self._ipvs.services())
        self._deliver_by_routes()

    def configure(self, config: Config) -> None:
        """Use the drain timeout and the excluded networks of this configuration from now on."""
        self._config = config
        self._ownership.set_excluded(map(str, config.excluded))

    def drain(self, now: float) -> bool:
        """Remove what no longer has connections. Return whether nothing is left. The rules of nat must be installed.
        Raises KernelError."""
        if self._began is None:
            self._began = now
        if now < self._due:
            return False
        began = time.monotonic()
        is_over = now >= self._began + self._config.drain_timeout
        ops: list[Op] = []
        kept: dict[VirtualServerId, VirtualServerRow] = {}
        for row, real_servers, connections in self._servers():
            if connections and not is_over:
                kept[row.id] = row
                ops += [Op(Verb.SET, replace(real, weight=0)) for real in real_servers if real.weight]
            else:
                ops.append(Op(Verb.DELETE, row))
        if self._ipvs and ops:
            failed = [failure.op.row for failure in self._ipvs.write(ops)]
            kept.update((row.id, row) for row in failed if isinstance(row, VirtualServerRow))
        self.left = len(kept)
        if not kept:
            self._withdraw()
            if self._ipvs:
                self._ipvs.close()
                self._ipvs = None
        self._due = now + (time.monotonic() - began) * _PAUSE
        return not kept

    def finish(self) -> None:
        """Remove our interface, and the members of the sets that only the removed rules used. Raises KernelError,
        StartError."""
        self._sets.write([Op(Verb.DELETE, row) for row in self._sets.members(VIP_SETS)])
        self._addresses.remove_interface()
        self._routes.close()

    def findings(self) -> tuple[Finding, ...]:
        """Return one finding if virtual servers are left. It does not count them: each change would be a log line."""
        if not self.left:
            return ()
        reason = (
            "virtual servers, which this node used before, remain; each is removed after its last connection, all "
            f"of them after {self._config.drain_timeout:.0f} s"
        )
        return (Finding(FindingKind.HOST, "IPVS", reason),)

    def _servers(self) -> Iterator[tuple[VirtualServerRow, list[RealServerRow], int]]:
        """Yield each virtual server of ours with its real servers, and how many connections these have."""
        if self._ipvs is None:
            return
        server: VirtualServerRow | None = None
        real_servers: list[RealServerRow] = []
        connections = 0
        for seen in self._ipvs.read(None):
            if isinstance(seen.row, VirtualServerRow):
                if server:
                    yield server, real_servers, connections
                server = seen.row if seen.owner is Owner.OURS else None
                real_servers = []
                connections = 0
            elif isinstance(seen.row, RealServerRow):
                real_servers.append(seen.row)
                connections += seen.active + seen.inactive
        if server:
            yield server, real_servers, connections

    def _deliver_by_routes(self) -> None:
        """Replace each bound address by a route. The address is local at every moment, so no connection is affected."""
        bound = sorted(self._addresses.bound)
        sources = {family: self._own_address(family) for family in {family_of(address) for address in bound}}
        others = self._addresses.node_addresses().keys() | self._routes.others()
        routes = {address: RouteRow(str(AddressRow(address)), sources[family_of(address)]) for address in bound}
        added = [Op(Verb.ADD, row) for address, row in routes.items() if not others & {address, row.network}]
        failed = {failure.op.row for failure in self._routes.write(added)}
        self._addresses.write([Op(Verb.DELETE, AddressRow(a)) for a, route in routes.items() if route not in failed])

    def _own_address(self, family: Family) -> Address:
        """Return the source address of connections of this node; "" if the node has no address of this family."""
        own = [address for address in self._addresses.node_addresses() if family_of(address) is family]
        kind, outside = _OUTSIDE[family]
        try:
            with socket.socket(kind, socket.SOCK_DGRAM) as probe:
                probe.connect((outside, 9))  # sends nothing
                chosen = parse_address(probe.getsockname()[0])
        except OSError:
            chosen = Address("")
        return chosen if chosen in own else next(iter(sorted(own)), Address(""))

    def _withdraw(self) -> None:
        """Remove our addresses, and our routes of any length."""
        self._routes.write([Op(Verb.DELETE, seen.row) for seen in list(self._routes.read(None))])
        if self._addresses.bound:
            self._addresses.write([Op(Verb.DELETE, AddressRow(address)) for address in sorted(self._addresses.bound)])
