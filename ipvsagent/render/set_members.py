"""Renders the ipsets that the packet rules look up, and their members.

A virtual server has one member in each set, however many endpoints it has. Each set has addresses of one family; the
names of those for IPv6 contain a 6.

POD        hash:net           sources that count as pods of this node or cluster (detector ClusterCIDR, NodeCIDR)
HOME       hash:net           sources that count as pods of this node; as POD where these cannot be distinguished
VIP        hash:net           addresses on our interface, and ranges that our routes make local
SERVICE    hash:ip,port       every address and port that is served here
CLUSTER    hash:ip,port       of these, cluster IPs
EXTERNAL   hash:ip,port       of these, external ones whose clients are masqueraded (externalTrafficPolicy Cluster)
LIMITED    hash:ip,port       of these, those that only some sources may reach ...
RANGE      hash:ip,port,net   ... and these sources
EMPTY      hash:ip,port       of these, those without any endpoint: new connections are refused
SILENT     hash:ip,port       of these, those whose endpoints a Local policy excludes for all clients: dropped
INNER      hash:ip,port       of these, those whose endpoints a Local policy excludes for clients outside this node
INSIDE     hash:ip,port       of these, external ones with a Local policy: clients on this node are translated
HIDDEN     hash:ip,port       of these, ports of cluster IPs that only translated packets may reach
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache

from ipvsagent.address import Address, Family, family_of
from ipvsagent.config import Network
from ipvsagent.model import Frontend, VirtualServer, VirtualServerId, WhenEmpty
from ipvsagent.rows import SetMemberRow, SetSpec
from ipvsagent.source_ranges import networks_of

_PREFIX = {Family.IPV4: "IPVSAGENT-", Family.IPV6: "IPVSAGENT-6-"}
_KINDS = {
    "POD": "hash:net",
    "HOME": "hash:net",
    "VIP": "hash:net",
    "SERVICE": "hash:ip,port",
    "CLUSTER": "hash:ip,port",
    "EXTERNAL": "hash:ip,port",
    "LIMITED": "hash:ip,port",
    "RANGE": "hash:ip,port,net",
    "EMPTY": "hash:ip,port",
    "SILENT": "hash:ip,port",
    "INNER": "hash:ip,port",
    "INSIDE": "hash:ip,port",
    "HIDDEN": "hash:ip,port",
}


@lru_cache(maxsize=64)
def set_name(noun: str, family: Family) -> str:
    """Return the full name of a set."""
    return _PREFIX[family] + noun


VIP_SETS = tuple(set_name("VIP", family) for family in Family)


def set_specs() -> tuple[SetSpec, ...]:
    """Return all sets of both families."""
    return tuple(SetSpec(set_name(noun, family), kind, family) for family in Family for noun, kind in _KINDS.items())


def pod_members(networks: Iterable[Network], home: Iterable[Network]) -> tuple[SetMemberRow, ...]:
    """Return the members of POD and HOME. A network of prefix length 0 is two members, since a hash cannot hold it."""
    rows: list[SetMemberRow] = []
    for noun, network in [*(("POD", n) for n in networks), *(("HOME", n) for n in home)]:
        family = Family.IPV6 if network.version == 6 else Family.IPV4
        rows.extend(SetMemberRow(set_name(noun, family), text) for text in _net_texts(str(network)))
    return tuple(rows)


def health_check_members(addresses: Iterable[Address], ports: Sequence[int]) -> list[SetMemberRow]:
    """Return the members of SERVICE that let the health checks of load balancers pass a default-drop policy."""
    return [
        SetMemberRow(set_name("SERVICE", family_of(address)), f"{address},tcp:{port}")
        for address in addresses
        for port in ports
    ]


def routed_members(networks: Iterable[Network]) -> tuple[SetMemberRow, ...]:
    """Return the members of VIP for ranges, in which no address may expose the host's own sockets."""
    rows: list[SetMemberRow] = []
    for network in networks:
        family = Family.IPV6 if network.version == 6 else Family.IPV4
        rows.extend(SetMemberRow(set_name("VIP", family), text) for text in _net_texts(str(network)))
    return tuple(rows)


def members(server: VirtualServer) -> list[SetMemberRow]:
    """Return the members that a virtual server has."""
    server_id = server.id
    family = server_id.family
    place = _place_of(server_id)
    nouns = ["SERVICE"]
    if server.frontend is Frontend.CLUSTER_IP:
        nouns.append("CLUSTER")
    elif server.frontend is Frontend.NODE_CLIENTS:
        nouns += ["CLUSTER", "HIDDEN"]
    elif not server.preserve_client_address:
        nouns.append("EXTERNAL")
    if not server.real_servers:
        nouns.append("EMPTY" if server.when_empty is WhenEmpty.REFUSE else "SILENT")
    elif server.node_only:
        nouns.append("INNER")
    if server.inside:
        nouns.append("INSIDE")
    rows = [SetMemberRow(set_name(noun, family), place) for noun in nouns]
    if server.bind:
        rows.append(SetMemberRow(set_name("VIP", family), server_id.address))
    if server.source_ranges:
        rows.extend(_range_members(server, place, family))
    return rows


def _place_of(server_id: VirtualServerId) -> str:
    """Return an id as a member of a set of type hash:ip,port."""
    return f"{server_id.address},{server_id.protocol.lower()}:{server_id.port}"


def _range_members(server: VirtualServer, place: str, family: Family) -> Iterable[SetMemberRow]:
    """Yield the members of LIMITED and RANGE; none if a range admits every source.

    If all ranges are of the other family, no source is admitted, whereas kube-proxy leaves this family open
    (pkg/proxy/serviceport.go).
    """
    texts = _range_texts(server.source_ranges, family)
    if texts is None:
        return
    yield SetMemberRow(set_name("LIMITED", family), place)
    name = set_name("RANGE", family)
    for text in texts:
        yield SetMemberRow(name, f"{place},{text}")


@lru_cache(maxsize=128)
def _range_texts(ranges: tuple[str, ...], family: Family) -> tuple[str, ...] | None:
    """Return ranges as ipset prints them; None if one of them admits every source."""
    networks = networks_of(ranges, family)
    if any(network.prefixlen == 0 for network in networks):
        return None
    return tuple([str(n.network_address if n.prefixlen == n.max_prefixlen else n) for n in networks])


def _net_texts(cidr: str) -> tuple[str, ...]:
    """Return a network as ipset prints it: a full prefix is omitted, and prefix length 0 is split into halves."""
    network = ipaddress.ip_network(cidr, strict=False)
    if network.prefixlen == 0:
        return tuple(str(half) for half in network.subnets())
    return (str(network.network_address if network.prefixlen == network.max_prefixlen else network),)
