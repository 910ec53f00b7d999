"""Turns one Service into its virtual servers on this node.

Each address and port of a Service is a `Front` (fronts.py). Every virtual server of one Service port shares the same
tuples of real servers.

With IPVS a virtual server has one set of real servers, while an external address with a Local policy needs two: the
endpoints of this node for clients outside, and all of them for clients on this node, as in
pkg/proxy/iptables/proxier.go. The packet rules translate the latter to `inside`: the cluster IP or, where that has a
Local policy, too, a hidden port of it. While a translation is missing, these clients get what kube-proxy's ipvs mode
would give them, which is always an answer: the virtual server of an address without endpoints here holds those
elsewhere, as kube-proxy's does, and packet rules keep clients from outside away from it.

Not every served address is bound (`bind` in `_virtual_server`): an external address of this node's other interfaces
is not, node ports never are, and neither is an address that a route makes local.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ipvsagent.address import Address, Family, family_of
from ipvsagent.cluster.objects import EndpointSlice, Service, ServicePort
from ipvsagent.config import Network
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import (
    Frontend,
    Protocol,
    RealServer,
    ServicePortName,
    VirtualServer,
    VirtualServerId,
    WhenEmpty,
)
from ipvsagent.policy.annotations import LINUX_SCHEDULERS, ServiceOverrides, read_annotations, weight_of
from ipvsagent.policy.capabilities import IPVS, Capabilities
from ipvsagent.policy.endpoints import Candidate, Choice, choose, join
from ipvsagent.policy.fronts import (
    Front,
    fronts_of,
    is_within,
    no_node_port_address,
    source_ranges_of,
    too_many_ranges,
    why_refused,
)
from ipvsagent.policy.limits import UDP_TIMEOUT, limit_findings
from ipvsagent.policy.node import NodeFacts

_PORTS = 1 << 16
_HIDDEN_OFFSET = _PORTS // 2  # from a Service's port to its hidden one: most Service ports are in the lower half


class PolicyOptions(Struct, frozen=True):
    """Holds the operator's settings, and what policy knows of the kernel and the backend."""

    scheduler: str = "rr"
    """The scheduler of Services that name none."""
    allowed_external: tuple[Network, ...] = ()
    """CIDRs in which external IPs are served. None are by default, because any user that may edit a Service can take
    over any address with an external IP (CVE-2020-8554)."""
    node_ports_on: tuple[str, ...] = ()
    """CIDRs, or the one word "primary"; empty = every address of the node."""
    primary_address: Address | None = None
    """This node's first address of its family; None = the first in its Node object."""
    route_networks: tuple[Network, ...] = ()
    """Ranges of cluster IPs that a route makes local, so that none of their addresses is bound."""
    pod_networks: tuple[Network, ...] = ()
    """The ranges of pods' addresses, unless `pods_of_node` is set."""
    pods_of_node: bool = False
    """The pod CIDRs of this Node take the place of `pod_networks`."""
    scheduler_works: Callable[[str], bool] = LINUX_SCHEDULERS.__contains__
    """Whether this kernel has a scheduler of that name."""
    udp_timeout: int = UDP_TIMEOUT
    """Seconds that IPVS keeps an idle UDP flow."""
    capabilities: Capabilities = IPVS


class Outcome(Struct, frozen=True):
    """Holds what became of one Service."""

    virtual_servers: tuple[VirtualServer, ...] = ()
    """At most one for each id."""
    findings: tuple[Finding, ...] = ()
    missing_scheduler: str = ""
    """See ServiceOverrides."""


def virtual_servers_for(
    service: Service,
    slices: Sequence[EndpointSlice],
    node: NodeFacts,
    options: PolicyOptions,
    is_cluster_ip: Callable[[Address], bool],
) -> Outcome:
    """Return the virtual servers of a Service: none if it is headless, of type ExternalName or left to another proxy
    (pkg/proxy/util/utils.go ShouldSkipService).

    An endpoint whose address is some Service's cluster IP is refused: balancing to it would send the packet back into
    IPVS. External and load balancer addresses are not checked for this, because they may be node addresses, which are
    valid endpoints.
    """
    if service.headless:
        return Outcome()
    subject = str(service.key)
    overrides = read_annotations(
        subject, service.annotations, options.scheduler, options.scheduler_works, capabilities=options.capabilities
    )
    findings: dict[Finding, None] = dict.fromkeys(overrides.findings)
    refused: set[Address] = set()
    servers: dict[VirtualServerId, VirtualServer] = {}
    for port in service.ports:
        by_family: dict[Family, _EndpointSets] = {}
        for front in fronts_of(service, port, node):
            finding = why_refused(service, front, node, options.capabilities, options.allowed_external)
            if finding:
                findings[finding] = None
                continue
            family = family_of(front.address)
            sets = by_family.get(family)
            if sets is None:
                candidates = join(port, slices, family)
                usable = tuple([c for c in candidates if not is_cluster_ip(c.endpoint.address)])
                if len(usable) < len(candidates):
                    refused |= {c.endpoint.address for c in candidates} - {c.endpoint.address for c in usable}
                sets = by_family[family] = _EndpointSets(choose(usable, node.name, node.zone), node, overrides)
            server = _virtual_server(service, port, front, sets, node, overrides)
            if not options.capabilities.both_sets and server.node_real_servers is not None:
                cluster_ip = _cluster_ip_of(port, family, service, servers)
                if cluster_ip and service.internal_local:
                    hidden = _hidden_server(cluster_ip, sets, service, servers)
                    cluster_ip = servers.setdefault(hidden.id, hidden)
                server = _with_single_set(server, cluster_ip.id if cluster_ip else None)
            servers.setdefault(server.id, server)
        if port.node_port and not node.node_port_addresses:
            findings[no_node_port_address(subject, port)] = None
    for address in sorted(refused):
        reason = f"endpoint {address} is itself the cluster IP of a Service and is not used"
        findings[Finding(FindingKind.ENDPOINT_REFUSED, subject, reason)] = None
    for finding in too_many_ranges(service):
        findings[finding] = None
    for finding in limit_findings(service, one_packet=overrides.one_packet, udp_timeout=options.udp_timeout):
        findings[finding] = None
    return Outcome(tuple(servers.values()), tuple(findings), overrides.missing_scheduler)


