"""What the IPVS backend left on a node that is on iptables now.

New connections meet the rules of nat first and never come to IPVS; those that IPVS has go on there, as long as their
virtual server and its address stay. So a virtual server goes when it has no connections any more, or when the drain
timeout is over, and its address with the last one on it.

Before Services are served, bound addresses become local routes that name the node's own address as the source: a
process of this node would else take the Service's address for its own, and lose its new connection with that address.
Which addresses a connection by firewall mark has cannot be told, so with the last of those go all of them.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterator

from ipvsagent.address import Address, Family, family_of, parse_address
from ipvsagent.config import Config
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel import host
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.ipset import SetTable
from ipvsagent.kernel.ipvs import IpvsTable
from ipvsagent.kernel.ownership import Ledger, Ownership
from ipvsagent.kernel.service_routes import RouteTable
from ipvsagent.model import Protocol
from ipvsagent.render.members import VIP_SETS
from ipvsagent.rows import AddressRow, Observed, Op, Owner, RealServerRow, RouteRow, Verb, VirtualServerRow

_LOOK_AGAIN_AFTER = 10.0
"""Times what the last look took: it reads every virtual server."""
_ELSEWHERE = {
    Family.IPV4: (socket.AF_INET, "198.51.100.1"),
    Family.IPV6: (socket.AF_INET6, "2001:db8::1"),
}
"""Addresses for documentation: the way there is the way to anywhere."""


class Retirement:
    """ledger: of the IPVS backend. Makes no difference to connections before `look`. Raises StartError, KernelError."""

    def __init__(self, config: Config, addresses: AddressTable, ledger: Ledger) -> None:
        if addresses.has_interface():
            addresses.ensure_interface()  # or its addresses are none of ours
        self._config = config
        self._addresses = addresses
        self._routes = RouteTable(addresses)
        self._deadline: float | None = None
        self._due = 0.0
        self._ipvs: IpvsTable | None = None
        list(addresses.read(None))
        list(self._routes.read(None))
        if host.ip_vs_presence() is host.IpvsPresence.PRESENT:
            ownership = Ownership(ledger, addresses.bound, map(str, config.excluded), self._routes.networks)
            self._ipvs = IpvsTable(ownership)
            ownership.adopt([row.id for row, _ in self._servers()])
        self.left = sum(1 for _ in self._servers())
        self._deliver_by_routes()

    def look(self, now: float) -> bool:
        """Takes away what may go; True once nothing is left. Not before the rules of nat are there."""
        if self._deadline is None:
            self._deadline = now + self._config.drain_timeout
        if now < self._due:
            return False
        began = time.monotonic()
        ops: list[Op] = []
        kept: set[Address] = set()
        marked = False
        self.left = 0
        for row, connections in self._servers():
            if connections and now < self._deadline:
                self.left += 1
                kept.add(row.id.address)
                marked |= row.id.protocol is Protocol.FWM
            else:
                ops.append(Op(Verb.DELETE, row))
        if self._ipvs and ops:
            self._ipvs.write(ops)
        if not marked:
            self._withdraw(kept)
        if not self.left and self._ipvs:
            self._ipvs.close()
            self._ipvs = None
        self._due = now + (time.monotonic() - began) * _LOOK_AGAIN_AFTER
        return not self.left

    def end(self, sets: SetTable) -> None:
        """When its rules are gone, too, which ask these sets."""
        sets.write([Op(Verb.DELETE, row) for row in sets.members(VIP_SETS)])
        self._addresses.remove_interface()
        self._routes.close()

    def findings(self) -> tuple[Finding, ...]:
        if not self.left:
            return ()
        reason = (
            f"{self.left} virtual servers of IPVS, which this node used before, still have connections; each goes when "
            f"they have ended, all in {self._config.drain_timeout:.0f} s"
        )
        return (Finding(FindingKind.FALLBACK, "IPVS", reason),)

    def _servers(self) -> Iterator[tuple[VirtualServerRow, int]]:
        """Ours, each with its connections."""
        if self._ipvs is None:
            return
        server: VirtualServerRow | None = None
        connections = 0
        for seen in self._ipvs.read(None):
            if isinstance(seen.row, VirtualServerRow):
                if server:
                    yield server, connections
                server = seen.row if _is_ours(seen) else None
                connections = 0
            elif isinstance(seen.row, RealServerRow):
                connections += seen.active + seen.inactive
        if server:
            yield server, connections

    def _deliver_by_routes(self) -> None:
        """There is no moment in which an address is not local, so that no connection notices."""
        bound = sorted(self._addresses.bound)
        sources = {family: self._own_address(family) for family in {family_of(address) for address in bound}}
        routes = {address: RouteRow(_network(address), sources[family_of(address)]) for address in bound}
        failed = {failure.op.row for failure in self._routes.write([Op(Verb.ADD, row) for row in routes.values()])}
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

    def _withdraw(self, kept: set[Address]) -> None:
        """Addresses, and routes of whatever length, that no connection needs."""
        needed = [ipaddress.ip_address(address) for address in kept]
        singles = {_network(address) for address in kept}
        gone: list[Op] = []
        for seen in list(self._routes.read(None)):
            assert isinstance(seen.row, RouteRow)
            network = ipaddress.ip_network(seen.row.network)
            is_single = network.prefixlen == network.max_prefixlen
            used = seen.row.network in singles if is_single else any(address in network for address in needed)
            if not used:
                gone.append(Op(Verb.DELETE, seen.row))
        self._routes.write(gone)
        unbound = self._addresses.bound - kept
        if unbound:
            self._addresses.write([Op(Verb.DELETE, AddressRow(address)) for address in sorted(unbound)])


def _network(address: Address) -> str:
    return f"{address}/{128 if family_of(address) is Family.IPV6 else 32}"


def _is_ours(seen: Observed) -> bool:
    return seen.owner is Owner.OURS
