"""Keeps node ports from being source ports of the node's own connections: net.ipv4.ip_local_reserved_ports.

IPVS examines every packet that arrives for an address of the node. Say the node itself connects from port 30080: the
answer has that port as its destination. If it is a node port, IPVS schedules the SYN-ACK (or datagram) to an endpoint
as a new connection (tcp_conn_schedule(), net/netfilter/ipvs/ip_vs_proto_tcp.c), and the node's connection times out.
The kernel does not choose a reserved port as a source port, for IPv4 and IPv6, TCP, UDP and SCTP. A program that names
a reserved port in bind() still gets it.

The iptables backend does not need this: connection tracking recognizes the answer, and rules of nat apply to the first
packet of a connection only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from ipvsagent.config import PortRange
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel.sysctls import is_writable, sysctl_path

RESERVED = "net.ipv4.ip_local_reserved_ports"
EPHEMERAL = "net.ipv4.ip_local_port_range"
LEAST_LEFT = 1024
"""Ephemeral ports that must remain: they limit how many connections the node can have to one port of one server. A
range of node ports such as 1-65535 would leave none, and no program of the node could connect to anything."""
_READ_SIZE = 1 << 19  # more than all 65536 ports in text: the kernel returns only what fits into the first read


class SourcePorts(Struct, frozen=True):
    """Compares the node ports with the source ports of the node's own connections."""

    node_ports: PortRange
    ephemeral: PortRange | None
    """None = the kernel does not report it."""
    missing: int
    """How many node ports are not reserved."""
    clashing: int
    """How many of these the kernel uses as source ports."""
    left: int
    """How many source ports would be left if all node ports were reserved."""
    reserved: str
    """The value of the sysctl if all node ports were reserved."""
    writable: bool
    """Whether this process may write the sysctl."""

    @property
    def crowded(self) -> bool:
        """Return whether reserving the node ports would do more harm than good, because too few source ports would be
        left."""
        return self.clashing > 0 and self.left < LEAST_LEFT

    @property
    def summary(self) -> str:
        if not self.clashing:
            return f"no connection of this node has a source port among the node ports {self.node_ports}"
        return (
            f"{self.clashing} of the node ports {self.node_ports} are source ports of this node's own connections "
            f"({self.ephemeral}), too; a connection from a port that serves a Service times out"
        )

    @property
    def remedy(self) -> str:
        if self.crowded:
            return (
                f"Reserving them would leave {self.left} source ports: narrow --service-node-port-range and that of "
                f"the API server, or move {EPHEMERAL}"
            )
        return f"Run on the host `sysctl -w {RESERVED}={self.reserved}`"


def parse_ports(text: str) -> frozenset[int]:
    """Parse the kernel's list, such as `80,30000-32767`. Raises ValueError."""
    ports: set[int] = set()
    for word in text.replace(",", " ").split():
        first, _, last = word.partition("-")
        ports.update(range(int(first), int(last or first) + 1))
    return frozenset(ports)


def format_ports(ports: Iterable[int]) -> str:
    """Format ports as the kernel does: in order, adjacent ports as a range."""
    ranges: list[list[int]] = []
    for port in sorted(ports):
        if ranges and ranges[-1][1] == port - 1:
            ranges[-1][1] = port
        else:
            ranges.append([port, port])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def source_ports(node_ports: PortRange) -> SourcePorts:
    """Compare the node ports with the current settings. This only reads."""
    reserved, ephemeral = _reserved(), _ephemeral()
    usable = set(ephemeral.ports if ephemeral else ()) - reserved
    missing = set(node_ports.ports) - reserved
    return SourcePorts(
        node_ports=node_ports,
        ephemeral=ephemeral,
        missing=len(missing),
        clashing=len(missing & usable),
        left=len(usable - missing),
        reserved=format_ports(reserved | missing),
        writable=is_writable(RESERVED),
    )


class ReservedPorts:
    """Reserves node ports. A file records which of them no other program had reserved; only these are released
    again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def holds(self, node_ports: PortRange) -> bool:
        return _reserved().issuperset(node_ports.ports)

    def reserve(self, node_ports: PortRange) -> tuple[Finding, ...]:
        """Reserve all node ports, also those outside the ephemeral range, which an administrator may widen later.
        Release what was reserved for a previous range. Return a finding if this is needed now and cannot be done."""
        now = source_ports(node_ports)
        if now.crowded:
            return (_cannot("are not reserved", now),)
        reserved, ours = _reserved(), self._recorded()
        missing = frozenset(node_ports.ports) - reserved
        gone = ours.difference(node_ports.ports)
        if not missing and not gone:
            return ()
        self._record(ours | missing)  # first, so that an agent killed in between leaves no port that is not recorded
        try:
            _write(reserved - gone | missing)
        except OSError as error:
            self._record(ours)
            return (_cannot(f"cannot be reserved ({error.strerror})", now),) if now.clashing else ()
        self._record((ours | missing) - gone)
        return ()

    def try_restore(self) -> tuple[Finding, ...]:
        """Call `restore`. Return a finding if it failed."""
        try:
            self.restore()
        except OSError as error:
            reason = f"{format_ports(self._recorded())} cannot be removed from it ({error.strerror}); it is tried again"
            return (Finding(FindingKind.HOST, RESERVED, reason),)
        return ()

    def restore(self) -> None:
        """Release the ports that this agent reserved. Raises OSError."""
        ours = self._recorded()
        if ours and ours & (reserved := _reserved()):
            _write(reserved - ours)
        self._path.unlink(missing_ok=True)

    def _record(self, ports: frozenset[int]) -> None:
        with contextlib.suppress(OSError):  # cleanup then leaves them reserved, which does no harm
            if not ports:
                self._path.unlink(missing_ok=True)
                return
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.write_text(f"{format_ports(ports)}\n")

    def _recorded(self) -> frozenset[int]:
        try:
            return parse_ports(self._path.read_text())
        except (OSError, ValueError):
            return frozenset()


def _cannot(what: str, now: SourcePorts) -> Finding:
    return Finding(FindingKind.HOST, RESERVED, f"node ports {what}: {now.summary}. {now.remedy}")


def _reserved() -> frozenset[int]:
    try:
        with sysctl_path(RESERVED).open("rb", buffering=0) as file:
            return parse_ports((file.read(_READ_SIZE) or b"").decode())
    except OSError:
        return frozenset()


def _ephemeral() -> PortRange | None:
    try:
        first, last = map(int, sysctl_path(EPHEMERAL).read_text().split())
    except (OSError, ValueError):
        return None
    return PortRange(first, last)


def _write(ports: frozenset[int]) -> None:
    sysctl_path(RESERVED).write_text(f"{format_ports(ports)}\n")
