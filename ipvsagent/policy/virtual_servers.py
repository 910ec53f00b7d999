"""One Service becomes its virtual servers on this node.

Each address that a Service has is a `_Front`: which frontend it is, which traffic policy rules it, whether it is to
be bound. Every virtual server of one Service port shares the same tuples of real servers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from ipvsagent.address import Address, Family, family_of
from ipvsagent.cluster.objects import EndpointSlice, Service, ServicePort
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import (
    Frontend,
    RealServer,
    ServicePortName,
    VirtualServer,
    VirtualServerId,
    WhenEmpty,
)
from ipvsagent.policy.endpoints import Candidate, Choice, choose, join


class NodeFacts(Struct, frozen=True):
    """All that policy knows about "here".

    name, zone:     this node's, "" if unknown.
    own_addresses:  on interfaces other than ours, or in this Node's object.
    other_nodes:    addresses of other Nodes -> their names.
    """

    name: str = ""
    zone: str = ""
    own_addresses: frozenset[Address] = frozenset()
    other_nodes: dict[Address, str] = {}


class PolicyOptions(Struct, frozen=True):
    """What the operator chose. scheduler: any name that the kernel knows."""

    scheduler: str = "rr"


class Outcome(Struct, frozen=True):
    virtual_servers: tuple[VirtualServer, ...] = ()
    findings: tuple[Finding, ...] = ()


class _Front(Struct, frozen=True):
    frontend: Frontend
    address: Address
    port: int
    local: bool


MH_PORT = 0x10


def virtual_servers_for(
    service: Service,
    slices: Sequence[EndpointSlice],
    node: NodeFacts,
    options: PolicyOptions,
    is_cluster_ip: Callable[[Address], bool],
) -> Outcome:
    """The virtual servers of a Service, at most one per id, and what had to be refused.

    A Service that is headless, of type ExternalName or left to another proxy has none
    (pkg/proxy/util/utils.go ShouldSkipService). An endpoint whose address is some Service's cluster IP is
    refused: balancing to it would send the packet back into IPVS.
    """
    if service.headless:
        return Outcome()
    findings: list[Finding] = []
    refused: set[Address] = set()
    servers: dict[VirtualServerId, VirtualServer] = {}
    for port in service.ports:
        by_family: dict[Family, _Sets] = {}
        for front in _fronts(service, port):
            finding = _why_refused(service, front, node)
            if finding:
                if finding not in findings:
                    findings.append(finding)
                continue
            family = family_of(front.address)
            sets = by_family.get(family)
            if sets is None:
                candidates = join(port, slices, family)
                usable = tuple([c for c in candidates if not is_cluster_ip(c.endpoint.address)])
                if len(usable) < len(candidates):
                    refused.update({c.endpoint.address for c in candidates} - {c.endpoint.address for c in usable})
                sets = by_family[family] = _Sets(choose(usable, node.name, node.zone), node.name)
            server = _virtual_server(service, port, front, sets, node, options)
            servers.setdefault(server.id, server)
    findings.extend(_refused_endpoints(service, sorted(refused)))
    return Outcome(tuple(servers.values()), tuple(findings))


class _Sets:
    """The two sets of one Service port and family as real servers, made once and shared."""

    def __init__(self, choice: Choice, node: str) -> None:
        self.choice = choice
        self._node = node
        self._made: dict[bool, tuple[tuple[RealServer, ...], tuple[RealServer, ...]]] = {}

    def real_servers(self, local: bool) -> tuple[tuple[RealServer, ...], tuple[RealServer, ...]]:
        """(used, listed but unused)."""
        made = self._made.get(local)
        if made is None:
            chosen = self.choice.local if local else self.choice.cluster
            unused: Iterable[Candidate] = ()
            if len(chosen) < len(self.choice.candidates):
                unused = set(self.choice.candidates) - set(chosen)
            made = self._made[local] = (self._as_real_servers(chosen), tuple(sorted(self._as_real_servers(unused))))
        return made

    def _as_real_servers(self, candidates: Iterable[Candidate]) -> tuple[RealServer, ...]:
        node = self._node
        return tuple(
            [
                RealServer(
                    e.address, c.port, 1, bool(node) and e.node == node, e.ready and not e.terminating
                )
                for c in candidates
                for e in (c.endpoint,)
            ]
        )


def _fronts(service: Service, port: ServicePort) -> Iterable[_Front]:
    for address in service.cluster_ips:
        yield _Front(Frontend.CLUSTER_IP, address, port.port, service.internal_local)


def _virtual_server(
    service: Service, port: ServicePort, front: _Front, sets: _Sets, node: NodeFacts, options: PolicyOptions
) -> VirtualServer:
    used, unused = sets.real_servers(front.local)
    return VirtualServer(
        id=VirtualServerId(port.protocol, front.address, front.port),
        service=ServicePortName(service.namespace, service.name, port.name),
        frontend=front.frontend,
        scheduler=options.scheduler,
        # kube-proxy sets mh-port on every mh virtual server (pkg/proxy/ipvs/proxier.go); a drop-in must hash alike.
        scheduler_flags=MH_PORT if options.scheduler == "mh" else 0,
        persistence_timeout=service.affinity_timeout,
        real_servers=used,
        unused=unused,
        when_empty=WhenEmpty.DROP if not used and sets.choice.anywhere else WhenEmpty.REFUSE,
        bind=front.address not in node.own_addresses,
    )


def _why_refused(service: Service, front: _Front, node: NodeFacts) -> Finding | None:
    """An address of another Node is never served here: bound on every node it would cut that node off
    (kubernetes/kubernetes#127410)."""
    other = node.other_nodes.get(front.address)
    if other is None:
        return None
    return Finding(
        FindingKind.ADDRESS_REFUSED,
        str(service.key),
        f"{front.frontend} address {front.address} is an address of Node {other}; serving it here would cut that "
        "node off, so it is left alone",
    )


def _refused_endpoints(service: Service, addresses: Iterable[Address]) -> Iterable[Finding]:
    for address in addresses:
        yield Finding(
            FindingKind.ENDPOINT_REFUSED,
            str(service.key),
            f"endpoint {address} is itself the cluster IP of a Service and is not used",
        )
