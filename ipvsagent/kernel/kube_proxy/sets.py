"""The virtual servers that kube-proxy's own ipsets prove to be its (names: pkg/proxy/ipvs/ipset.go).

Its addresses on kube-ipvs0 prove most of them. Node ports, and load balancer or external addresses that another
interface has too, stand on other interfaces: those it notes in its sets alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ipvsagent.address import Address, Family, family_of, parse_address
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.ipvs.ownership import Ownership
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import SetMemberRow

_PREFIX = {Family.IPV4: "KUBE-", Family.IPV6: "KUBE-6-"}
_PLACES = ("CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL", "LOAD-BALANCER", "LOAD-BALANCER-LOCAL")
_NODE_PORTS = {"NODE-PORT-TCP": Protocol.TCP, "NODE-PORT-UDP": Protocol.UDP}
_NODE_PLACES = "NODE-PORT-SCTP-HASH"

KINDS = {
    f"{prefix}{noun}": "bitmap:port" if noun in _NODE_PORTS else "hash:ip,port"
    for prefix in _PREFIX.values()
    for noun in (*_PLACES, *_NODE_PORTS, _NODE_PLACES)
}
"""What each of these sets is; one of another kind is not kube-proxy's."""


def claim_kube_proxy_servers(ownership: Ownership, sets: SetTable, addresses: AddressTable) -> None:
    """Take as ours, until they are adopted, the virtual servers that kube-proxy's sets show to be its."""
    rows = sets.others(KINDS)
    ownership.kube_proxy_servers = proved(rows, addresses.node_addresses()) if rows else ()


def proved(rows: Iterable[SetMemberRow], node_addresses: Collection[Address]) -> frozenset[VirtualServerId]:
    """rows: members of its sets. node_addresses: of this node, on other interfaces than ours."""
    found = set()
    for row in rows:
        family = Family.IPV6 if row.set.startswith(_PREFIX[Family.IPV6]) else Family.IPV4
        protocol = _NODE_PORTS.get(row.set.removeprefix(_PREFIX[family]))
        if protocol:
            port = int(row.member)
            found |= {VirtualServerId(protocol, a, port) for a in node_addresses if family_of(a) is family}
        elif server := _place(row.member.partition(" ")[0]):
            found.add(server)
    return frozenset(found)


def _place(member: str) -> VirtualServerId | None:
    """`10.96.0.1,tcp:80`; None if it is of a protocol that Services do not have."""
    address, _, rest = member.rpartition(",")
    protocol, _, port = rest.partition(":")
    try:
        return VirtualServerId(Protocol(protocol.upper()), parse_address(address), int(port))
    except ValueError:
        return None
