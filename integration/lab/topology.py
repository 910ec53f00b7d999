"""Describes and builds the lab's network.

    client ---- wire (router and switch) ---- other machines, each with its pods' addresses on its loopback
                 |
                node ---- pod, pod, ...       one routed veth each (as Calico does it), or all on one bridge

Every address is given by the caller; both families are treated the same. Building takes one process of `ip`
per namespace.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType

from integration.lab.errors import LabError
from integration.lab.namespaces import Namespace

# The other end of every pod's veth, as a pod sees it. Fixed link addresses and permanent neighbours: no
# packet waits for ARP or neighbour discovery, and nothing depends on the order in which devices come up.
GATEWAY_LINK = "ee:ee:ee:ee:ee:ee"
GATEWAYS = {4: "169.254.1.1", 6: "fe80::1"}
EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}

_COMMON = {
    "net/ipv4/ping_group_range": "0 2147483647",  # of both families: an echo request is an ordinary socket
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
    # Requests and replies pass this node on one wire: a redirect would take the replies past it.
    **{f"net/ipv{v}/conf/{which}/accept_redirects": "0" for v in "46" for which in ("all", "default")},
    **{f"net/ipv4/conf/{which}/send_redirects": "0" for which in ("all", "default")},
    **{f"net/ipv4/conf/{which}/rp_filter": "0" for which in ("all", "default")},
}
_ROUTER = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    # A refusal is an answer that is waited for: none may be left out for being one of many.
    "net/ipv4/icmp_ratelimit": "0",
    "net/ipv6/icmp/ratelimit": "0",
}


@dataclass(frozen=True)
class Pod:
    """addresses: without prefix length, of either or both families. link: the node's end of its wire, where the node's
    pods are routed; "" = `pod` and its number."""

    name: str
    addresses: tuple[str, ...]
    link: str = ""


@dataclass(frozen=True)
class Machine:
    """A node, or another machine on the nodes' network."""

    name: str
    addresses: tuple[str, ...]
    pods: tuple[Pod, ...] = ()


