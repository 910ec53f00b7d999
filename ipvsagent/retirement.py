"""What the IPVS backend left on a node that is on iptables now.

New connections meet the rules of nat first and never come to IPVS; those that IPVS has go on there, as long as their
virtual server and its address stay. So a virtual server goes when it has no connections any more, or when the drain
timeout is over, and its address with the last one on it.
"""

from __future__ import annotations

from collections.abc import Iterator

from ipvsagent.address import Address
from ipvsagent.config import Config
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel import host
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.ipvs import IpvsTable
from ipvsagent.kernel.ownership import Ledger, Ownership
from ipvsagent.rows import AddressRow, Observed, Op, Owner, RealServerRow, Verb, VirtualServerRow


class Retirement:
    """ledger: of the IPVS backend. Raises StartError, KernelError."""

    def __init__(self, config: Config, addresses: AddressTable, ledger: Ledger) -> None:
        self._config = config
        self._addresses = addresses
        self._deadline: float | None = None
        self._ipvs: IpvsTable | None = None
        list(addresses.read(None))
        if host.ip_vs_presence() is host.IpvsPresence.PRESENT:
            self._ipvs = IpvsTable(Ownership(ledger, addresses.bound, map(str, config.excluded)))
        self.left = sum(1 for _ in self._servers())

    def look(self, now: float) -> bool:
        """Takes away what may go; True once nothing is left. Not before the rules of nat are there."""
        if self._deadline is None:
            self._deadline = now + self._config.drain_timeout
        ops: list[Op] = []
        kept: set[Address] = set()
        self.left = 0
        list(self._addresses.read(None))
        for row, connections in self._servers():
            if connections and now < self._deadline:
                self.left += 1
                kept.add(row.id.address)
            else:
                ops.append(Op(Verb.DELETE, row))
        if self._ipvs and ops:
            self._ipvs.write(ops)
        gone = self._addresses.bound - kept
        if gone:
            self._addresses.write([Op(Verb.DELETE, AddressRow(address)) for address in sorted(gone)])
        if not self.left:
            self._addresses.remove_interface()
            if self._ipvs:
                self._ipvs.close()
            self._ipvs = None
        return not self.left

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


def _is_ours(seen: Observed) -> bool:
    return seen.owner is Owner.OURS
