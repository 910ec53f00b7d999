"""What policy knows of "here": this node's name, zone and addresses, and what the Nodes say about all of them."""

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
"""What is there was put there by kube-proxy, or by an agent with another `--interface`."""


class NodeFacts(Struct, frozen=True):
    """name, zone: this node's, "" if unknown.

    held_addresses:      on interfaces other than ours, with the interface's name, where another program put them.
    own_addresses:       on interfaces other than ours, or in this Node's object: served, never bound.
    node_addresses:      of this Node's object, and the one the operator gave; the interfaces' if there are none.
    node_port_addresses: where node ports are served, sorted.
    other_nodes:         addresses of other Nodes -> their names: never served here.
    weights, zones:      of every Node that says, by name.
    routes:              ranges of cluster IPs that are delivered by a route: their addresses are not bound.
    """

    name: str = ""
    zone: str = ""
    held_addresses: dict[Address, str] = {}
    own_addresses: frozenset[Address] = frozenset()
    node_addresses: frozenset[Address] = frozenset()
    node_port_addresses: tuple[Address, ...] = ()
    other_nodes: dict[Address, str] = {}
    weights: dict[str, int] = {}
    zones: dict[str, str] = {}
    routes: tuple[ServiceRoute, ...] = ()


def node_facts(
    name: str,
    nodes: Mapping[str, Node],
    interfaces: Mapping[Address, str],
    node_ports_on: Iterable[str],
    known_as: Address | None = None,
    route_networks: Iterable[Network] = (),
    *,
    localhost: bool = False,
    pod_networks: Iterable[Network] = (),
) -> tuple[NodeFacts, tuple[Finding, ...]]:
    """interfaces: addresses on this node's interfaces except ours, without loopback and IPv6 link-local ones, with the
    interface's name.

    node_ports_on: CIDRs, or the one word "primary"; empty = every address. localhost: node ports on 127.0.0.1, too.
    known_as: this node's first address of its family, whatever its object says. route_networks: of route mode.
    pod_networks: what pods are told by, if by that.
    A Node object that has no addresses yet is not waited for, as kube-proxy does it: it takes part when they come.
    """
    findings: list[Finding] = []
    interface_addresses = frozenset(interfaces)
    own = nodes.get(name)
    of_object = (*((known_as,) if known_as else ()), *(own.addresses if own else ()))
    other_nodes = {
        address: other
        for other, node in sorted(nodes.items())
        if other != name
        for address in node.addresses
        if address not in interface_addresses and address != known_as
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
                    Finding(FindingKind.INVALID_ANNOTATION, str(node.key), f"{error}; it is left out", field)
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
    """As checkBadConfig of cmd/kube-proxy/app/server.go. of_node: of its addresses, the first is its primary one."""
    wanted = tuple(node_ports_on)
    networks = [ipaddress.ip_network(cidr, strict=False) for cidr in wanted] if wanted != (PRIMARY,) else []
    named = {_family_of_network(network) for network in networks}
    for family in dict.fromkeys(of_node):
        if named and family not in named:
            name = family.value
            reason = f"names no {name} range, so node ports are served on all {name} addresses of this node"
            yield Finding(FindingKind.CONFIGURATION, "nodePortAddresses", reason)
    pods = {_family_of_network(network) for network in pod_networks}
    if of_node and pods and of_node[0] not in pods:
        name = of_node[0].value
        reason = f"names no {name} range, though this node's first address is {name}: no {name} traffic is a pod's"
        yield Finding(FindingKind.CONFIGURATION, "clusterCIDR", reason)


def _family_of_network(network: Network) -> Family:
    return family_of(Address(str(network.network_address)))


def _node_port_addresses(
    of_object: Iterable[Address], addresses: frozenset[Address], wanted: tuple[str, ...]
) -> tuple[Address, ...]:
    """As pkg/proxy/util/nodeport_addresses.go: CIDRs choose among the node's addresses; a family that no CIDR
    names is not restricted; "primary" is the Node's first address of each family."""
    if wanted == (PRIMARY,):
        first: dict[Family, Address] = {}
        for address in of_object:
            first.setdefault(family_of(address), address)
        return tuple(sorted(first.values()))
    networks: list[Network] = [ipaddress.ip_network(cidr, strict=False) for cidr in wanted]
    restricted = {network.version for network in networks}
    chosen = []
    for address in addresses:
        ip = ipaddress.ip_address(address)
        if ip.version not in restricted or any(ip in network for network in networks):
            chosen.append(address)
    return tuple(sorted(chosen))