@dataclass(frozen=True)
class Topology:
    """node: the one that gets the agent. others: the rest of the nodes' network.

    lan, outside:      the wire's own address in the nodes' network and in the client's, with prefix length.
    client:            addresses of the client, inside `outside`.
    service_networks:  networks of virtual addresses. The wire sends them to this node; the node itself says
                       "unreachable" for what is not bound there, or the packets would go round in circles.
    pod_bridge:        the bridge's addresses, with prefix length, if this node's pods are to be on a bridge.
    replies_by_node:   other machines send replies to virtual addresses and outside clients through this node.
                       In a cluster, masquerade does that: a node's own requests carry the virtual address as
                       source, an outside client's its own. On, it works without masquerade; off, only with.
    """

    node: Machine
    others: tuple[Machine, ...] = ()
    lan: tuple[str, ...] = ("192.168.56.1/24", "fd00:192:168:56::1/64")
    outside: tuple[str, ...] = ("203.0.113.1/24", "fd00:203:0:113::1/64")
    client: tuple[str, ...] = ("203.0.113.50", "fd00:203:0:113::50")
    service_networks: tuple[str, ...] = ("10.96.0.0/16", "fd00:10:96::/112", "192.0.2.0/24")
    pod_bridge: tuple[str, ...] = ()
    replies_by_node: bool = True

    @cached_property
    def machines(self) -> tuple[Machine, ...]:
        return (self.node, *self.others)

    def check(self) -> None:
        """Raises LabError for a topology that cannot work."""
        seen: dict[str, str] = {}
        for owner, addresses in self._addresses():
            for address in addresses:
                canonical = str(ipaddress.ip_address(address))
                if canonical != address:
                    raise LabError(f"address {address} of {owner} is written {canonical}")
                if address in seen:
                    raise LabError(f"address {address} belongs to both {seen[address]} and {owner}")
                seen[address] = owner
        names = [machine.name for machine in self.machines] + [p.name for m in self.machines for p in m.pods]
        if twice := {name for name in names if names.count(name) > 1}:
            raise LabError(f"names used twice: {', '.join(sorted(twice))}")

    def _addresses(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        for machine in self.machines:
            yield machine.name, machine.addresses
            for pod in machine.pods:
                yield pod.name, pod.addresses
        yield "client", self.client
        yield "the wire", tuple(own.split("/")[0] for own in (*self.lan, *self.outside))


class Lab:
    """The built network. It is a context manager; closing it, or the end of the process, removes everything."""

    def __init__(self, topology: Topology) -> None:
        topology.check()
        self.topology = topology
        self._open: list[Namespace] = []
        self._by_address: dict[str, Namespace] = {}
        try:
            self.wire = self._namespace("wire", _COMMON | _ROUTER)
            self.node = self._namespace(topology.node.name, _COMMON | _ROUTER)
            self.client = self._namespace("client", _COMMON)
            self.machines = {topology.node.name: self.node}
            self.machines |= {other.name: self._namespace(other.name, _COMMON) for other in topology.others}
            self.pods = {pod.name: self._namespace(pod.name, _COMMON) for pod in topology.node.pods}
            self._build()
        except BaseException:
            self.close()
            raise

    def at(self, address: str) -> Namespace:
        """Returns the namespace that has an address."""
        try:
            return self._by_address[address]
        except KeyError:
            raise LabError(f"no machine, pod or client of the lab has the address {address}") from None

    def close(self) -> None:
        while self._open:
            self._open.pop().close()

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _namespace(self, name: str, settings: dict[str, str]) -> Namespace:
        namespace = Namespace(name)
        self._open.append(namespace)
        namespace.set_kernel(settings)
        return namespace

    def _build(self) -> None:
        topology = self.topology
        self.wire.ip(self._wire_devices())
        self.node.ip([*_uplink(topology.lan, topology.node.addresses), *self._pods_at_node(), *self._node_routes()])
        for number, pod in enumerate(topology.node.pods):
            self.pods[pod.name].ip(_pod_side(pod, number, topology.pod_bridge))
            self._place(self.pods[pod.name], pod.addresses)
        for other in topology.others:
            self.machines[other.name].ip(self._other(other))
            self._place(self.machines[other.name], *(pod.addresses for pod in other.pods))
        self.client.ip([*_uplink(topology.outside, topology.client)])
        # Last: routes by way of machines, whose addresses are there by now.
        self.wire.ip(self._wire_routes())
        for machine in topology.machines:
            self._place(self.machines[machine.name], machine.addresses)
        self._place(self.client, topology.client)

    def _place(self, namespace: Namespace, *groups: tuple[str, ...]) -> None:
        for addresses in groups:
            self._by_address.update(dict.fromkeys(addresses, namespace))

    def _wire_devices(self) -> Iterator[str]:
        yield "link set lo up"
        yield "link add lan type bridge forward_delay 0 mcast_snooping 0"
        yield from (_address(own, "lan") for own in self.topology.lan)
        yield "link set lan up"
        for number, name in enumerate(self.machines):
            yield f"link add lan{number} type veth peer name eth0 netns {self.machines[name].path}"
            yield f"link set lan{number} master lan up"
        yield f"link add outside type veth peer name eth0 netns {self.client.path}"
        yield from (_address(own, "outside") for own in self.topology.outside)
        yield "link set outside up"

    def _wire_routes(self) -> Iterator[str]:
        for machine in self.topology.machines:
            yield from _by_way_of(machine, (address for pod in machine.pods for address in pod.addresses))
        yield from _by_way_of(self.topology.node, self.topology.service_networks)

    def _pods_at_node(self) -> Iterator[str]:
        bridge = self.topology.pod_bridge
        if bridge:
            yield "link add pods type bridge forward_delay 0 mcast_snooping 0"
            yield from (_address(own, "pods") for own in bridge)
            yield "link set pods up"
        for number, pod in enumerate(self.topology.node.pods):
            port = pod.link or f"pod{number}"
            peer = f"peer name eth0 address {_pod_link(number)} netns {self.pods[pod.name].path}"
            if bridge:
                yield f"link add {port} type veth {peer}"
                yield f"link set {port} master pods up"
                continue
            yield f"link add {port} address {GATEWAY_LINK} type veth {peer}"
            yield f"link set {port} up"
            for address in pod.addresses:
                yield f"neighbour add {address} lladdr {_pod_link(number)} dev {port} nud permanent"
                yield f"route add {address} dev {port}"

    def _node_routes(self) -> Iterator[str]:
        own = self.topology.node.addresses
        for other in self.topology.others:
            yield from _by_way_of(other, (address for pod in other.pods for address in pod.addresses), own)
        for network in self.topology.service_networks:
            yield f"route add unreachable {network}"

    def _other(self, machine: Machine) -> Iterator[str]:
        topology, own = self.topology, machine.addresses
        yield from _uplink(topology.lan, machine.addresses)
        yield from (_address(address, "lo") for pod in machine.pods for address in pod.addresses)
        for peer in topology.machines:
            if peer is not machine:
                yield from _by_way_of(peer, (address for pod in peer.pods for address in pod.addresses), own)
        if topology.replies_by_node:
            outside = (str(ipaddress.ip_interface(wire).network) for wire in topology.outside)
            yield from _by_way_of(topology.node, (*topology.service_networks, *outside), own)


def _uplink(network: tuple[str, ...], addresses: tuple[str, ...]) -> Iterator[str]:
    """The namespace's loopback, and its side of the wire; the wire is its default gateway."""
    yield "link set lo up"
    yield "link set eth0 up"
    gateways = [ipaddress.ip_interface(own) for own in network]
    for address in addresses:
        gateway = next((own for own in gateways if ipaddress.ip_address(address) in own.network), None)
        if gateway is None:
            raise LabError(f"address {address} is in none of the wire's networks {', '.join(network)}")
        yield _address(f"{address}/{gateway.network.prefixlen}", "eth0")
    present = {ipaddress.ip_address(address).version for address in addresses}
    for gateway in gateways:
        if gateway.version in present:
            yield f"route add {EVERYWHERE[gateway.version]} via {gateway.ip}"


def _pod_side(pod: Pod, number: int, bridge: tuple[str, ...]) -> Iterator[str]:
    yield "link set lo up"
    yield "link set eth0 up"
    if bridge:
        yield from list(_uplink(bridge, pod.addresses))[2:]
        return
    for address in pod.addresses:
        version = ipaddress.ip_address(address).version
        gateway = GATEWAYS[version]
        yield _address(address, "eth0")
        yield f"neighbour add {gateway} lladdr {GATEWAY_LINK} dev eth0 nud permanent"
        yield f"route add {EVERYWHERE[version]} via {gateway} dev eth0 onlink"


def _address(address: str, device: str) -> str:
    """Makes an address usable at once, without the second of IPv6's duplicate address detection."""
    return f"address add {address} dev {device}{' nodad' if ':' in address else ''}"


def _pod_link(number: int) -> str:
    return f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"


def _by_way_of(machine: Machine, networks: Iterable[str], own: tuple[str, ...] = ()) -> Iterator[str]:
    """Routes through a machine, by its first address of the same family.

    own: addresses of the machine that gets the routes, if it may lack a family.
    """
    via: dict[int, str] = {}
    usable = {ipaddress.ip_address(address).version for address in own or machine.addresses}
    for address in machine.addresses:
        if (version := ipaddress.ip_address(address).version) in usable:
            via.setdefault(version, address)
    for network in networks:
        version = ipaddress.ip_network(network).version
        if version in via:
            yield f"route add {network} via {via[version]}"
