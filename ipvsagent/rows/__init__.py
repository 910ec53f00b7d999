"""Kernel rows, operations on them, and the one diff.

A `Row` is something a kernel table holds: a virtual server, a real server, a bound address. `str(row)` is
the line that the operator's own tool would print (`ipvsadm -Sn`, `ip address`), and `str(op)` is what `plan` prints
and what a failure quotes. Rows are made while a change is in flight and dropped afterwards; what is kept are
`VirtualServer`s.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import Protocol as TypingProtocol

from msgspec import Struct

from ipvsagent.address import Address, Family, endpoint_text
from ipvsagent.errors import KernelError
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows.nat_chains import ChainsRow, chains_command
from ipvsagent.rows.packet_rules import INSIDE

PERSISTENT = 0x1
HASHED = 0x2
ONE_PACKET = 0x4
SCHED1, SCHED2, SCHED3 = 0x8, 0x10, 0x20
SCHEDULER_FLAGS = SCHED1 | SCHED2 | SCHED3

_FLAG_NAMES = {
    "sh": {SCHED1: "sh-fallback", SCHED2: "sh-port", SCHED3: "flag-3"},
    "mh": {SCHED1: "mh-fallback", SCHED2: "mh-port", SCHED3: "flag-3"},
}
_OTHER_FLAG_NAMES = {SCHED1: "flag-1", SCHED2: "flag-2", SCHED3: "flag-3"}
_SERVICE_OPTION = {Protocol.TCP: "-t", Protocol.UDP: "-u", Protocol.SCTP: "--sctp-service", Protocol.FWM: "-f"}
FULL_MASK = 0xFFFFFFFF
FULL_PREFIX = 128


def scheduler_flag_names(scheduler: str, flags: int) -> list[str]:
    """The names that ipvsadm gives to the scheduler bits of `flags`, in its order."""
    names = _FLAG_NAMES.get(scheduler, _OTHER_FLAG_NAMES)
    return [name for bit, name in names.items() if flags & bit]


def service_option(server: VirtualServerId) -> str:
    """`-t 10.0.0.1:80`, as ipvsadm names a virtual server on its command line."""
    option = _SERVICE_OPTION[server.protocol]
    if server.protocol is Protocol.FWM:
        return f"{option} {server.port}{' -6' if server.family is Family.IPV6 else ''}"
    return f"{option} {endpoint_text(server.address, server.port)}"


class VirtualServerRow(Struct, frozen=True, gc=False):
    """A virtual server as IPVS holds it.

    flags: IP_VS_SVC_F_* without HASHED, which the kernel sets itself. timeout: seconds, of persistence.
    mask: what one persistent client is: for IPv4 a 32-bit mask in host order, for IPv6 a prefix length.
    """

    id: VirtualServerId
    scheduler: str
    flags: int = 0
    timeout: int = 0
    mask: int = FULL_MASK
    pe_name: str = ""

    @property
    def key(self) -> VirtualServerId:
        return self.id

    def __str__(self) -> str:
        words = [f"-A {service_option(self.id)} -s {self.scheduler}"]
        if self.flags & PERSISTENT:
            words.append(f"-p {self.timeout}")
            if self.id.family is Family.IPV4 and self.mask != FULL_MASK:
                words.append("-M " + ".".join(str(self.mask >> s & 255) for s in (24, 16, 8, 0)))
            elif self.id.family is Family.IPV6 and self.mask != FULL_PREFIX:
                words.append(f"-M {self.mask}")
        if self.pe_name:
            words.append(f"--pe {self.pe_name}")
        if self.flags & ONE_PACKET:
            words.append("-o")
        if self.flags & SCHEDULER_FLAGS:
            words.append("-b " + ",".join(scheduler_flag_names(self.scheduler, self.flags)))
        return " ".join(words)


class Tunnel(Struct, frozen=True, gc=False):
    """How a TUNNEL real server is reached. kind: 0 ipip, 1 gue, 2 gre. flags: 0 none, 1 checksum, 2 remote checksum."""

    kind: int = 0
    port: int = 0
    flags: int = 0


def tunnel_options(tunnel: Tunnel) -> str:
    """Its options for ipvsadm, each with a space before it. What ipvsadm has no option for gets none."""
    if tunnel.kind == 0:
        return " --tun-type ipip"
    checksum = {0: " --tun-nocsum", 1: " --tun-csum", 2: " --tun-remcsum"}.get(tunnel.flags, "")
    if tunnel.kind == 1:
        return f" --tun-type gue --tun-port {tunnel.port}{checksum}"
    return f" --tun-type gre{checksum}" if tunnel.kind == 2 else ""


class RealServerRow(Struct, frozen=True, gc=False):
    """A real server as IPVS holds it. Thresholds are numbers of connections, 0 = none."""

    server: VirtualServerId
    address: Address
    port: int
    weight: int = 1
    forwarding: Forwarding = Forwarding.MASQUERADE
    upper_threshold: int = 0
    lower_threshold: int = 0
    tunnel: Tunnel | None = None

    @property
    def key(self) -> tuple[Address, int]:
        """Identity within its virtual server."""
        return (self.address, self.port)

    def __str__(self) -> str:
        method = {Forwarding.MASQUERADE: "-m", Forwarding.TUNNEL: "-i"}.get(self.forwarding, "-g")
        line = f"-a {service_option(self.server)} -r {endpoint_text(self.address, self.port)} {method} -w {self.weight}"
        if self.tunnel and self.forwarding is Forwarding.TUNNEL:
            line += tunnel_options(self.tunnel)
        return line


class AddressRow(Struct, frozen=True, gc=False):
    """An address on our interface, always /32 or /128."""

    address: Address

    @property
    def key(self) -> Address:
        return self.address

    def __str__(self) -> str:
        return f"{self.address}/{128 if ':' in self.address else 32}"


class SetSpec(Struct, frozen=True, gc=False):
    """An ipset of ours. kind: as ipset names it, `hash:ip,port`. max_elements: what fits; more is refused, loudly.

    skbinfo: members may carry a packet mark, as `10.96.0.1,tcp:80 skbmark 0x10100000/0x1ff00000`.
    timeout: seconds that a member stays, unless who adds it says otherwise; 0 = for good.
    """

    name: str
    kind: str
    family: Family
    max_elements: int = 1 << 20
    skbinfo: bool = False
    timeout: int = 0

    def __str__(self) -> str:
        family = "inet6" if self.family is Family.IPV6 else "inet"
        options = (" skbinfo" if self.skbinfo else "") + (f" timeout {self.timeout}" if self.timeout else "")
        return f"create {self.name} {self.kind} family {family} maxelem {self.max_elements}{options}"


class SetMemberRow(Struct, frozen=True, gc=False, order=True):
    """A member of one of our ipsets, as `ipset save` prints it: `10.96.0.1,tcp:80`, `10.96.0.1`,
    `10.96.0.1,tcp:80,10.0.0.0/8`; canonical, so that equal members are equal texts (a full prefix is left out)."""

    set: str
    member: str

    @property
    def key(self) -> SetMemberRow:
        return self

    def __str__(self) -> str:
        return f"add {self.set} {self.member}"


class RouteRow(Struct, frozen=True, gc=False, order=True):
    """A range of Service addresses that is local to this node by a route.

    network: canonical, `10.96.0.0/16`. source: what this node's processes take as their own address, "" = the Service
    address itself.
    """

    network: str
    source: Address = Address("")

    @property
    def key(self) -> RouteRow:
        return self

    def __str__(self) -> str:
        source = f" src {self.source}" if self.source else ""
        return f"local {self.network} dev lo table local proto 119{source}"


class TranslationRow(Struct, frozen=True, gc=False, order=True):
    """Clients on this node are translated from one address and port to another one, where IPVS has all endpoints."""

    source: VirtualServerId
    target: VirtualServerId

    @property
    def key(self) -> TranslationRow:
        return self

    @property
    def rule(self) -> str:
        """As iptables takes it after the name of the chain."""
        protocol = self.source.protocol.lower()
        target = endpoint_text(self.target.address, self.target.port)
        match = f"-d {AddressRow(self.source.address)} -p {protocol} -m {protocol} --dport {self.source.port}"
        return f"{match} -j DNAT --to-destination {target}"

    def __str__(self) -> str:
        return f"{self.source} for clients on this node"


SharedRow = AddressRow | SetMemberRow | RouteRow | TranslationRow
Row = VirtualServerRow | RealServerRow | ChainsRow | AddressRow | SetMemberRow | RouteRow | TranslationRow


class Verb(StrEnum):
    ADD = "add"
    SET = "set"
    DELETE = "delete"


_IPVSADM_VERB = {
    (VirtualServerRow, Verb.ADD): "-A",
    (VirtualServerRow, Verb.SET): "-E",
    (VirtualServerRow, Verb.DELETE): "-D",
    (RealServerRow, Verb.ADD): "-a",
    (RealServerRow, Verb.SET): "-e",
    (RealServerRow, Verb.DELETE): "-d",
}


class Op(Struct, frozen=True, gc=False):
    """One change to one row."""

    verb: Verb
    row: Row

    def __str__(self) -> str:
        """The command that would do it: arguments of ipvsadm, or of `ip address`."""
        row = self.row
        if isinstance(row, ChainsRow):
            return chains_command(self.verb.value, row)
        if isinstance(row, AddressRow):
            return f"ip address {self.verb} {row}"
        if isinstance(row, RouteRow):
            return f"ip route {'delete' if self.verb is Verb.DELETE else 'replace'} {row}"
        if isinstance(row, TranslationRow):
            tool = "ip6tables" if row.source.family is Family.IPV6 else "iptables"
            verb = "-D" if self.verb is Verb.DELETE else "-A"
            return f"{tool} -t nat {verb} {INSIDE} {row.rule}"
        if isinstance(row, SetMemberRow):
            return f"ipset {'del' if self.verb is Verb.DELETE else 'add'} {row.set} {row.member}"
        option = _IPVSADM_VERB[type(row), self.verb]
        if self.verb is not Verb.DELETE:
            return f"ipvsadm {option}{str(row)[2:]}"
        if isinstance(row, VirtualServerRow):
            return f"ipvsadm {option} {service_option(row.id)}"
        return f"ipvsadm {option} {service_option(row.server)} -r {endpoint_text(row.address, row.port)}"


class Failure(Struct, frozen=True):
    """An op that the kernel refused, and why."""

    op: Op
    error: KernelError


class Owner(StrEnum):
    """Whose a row is. Only OURS enters the diff; FOREIGN rows are listed and never touched."""

    OURS = "ours"
    FOREIGN = "foreign"


class Counters(Struct, frozen=True, gc=False):
    """IPVS statistics: totals since the virtual or real server exists, then rates per second."""

    connections: int = 0
    in_packets: int = 0
    out_packets: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    cps: int = 0
    in_pps: int = 0
    out_pps: int = 0
    in_bps: int = 0
    out_bps: int = 0


class Observed(Struct, frozen=True, gc=False):
    """A row that a kernel table holds, with its owner and, for real servers, its connections."""

    row: Row
    owner: Owner = Owner.OURS
    active: int = 0
    inactive: int = 0
    persistent: int = 0
    counters: Counters | None = None


Keys = (
    Collection[VirtualServerId]
    | Collection[Address]
    | Collection[SetMemberRow]
    | Collection[RouteRow]
    | Collection[TranslationRow]
    | None
)
"""What `KernelTable.read` may be asked for; None = everything."""


class KernelTable(TypingProtocol):
    """One kind of kernel state. The fake and the real kernel both are this.

    read(None) yields everything the table holds, foreign rows included; read(keys) only what is asked for:
    `VirtualServerId`s for ipvs (each with its real servers), `Address`es for addresses, `SetMemberRow`s for sets,
    `RouteRow`s for routes, `TranslationRow`s for translations.
    What is absent is simply not yielded. Raises KernelError only if the table as a whole cannot be read.

    write(ops) applies ops in order, goes on after a failure, and returns the failures. A DELETE of what is
    not there succeeds.
    """

    def read(self, keys: Keys) -> Iterable[Observed]: ...

    def write(self, ops: Sequence[Op]) -> list[Failure]: ...


def diff(held: Iterable[Row], wanted: Iterable[Row]) -> list[Op]:
    """Ops that turn the held rows of one virtual server into the wanted ones, additions before removals.

    Keys are unique on each side. Real servers go with their virtual server, so only its deletion is an op.
    """
    before = {row.key: row for row in held}
    if not before:
        return [Op(Verb.ADD, row) for row in wanted]
    ops = []
    for row in wanted:
        old = before.pop(row.key, None)
        if old is None:
            ops.append(Op(Verb.ADD, row))
        elif old != row:
            ops.append(Op(Verb.SET, row))
    whole = any(type(row) is VirtualServerRow for row in before.values())
    ops.extend([Op(Verb.DELETE, row) for row in before.values() if not (whole and type(row) is RealServerRow)])
    return ops


_RANK: dict[tuple[type, Verb], int] = {
    (VirtualServerRow, Verb.ADD): 0,
    (VirtualServerRow, Verb.SET): 0,
    (ChainsRow, Verb.ADD): 0,
    (ChainsRow, Verb.SET): 0,
    (RealServerRow, Verb.ADD): 1,
    (RealServerRow, Verb.SET): 1,
    (SetMemberRow, Verb.ADD): 2,
    (TranslationRow, Verb.ADD): 2,
    (RouteRow, Verb.ADD): 3,
    (AddressRow, Verb.ADD): 3,
    (AddressRow, Verb.DELETE): 4,
    (RouteRow, Verb.DELETE): 4,
    (SetMemberRow, Verb.DELETE): 5,
    (TranslationRow, Verb.DELETE): 5,
    (RealServerRow, Verb.DELETE): 6,
    (VirtualServerRow, Verb.DELETE): 7,
    (ChainsRow, Verb.DELETE): 7,
}


def order(ops: Iterable[Op]) -> list[Op]:
    """Make before break: attract traffic last, release it first.

    A virtual server gets its real servers, and the packet filter its members, before its address is bound, and its
    address goes before anything else does; new real servers come before old ones leave, so that a full swap never
    passes through none.
    """
    return sorted(ops, key=lambda op: _RANK[type(op.row), op.verb])
