"""Finds the virtual servers of kube-proxy in its own ipsets (names: pkg/proxy/ipvs/ipset.go).

Most of its virtual servers are known by their addresses on kube-ipvs0. Node ports, and load balancer or external
addresses that another interface has as well, are on other interfaces: only the sets show which of those are
kube-proxy's.
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
_VIP_SETS = ("CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL", "LOAD-BALANCER", "LOAD-BALANCER-LOCAL")
_NODE_PORTS = {"NODE-PORT-TCP": Protocol.TCP, "NODE-PORT-UDP": Protocol.UDP}
_NODE_SCTP = "NODE-PORT-SCTP-HASH"

SET_TYPES = {
    f"{prefix}{noun}": "bitmap:port" if noun in _NODE_PORTS else "hash:ip,port"
    for prefix in _PREFIX.values()
    for noun in (*_VIP_SETS, *_NODE_PORTS, _NODE_SCTP)
}
"""The type of each set; a set of another type is not kube-proxy's."""


def claim_kube_proxy_servers(ownership: Ownership, sets: SetTable, addresses: AddressTable) -> None:
    """Claim the virtual servers in kube-proxy's sets as ours until they are adopted."""
    rows = sets.others(SET_TYPES)
    ownership.kube_proxy_servers = kube_proxy_servers(rows, addresses.node_addresses()) if rows else ()


def kube_proxy_servers(rows: Iterable[SetMemberRow], node_addresses: Collection[Address]) -> frozenset[VirtualServerId]:
    """Return the virtual servers that these members of its sets stand for. node_addresses: those of this node on other
    interfaces than ours."""
    found = set()
    for row in rows:
        family = Family.IPV6 if row.set.startswith(_PREFIX[Family.IPV6]) else Family.IPV4
        protocol = _NODE_PORTS.get(row.set.removeprefix(_PREFIX[family]))
        if protocol:
            port = int(row.member)
            found |= {VirtualServerId(protocol, a, port) for a in node_addresses if family_of(a) is family}
        elif server := _parse_member(row.member.partition(" ")[0]):
            found.add(server)
    return frozenset(found)


def _parse_member(member: str) -> VirtualServerId | None:
    """Parse `10.96.0.1,tcp:80`; return None for a protocol that Services do not have."""
    address, _, rest = member.rpartition(",")
    protocol, _, port = rest.partition(":")
    try:
        return VirtualServerId(Protocol(protocol.upper()), parse_address(address), int(port))
    except ValueError:
        return None
