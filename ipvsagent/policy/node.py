"""Collects the facts of nodes that policy depends on: this node's name, zone and addresses, and those of the other
nodes."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct

from ipvsagent.address import Address, Family, family_of
from ipvsagent.cluster.objects import Node
from ipvsagent.config import Network
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.policy.annotations import NODE_WEIGHT, parse_weight
from ipvsagent.policy.routes import ServiceRoute, service_routes

PRIMARY = "primary"
KUBE_PROXY_INTERFACE = "kube-ipvs0"
"""The interface of kube-proxy, or of an agent with another `--interface`: no other program's addresses are on it."""


class NodeFacts(Struct, frozen=True):
    """Holds what policy knows of this node, and of the others."""

    name: str = ""
    """This node's name, "" if unknown."""
    zone: str = ""
    """This node's zone, "" if unknown."""
    held_addresses: dict[Address, str] = {}
    """Addresses that another program put on an interface, with the interface's name."""
    own_addresses: frozenset[Address] = frozenset()
    """Addresses on interfaces other than ours, or in this Node's object: served, but never bound."""
    node_addresses: frozenset[Address] = frozenset()
    """The addresses of this Node's object, and the operator's; those of the interfaces if there are none."""
    node_port_addresses: tuple[Address, ...] = ()
    """Where node ports are served, sorted."""
    other_nodes: dict[Address, str] = {}
    """Addresses of other Nodes, with their names: never served here."""
    weights: dict[str, int] = {}
    """The weight of each Node that has one, by name."""
    zones: dict[str, str] = {}
    """The zone of each Node that has one, by name."""
    routes: tuple[ServiceRoute, ...] = ()
    """Ranges of cluster IPs that a route makes local, so that their addresses are not bound."""


def node_facts(
    name: str,
    nodes: Mapping[str, Node],
    interfaces: Mapping[Address, str],
    node_ports_on: Iterable[str],
    primary_address: Address | None = None,
    route_networks: Iterable[Network] = (),
    *,
    localhost: bool = False,
    pod_networks: Iterable[Network] = (),
) -> tuple[NodeFacts, tuple[Finding, ...]]:
    """Return the facts, and what is wrong with them.

    nodes: all Nodes by name. interfaces: addresses on this node's interfaces except ours, without loopback and IPv6
    link-local ones, with the interface's name. node_ports_on: CIDRs, or the one word "primary"; empty = every address.
    primary_address: this node's first address of its family, whatever its object contains. route_networks: the ranges
    of route mode. localhost: node ports are served on 127.0.0.1, too. pod_networks: the ranges that identify pods, if
    ranges do. Unlike kube-proxy, it does not wait for a Node object to have addresses: they count as soon as they are
    there.
    """
    findings: list[Finding] = []
    interface_addresses = frozenset(interfaces)
    own = nodes.get(name)
    of_object = (*((primary_address,) if primary_address else ()), *(own.addresses if own else ()))
    other_nodes = {
        address: other
        for other, node in sorted(nodes.items())
        if other != name
        for address in node.addresses
        if address not in interface_addresses and address != primary_address
    }
    addresses = [*of_object, *sorted(interface_addresses)]
    routes, refused = service_routes(route_networks, addresses, interface_addresses, other_nodes)
    findings += refused
    findings += _missing_families([family_of(address) for address in of_object], node_ports_on, pod_networks)
    weights = {}
    for other, node in nodes.items():
        text = node.annotations.get(NODE_WEIGHT, "").strip()
        if text:
            try:
                weights[other] = parse_weight(text)
            except ValueError as error:
                field = f"metadata.annotations[{NODE_WEIGHT}]"
                findings.append(
                    Finding(FindingKind.INVALID_ANNOTATION, str(node.key), f"{error}; it is ignored", field)
                )
    facts = NodeFacts(
        name=name,
        zone=own.zone if own else "",
        held_addresses={a: interface for a, interface in interfaces.items() if interface != KUBE_PROXY_INTERFACE},
        own_addresses=interface_addresses | frozenset(of_object),
        node_addresses=frozenset(of_object or interface_addresses),
        node_port_addresses=(
            *((Address("127.0.0.1"),) if localhost else ()),
            *_node_port_addresses(of_object, interface_addresses, tuple(node_ports_on)),
        ),
        other_nodes=other_nodes,
        weights=weights,
        zones={other: node.zone for other, node in nodes.items() if node.zone},
        routes=routes,
    )
    return facts, tuple(findings)


def _missing_families(
    of_node: Sequence[Family], node_ports_on: Iterable[str], pod_networks: Iterable[Network]
) -> Iterator[Finding]:
    """Yield a finding for each setting without a range of a family of the node, as checkBadConfig of
    cmd/kube-proxy/app/server.go does. of_node: the families of its addresses, that of the primary one first."""
    cidrs = tuple(node_ports_on)
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs] if cidrs != (PRIMARY,) else []
    named = {_family_of_network(network) for network in networks}
    for family in dict.fromkeys(of_node):
        if named and family not in named:
            name = family.value
            reason = f"has no {name} range, so node ports are served on all {name} addresses of this node"
            yield Finding(FindingKind.CONFIGURATION, "nodePortAddresses", reason)
    pods = {_family_of_network(network) for network in pod_networks}
    if of_node and pods and of_node[0] not in pods:
        name = of_node[0].value
        reason = f"has no {name} range, though this node's first address is {name}: no {name} traffic counts as a pod's"
        yield Finding(FindingKind.CONFIGURATION, "clusterCIDR", reason)


def _family_of_network(network: Network) -> Family:
    return family_of(Address(str(network.network_address)))


def _node_port_addresses(
    of_object: Iterable[Address], addresses: frozenset[Address], cidrs: tuple[str, ...]
) -> tuple[Address, ...]:
    """Return where node ports are served, as pkg/proxy/util/nodeport_addresses.go decides it.

    CIDRs choose among the node's addresses; a family without a CIDR is not restricted; "primary" is the Node's first
    address of each family.
    """
    if cidrs == (PRIMARY,):
        first: dict[Family, Address] = {}
        for address in of_object:
            first.setdefault(family_of(address), address)
        return tuple(sorted(first.values()))
    networks: list[Network] = [ipaddress.ip_network(cidr, strict=False) for cidr in cidrs]
    restricted = {network.version for network in networks}
    chosen = []
    for address in addresses:
        ip = ipaddress.ip_address(address)
        if ip.version not in restricted or any(ip in network for network in networks):
            chosen.append(address)
    return tuple(sorted(chosen))
