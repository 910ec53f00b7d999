"""What the IPVS backend left on a node that is on iptables now.

New connections meet the rules of nat first and never come to IPVS; those that IPVS has go on there, as long as their
virtual server and its address stay. So a virtual server goes when it has no connections any more, or when the drain
timeout is over. Until then its real servers have weight 0: for a Service that is deleted meanwhile there are no rules
of nat. Addresses go with the last virtual server: those of this node's own clients, who are translated, or had a
firewall mark from an agent up to 0.1.0, cannot be told from the connections.

So it is with what kube-proxy's ipvs mode left, on the node's own addresses, too: there it takes no packet of a Service
that is served, but would go on answering on a node port that no Service has any more. Its sets prove which these are;
without them they are left alone, as another program's.

Before Services are served, bound addresses become local routes that name the node's own address as the source: a
process of this node would else take the Service's address for its own, and lose its new connection with that address.
What is local by the doing of others, too, gets no route of ours: the kernel would take that for theirs made anew.
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

_LOOK_AGAIN_AFTER = 10.0
"""Times what the last look took: it reads every virtual server."""
_ELSEWHERE = {
    Family.IPV4: (socket.AF_INET, "198.51.100.1"),
    Family.IPV6: (socket.AF_INET6, "2001:db8::1"),
}
"""Addresses for documentation: the way there is the way to anywhere."""


class Retirement:
    """ledger: of the IPVS backend. sets: those of kube-proxy prove what it left. Making one only reads. Raises
    StartError, KernelError."""

    def __init__(self, config: Config, addresses: AddressTable, ledger: Ledger, sets: SetTable) -> None:
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

    def begin(self) -> None:
        """Makes no difference to connections."""
        if self._addresses.has_interface():
            self._addresses.ensure_interface()  # or its addresses are none of ours
        if self._ipvs:
            self._ownership.reconcile_ledger(self._ipvs.services())
        self._deliver_by_routes()

    def configure(self, config: Config) -> None:
        """The next look goes by its drain timeout and its excluded networks."""
        self._config = config
        self._ownership.set_excluded(map(str, config.excluded))

    def look(self, now: float) -> bool:
        """Takes away what may go; True once nothing is left. Not before the rules of nat are there."""
        if self._began is None:
            self._began = now
        if now < self._due:
            return False
        looked = time.monotonic()
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
        self._due = now + (time.monotonic() - looked) * _LOOK_AGAIN_AFTER
        return not kept

    def end(self) -> None:
        """When its rules are gone, too, which ask these sets."""
        self._sets.write([Op(Verb.DELETE, row) for row in self._sets.members(VIP_SETS)])
        self._addresses.remove_interface()
        self._routes.close()

    def findings(self) -> tuple[Finding, ...]:
        """One that stays as it is, or each connection that ends would be a line in the log."""
        if not self.left:
            return ()
        reason = (
            "virtual servers, which this node used before, are left; each goes with its last connection, all when "
            f"{self._config.drain_timeout:.0f} s are over"
        )
        return (Finding(FindingKind.HOST, "IPVS", reason),)

    def _servers(self) -> Iterator[tuple[VirtualServerRow, list[RealServerRow], int]]:
        """Ours, each with its real servers, and how many connections they have."""
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
        """There is no moment in which an address is not local, so that no connection notices."""
        bound = sorted(self._addresses.bound)
        sources = {family: self._own_address(family) for family in {family_of(address) for address in bound}}
        others = self._addresses.node_addresses().keys() | self._routes.others()
        routes = {address: RouteRow(str(AddressRow(address)), sources[family_of(address)]) for address in bound}
        added = [Op(Verb.ADD, row) for address, row in routes.items() if not others & {address, row.network}]
        failed = {failure.op.row for failure in self._routes.write(added)}
        self._addresses.write([Op(Verb.DELETE, AddressRow(a)) for a, route in routes.items() if route not in failed])

    def _own_address(self, family: Family) -> Address:
        """What the kernel gives to connections of this node's processes; "" if the node has none of this family."""
        own = [address for address in self._addresses.node_addresses() if family_of(address) is family]
        kind, elsewhere = _ELSEWHERE[family]
        try:
            with socket.socket(kind, socket.SOCK_DGRAM) as probe:
                probe.connect((elsewhere, 9))  # sends nothing
                chosen = parse_address(probe.getsockname()[0])
        except OSError:
            chosen = Address("")
        return chosen if chosen in own else next(iter(sorted(own)), Address(""))

    def _withdraw(self) -> None:
        """Addresses, and routes of whatever length."""
        self._routes.write([Op(Verb.DELETE, seen.row) for seen in list(self._routes.read(None))])
        if self._addresses.bound:
            self._addresses.write([Op(Verb.DELETE, AddressRow(address)) for address in sorted(self._addresses.bound)])