class _EndpointSets:
    """Holds the cluster and the local endpoints of one Service port and family as real servers, made once and
    shared."""

    def __init__(self, choice: Choice, node: NodeFacts, overrides: ServiceOverrides) -> None:
        self.choice = choice
        self._node = node
        self._overrides = overrides
        self._made: dict[bool, tuple[tuple[RealServer, ...], tuple[RealServer, ...]]] = {}

    def real_servers(self, local: bool) -> tuple[tuple[RealServer, ...], tuple[RealServer, ...]]:
        """Return (those that are used, those that are listed but unused)."""
        made = self._made.get(local)
        if made is None:
            chosen = self.choice.local if local else self.choice.cluster
            unused: Iterable[Candidate] = ()
            if len(chosen) < len(self.choice.candidates):
                unused = set(self.choice.candidates) - set(chosen)
            made = self._made[local] = (self._as_real_servers(chosen), tuple(sorted(self._as_real_servers(unused))))
        return made

    def _as_real_servers(self, candidates: Iterable[Candidate]) -> tuple[RealServer, ...]:
        here = self._node.name
        plain = not self._overrides.weights and not self._node.weights
        return tuple(
            [
                RealServer(
                    e.address,
                    c.port,
                    1 if plain else self._weight(c),
                    bool(here) and e.node == here,
                    e.ready and not e.terminating,
                )
                for c in candidates
                for e in (c.endpoint,)
            ]
        )

    def _weight(self, candidate: Candidate) -> int:
        endpoint, node = candidate.endpoint, self._node
        zone = endpoint.zone or node.zones.get(endpoint.node, "")
        return weight_of(
            self._overrides.weights, node.weights.get(endpoint.node), endpoint.address, endpoint.node, zone
        )


def _virtual_server(
    service: Service, port: ServicePort, front: Front, sets: _EndpointSets, node: NodeFacts, overrides: ServiceOverrides
) -> VirtualServer:
    used, unused = sets.real_servers(front.local)
    external = front.frontend is not Frontend.CLUSTER_IP
    return VirtualServer(
        id=VirtualServerId(port.protocol, front.address, front.port),
        service=ServicePortName(service.namespace, service.name, port.name),
        frontend=front.frontend,
        scheduler=overrides.scheduler,
        scheduler_flags=overrides.scheduler_flags,
        persistence_timeout=service.affinity_timeout,
        one_packet=overrides.one_packet and port.protocol is Protocol.UDP,
        real_servers=used,
        node_real_servers=sets.real_servers(False)[0] if external and front.local else None,
        unused=unused,
        when_empty=WhenEmpty.DROP if not used and sets.choice.has_usable_endpoints_anywhere else WhenEmpty.REFUSE,
        bind=front.frontend is not Frontend.NODE_PORT
        and front.address not in node.own_addresses
        and not _is_routed(front.address, node),
        preserve_client_address=not external or front.local,
        source_ranges=source_ranges_of(service, front, node),
        drain_timeout=overrides.drain_timeout,
    )


def _cluster_ip_of(
    port: ServicePort, family: Family, service: Service, servers: Mapping[VirtualServerId, VirtualServer]
) -> VirtualServer | None:
    """Return the virtual server of the port's cluster IP; None if that is refused or left to another program."""
    ids = (VirtualServerId(port.protocol, address, port.port) for address in service.cluster_ips)
    return next((servers[i] for i in ids if i.family is family and i in servers), None)


def _hidden_server(
    cluster_ip: VirtualServer, sets: _EndpointSets, service: Service, servers: Mapping[VirtualServerId, VirtualServer]
) -> VirtualServer:
    """Return the virtual server with all endpoints, on a port of the cluster IP that is not a port of the Service.

    The number follows from the Service's ports alone, so that it is the same after every start.
    """
    used = {port.port for port in service.ports if port.protocol is cluster_ip.id.protocol}
    number = cluster_ip.id.port + _HIDDEN_OFFSET
    while True:
        number %= _PORTS
        server_id = VirtualServerId(cluster_ip.id.protocol, cluster_ip.id.address, number)
        other = servers.get(server_id)
        if number and number not in used and (other is None or other.service == cluster_ip.service):
            break
        number += 1
    real_servers, unused = sets.real_servers(False)
    return replace(
        cluster_ip,
        id=server_id,
        frontend=Frontend.NODE_CLIENTS,
        real_servers=real_servers,
        unused=unused,
        when_empty=WhenEmpty.REFUSE,
    )


def _with_single_set(server: VirtualServer, inside: VirtualServerId | None) -> VirtualServer:
    """Return a virtual server that has two sets of real servers as one that has a single set."""
    all_real_servers = server.node_real_servers or ()
    server = replace(server, node_real_servers=None, inside=inside)
    if server.real_servers or not all_real_servers:
        return server
    unused = tuple(sorted({*server.unused} - set(all_real_servers)))
    return replace(server, real_servers=all_real_servers, node_only=True, unused=unused, when_empty=WhenEmpty.REFUSE)


def _is_routed(address: Address, node: NodeFacts) -> bool:
    return bool(node.routes) and is_within(address, tuple(route.network for route in node.routes))
