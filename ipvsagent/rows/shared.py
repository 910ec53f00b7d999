"""Defines rows that several virtual servers may need: addresses, members of ipsets, routes and translations.

Each has the address that it concerns (`about`), so that `plan` can name its Service.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from msgspec import Struct

from ipvsagent.address import Address, Family, endpoint_text
from ipvsagent.model import VirtualServerId
from ipvsagent.rows.packet_rules import INSIDE
from ipvsagent.rows.verb import Verb


class AddressRow(Struct, frozen=True, gc=False):
    """Describes an address on our interface, always /32 or /128."""

    noun: ClassVar[str] = "address"
    rank: ClassVar[Mapping[Verb, int]] = {Verb.ADD: 3, Verb.DELETE: 4}

    address: Address

    @property
    def key(self) -> Address:
        return self.address

    @property
    def about(self) -> Address:
        return self.address

    def command(self, verb: Verb) -> str:
        return f"ip address {verb} {self}"

    def __str__(self) -> str:
        return f"{self.address}/{128 if ':' in self.address else 32}"


class SetSpec(Struct, frozen=True, gc=False):
    """Describes an ipset of ours."""

    name: str
    kind: str
    """The type as ipset names it, `hash:ip,port`."""
    family: Family
    max_elements: int = 1 << 20
    """The most members that the kernel accepts."""
    skbinfo: bool = False
    """Members may have a packet mark, such as `10.96.0.1,tcp:80 skbmark 0x10100000/0x1ff00000`."""
    timeout: int = 0
    """Seconds after which a member expires, unless it was added with another timeout; 0 = never."""

    def __str__(self) -> str:
        family = "inet6" if self.family is Family.IPV6 else "inet"
        options = (" skbinfo" if self.skbinfo else "") + (f" timeout {self.timeout}" if self.timeout else "")
        return f"create {self.name} {self.kind} family {family} maxelem {self.max_elements}{options}"


class SetMemberRow(Struct, frozen=True, gc=False, order=True):
    """Describes a member of one of our ipsets, as `ipset save` prints it: `10.96.0.1,tcp:80`, `10.96.0.1`,
    `10.96.0.1,tcp:80,10.0.0.0/8`; canonical, so that equal members are equal texts (a full prefix is left out)."""

    noun: ClassVar[str] = "set member"
    rank: ClassVar[Mapping[Verb, int]] = {Verb.ADD: 2, Verb.DELETE: 5}

    set: str
    member: str

    @property
    def key(self) -> SetMemberRow:
        return self

    @property
    def about(self) -> Address:
        return Address(self.member.partition(",")[0])

    def command(self, verb: Verb) -> str:
        return f"ipset {'del' if verb is Verb.DELETE else 'add'} {self.set} {self.member}"

    def __str__(self) -> str:
        return f"add {self.set} {self.member}"


class RouteRow(Struct, frozen=True, gc=False, order=True):
    """Describes a range of Service addresses that a route makes local to this node."""

    noun: ClassVar[str] = "route"
    rank: ClassVar[Mapping[Verb, int]] = {Verb.ADD: 3, Verb.DELETE: 4}

    network: str
    """Canonical text, `10.96.0.0/16`."""
    source: Address = Address("")
    """The source address of this node's processes; "" = the Service address itself."""

    @property
    def key(self) -> RouteRow:
        return self

    @property
    def about(self) -> None:
        """Return None: a route concerns no single address."""

    def command(self, verb: Verb) -> str:
        return f"ip route {'delete' if verb is Verb.DELETE else 'replace'} {self}"

    def __str__(self) -> str:
        source = f" src {self.source}" if self.source else ""
        return f"local {self.network} dev lo table local proto 119{source}"


class TranslationRow(Struct, frozen=True, gc=False, order=True):
    """Describes a translation, for clients on this node, of one address and port to another where IPVS has all
    endpoints."""

    noun: ClassVar[str] = "translation"
    rank: ClassVar[Mapping[Verb, int]] = {Verb.ADD: 2, Verb.DELETE: 5}

    source: VirtualServerId
    target: VirtualServerId

    @property
    def key(self) -> TranslationRow:
        return self

    @property
    def rule(self) -> str:
        """Return the rule as iptables takes it after the name of the chain."""
        protocol = self.source.protocol.lower()
        target = endpoint_text(self.target.address, self.target.port)
        match = f"-d {AddressRow(self.source.address)} -p {protocol} -m {protocol} --dport {self.source.port}"
        return f"{match} -j DNAT --to-destination {target}"

    @property
    def about(self) -> Address:
        return self.source.address

    def command(self, verb: Verb) -> str:
        tool = "ip6tables" if self.source.family is Family.IPV6 else "iptables"
        return f"{tool} -t nat {'-D' if verb is Verb.DELETE else '-A'} {INSIDE} {self.rule}"

    def __str__(self) -> str:
        return f"{self.source} for clients on this node"


SharedRow = AddressRow | SetMemberRow | RouteRow | TranslationRow
