"""Keeps the source ports of this node's own connections out of the node ports: net.ipv4.ip_local_reserved_ports.

IPVS looks at every packet that comes in for an address of the node. The answer to a connection of the node itself that
goes out from port 30080, say, has that port as its destination; where it is a node port, the SYN-ACK (or a datagram) is
scheduled to an endpoint as a new connection (tcp_conn_schedule(), net/netfilter/ipvs/ip_vs_proto_tcp.c), and the node
waits until it times out. The kernel takes no reserved port by itself, for IPv4 and IPv6, TCP, UDP and SCTP; a program
that names its port in bind() gets it all the same.

iptables needs none of this: connection tracking knows the answer, and rules of nat see first packets alone.
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
"""Ephemeral ports that have to be left: so many connections can a node have at once to one port of one server. Node
ports "1-65535", as some have them, would leave none, and no program of the node could connect to anything."""
_ROOM = 1 << 19  # 65536 ports as a list are less; what does not fit into one read is never told


class SourcePorts(Struct, frozen=True):
    """What the node's own connections may have as source ports. ephemeral: None = the kernel does not say.

    missing: how many node ports are not reserved. clashing: how many of these the kernel takes for connections.
    left: how many it would still have if all were reserved. reserved: what would be then, as sysctl(8) takes it.
    """

    wanted: PortRange
    ephemeral: PortRange | None
    missing: int
    clashing: int
    left: int
    reserved: str
    writable: bool

    @property
    def crowded(self) -> bool:
        """To reserve them is worse than not to."""
        return self.clashing > 0 and self.left < LEAST_LEFT

    @property
    def summary(self) -> str:
        if not self.clashing:
            return f"no connection of this node has a source port among the node ports {self.wanted}"
        return (
            f"{self.clashing} of the node ports {self.wanted} are source ports of this node's own connections "
            f"({self.ephemeral}), too, which time out from a port where a node port is served"
        )

    @property
    def remedy(self) -> str:
        if self.crowded:
            return (
                f"To reserve them would leave {self.left} source ports: narrow --service-node-port-range and the API "
                f"server's, or move {EPHEMERAL} away from it"
            )
        return f"Run on the host `sysctl -w {RESERVED}={self.reserved}`"


def parse_ports(text: str) -> frozenset[int]:
    """The kernel's list, `80,30000-32767`. Raises ValueError."""
    ports: set[int] = set()
    for word in text.replace(",", " ").split():
        first, _, last = word.partition("-")
        ports.update(range(int(first), int(last or first) + 1))
    return frozenset(ports)


def write_ports(ports: Iterable[int]) -> str:
    """As the kernel writes the list: in order, neighbours as a range."""
    ranges: list[list[int]] = []
    for port in sorted(ports):
        if ranges and ranges[-1][1] == port - 1:
            ranges[-1][1] = port
        else:
            ranges.append([port, port])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def source_ports(wanted: PortRange) -> SourcePorts:
    """As it is now; only reads."""
    reserved, ephemeral = _reserved(), _ephemeral()
    taken = set(ephemeral.ports if ephemeral else ()) - reserved
    missing = set(wanted.ports) - reserved
    return SourcePorts(
        wanted=wanted,
        ephemeral=ephemeral,
        missing=len(missing),
        clashing=len(missing & taken),
        left=len(taken - missing),
        reserved=write_ports(reserved | missing),
        writable=is_writable(RESERVED),
    )


class ReservedPorts:
    """Reserves node ports, and notes in a file which of them nobody else had reserved, so that these alone go."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def holds(self, wanted: PortRange) -> bool:
        return _reserved().issuperset(wanted.ports)

    def reserve(self, wanted: PortRange) -> tuple[Finding, ...]:
        """Reserves all of them, also those that are no ephemeral ports: an administrator may widen that range later.
        What was reserved for another range before goes. A finding if it cannot be done and is needed now."""
        now = source_ports(wanted)
        if now.crowded:
            return (_cannot("are not reserved", now),)
        reserved, ours = _reserved(), self._noted()
        missing = frozenset(wanted.ports) - reserved
        gone = ours.difference(wanted.ports)
        if not missing and not gone:
            return ()
        self._note(ours | missing)  # first: who is killed in between leaves nothing that is not known
        try:
            _write(reserved - gone | missing)
        except OSError as error:
            self._note(ours)
            return (_cannot(f"cannot be reserved ({error.strerror})", now),) if now.clashing else ()
        self._note((ours | missing) - gone)
        return ()

    def try_restore(self) -> tuple[Finding, ...]:
        """As `restore`; what could not be put back is a finding."""
        try:
            self.restore()
        except OSError as error:
            reason = f"{write_ports(self._noted())} cannot be taken out of it again ({error.strerror}); tried again"
            return (Finding(FindingKind.HOST, RESERVED, reason),)
        return ()

    def restore(self) -> None:
        """Takes out what was added, and nothing else. Raises OSError."""
        ours = self._noted()
        if ours and ours & (reserved := _reserved()):
            _write(reserved - ours)
        self._path.unlink(missing_ok=True)

    def _note(self, ports: frozenset[int]) -> None:
        with contextlib.suppress(OSError):  # then cleanup leaves them reserved, which harms nobody
            if not ports:
                self._path.unlink(missing_ok=True)
                return
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.write_text(f"{write_ports(ports)}\n")

    def _noted(self) -> frozenset[int]:
        try:
            return parse_ports(self._path.read_text())
        except (OSError, ValueError):
            return frozenset()


def _cannot(what: str, now: SourcePorts) -> Finding:
    return Finding(FindingKind.HOST, RESERVED, f"node ports {what}: {now.summary}. {now.remedy}")


def _reserved() -> frozenset[int]:
    try:
        with sysctl_path(RESERVED).open("rb", buffering=0) as file:
            return parse_ports((file.read(_ROOM) or b"").decode())
    except OSError:
        return frozenset()


def _ephemeral() -> PortRange | None:
    try:
        first, last = map(int, sysctl_path(EPHEMERAL).read_text().split())
    except (OSError, ValueError):
        return None
    return PortRange(first, last)


def _write(ports: frozenset[int]) -> None:
    sysctl_path(RESERVED).write_text(f"{write_ports(ports)}\n")
