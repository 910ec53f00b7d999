"""Decides which health checks of Services this node answers: load balancers ask every node whether a Service has an
endpoint there.

A Service has a health check if it is of type LoadBalancer, with externalTrafficPolicy Local and a healthCheckNodePort.
Terminating endpoints do not count, though they may still get traffic (pkg/proxy/endpointschangetracker.go,
healthcheck/).

Health checks are answered on the addresses that serve node ports, and on the Service's load balancer addresses that are
local, because Google's load balancers probe those (kubernetes/kubernetes#117723). A virtual server gets a connection
before any socket does, so it wins a port that both claim; of two Services with the same health check port the older
wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct
from msgspec.structs import replace

from ipvsagent.address import Address, Family, family_of
from ipvsagent.cluster.objects import EndpointSlice, Service, ServiceKey
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import Frontend, Protocol, VirtualServer, VirtualServerId
from ipvsagent.policy.desired import DesiredState, Rank, Replaced, rank_of

_FIELD = "spec.healthCheckNodePort"


class HealthCheck(Struct, frozen=True):
    """Describes the health check of one Service on this node."""

    service: ServiceKey
    port: int
    local_endpoints: dict[Family, int]
    """The number of addresses of ready endpoints on this node, over all ports, for each family of the Service."""
    addresses: tuple[Address, ...] = ()
    """The load balancer addresses on which it is answered, besides the node's addresses."""

    def answers_on(self, node_addresses: Iterable[Address]) -> list[Address]:
        """Return those of the node's addresses that are of the Service's families, then those of its load balancer."""
        candidates = dict.fromkeys((*node_addresses, *self.addresses))
        return [address for address in candidates if family_of(address) in self.local_endpoints]


def health_check_of(service: Service, slices: Iterable[EndpointSlice], node: str) -> HealthCheck | None:
    """Return the health check of a Service; None if it has none. node: this node's name."""
    if service.type != "LoadBalancer" or not service.external_local or not service.health_check_node_port:
        return None
    found = {family: set[str]() for family in service.families}
    for endpoint_slice in slices:
        if endpoint_slice.family in found:
            found[endpoint_slice.family].update(
                e.address for e in endpoint_slice.endpoints if e.node == node and e.ready and not e.terminating
            )
    return HealthCheck(
        ServiceKey(service.namespace, service.name),
        service.health_check_node_port,
        {family: len(addresses) for family, addresses in found.items()},
    )


class HealthChecks:
    """Decides which health checks this node answers, and where.

    Call `replace` and `virtual_servers_changed` as Services change, then `recompute` once.
    """

    def __init__(self, desired: DesiredState) -> None:
        self.answered: dict[ServiceKey, HealthCheck] = {}
        """Other threads read this dictionary, so it is never changed, only replaced."""
        self._desired = desired
        self._checks: dict[ServiceKey, tuple[Rank, HealthCheck]] = {}
        self._by_port: dict[int, set[ServiceKey]] = {}
        self._stale: set[ServiceKey] = set()
        self._with_findings: set[ServiceKey] = set()

    def replace(self, key: ServiceKey, service: Service | None, slices: Iterable[EndpointSlice], node: str) -> None:
        """Replace a Service, None if it is gone. node: this node's name."""
        check = health_check_of(service, slices, node) if service else None
        new = (rank_of(service), check) if service and check else None
        old = self._checks.get(key)
        if new == old:
            return
        self._stale.add(key)
        if old:
            self._checks.pop(key)
            sharers = self._by_port[old[1].port]
            sharers.discard(key)
            self._stale |= sharers
            if not sharers:
                del self._by_port[old[1].port]
        if new:
            self._checks[key] = new
            sharers = self._by_port.setdefault(new[1].port, set())
            sharers.add(key)
            self._stale |= sharers

    def virtual_servers_changed(self, key: ServiceKey, replaced: Replaced) -> None:
        """Mark what depends on the claims of a Service: a virtual server may have taken a port, or another Service a
        load balancer address."""
        if self._checks:
            self._stale |= self._checks.keys() & (replaced.affected | {key})
            for server_id in replaced.changed:
                self._stale |= self._by_port.get(server_id.port, set())

    def addresses_changed(self) -> set[ServiceKey]:
        """Mark everything, because the addresses of this node changed. Return the Services with health checks."""
        self._stale |= self._checks.keys()
        return set(self._checks)

    def recompute(
        self, node_addresses: Iterable[Address], is_local: Callable[[Address], bool]
    ) -> tuple[bool, list[tuple[ServiceKey, tuple[Finding, ...]]]]:
        """Recompute what has become stale. Return whether a port or an address was added or removed, and the findings
        of each Service that has some, or had.

        node_addresses: where node ports are served. is_local: whether a load balancer address is one of this node.
        """
        if not self._stale:
            return False, []
        own = tuple(node_addresses)
        answered = dict(self.answered)
        findings = []
        moved = False
        for key in sorted(self._stale):
            before = answered.pop(key, None)
            after, found = self._evaluate(key, own, is_local)
            if after:
                answered[key] = after
            moved |= _listeners(before) != _listeners(after)
            if found or key in self._with_findings:
                findings.append((key, found))
            (self._with_findings.add if found else self._with_findings.discard)(key)
        self._stale.clear()
        if answered != self.answered:
            self.answered = answered
        return moved, findings

    def _evaluate(
        self, key: ServiceKey, node_addresses: tuple[Address, ...], is_local: Callable[[Address], bool]
    ) -> tuple[HealthCheck | None, tuple[Finding, ...]]:
        if key not in self._checks:
            return None, ()
        check = self._checks[key][1]
        first = min(self._by_port[check.port], key=lambda each: self._checks[each][0])
        if first != key:
            reason = (
                f"{check.port} is also the health check port of the older Service {first}, and only the endpoints of "
                "that one are reported there; delete this Service and create it again, so that it gets another port"
            )
            return None, (Finding(FindingKind.SHADOWED_BY_SERVICE, f"Service {key}", reason, _FIELD),)
        findings: dict[Finding, None] = {}
        for address in node_addresses:
            server = self._server_at(address, check.port)
            if server and family_of(address) in check.local_endpoints:
                findings[_port_taken(key, check.port, server, "this node's addresses")] = None
        free = []
        for address in filter(is_local, self._load_balancer_addresses(key)):
            server = self._server_at(address, check.port)
            if not server:
                free.append(address)
            elif address not in node_addresses:
                findings[_port_taken(key, check.port, server, address)] = None
        return replace(check, addresses=tuple(free)), tuple(findings)

    def _server_at(self, address: Address, port: int) -> VirtualServer | None:
        return self._desired.get(VirtualServerId(Protocol.TCP, address, port))

    def _load_balancer_addresses(self, key: ServiceKey) -> list[Address]:
        """Return the load balancer addresses on which the Service has won a port, each once."""
        servers = filter(None, map(self._desired.get, self._desired.ids_of(key)))
        won = [s.id.address for s in servers if s.frontend is Frontend.LOAD_BALANCER and _service_of(s) == key]
        return list(dict.fromkeys(won))


def _service_of(server: VirtualServer) -> ServiceKey:
    return ServiceKey(server.service.namespace, server.service.service)


def _listeners(check: HealthCheck | None) -> object:
    return check and (check.port, check.addresses, check.local_endpoints.keys())


def _port_taken(key: ServiceKey, port: int, server: VirtualServer, where: str) -> Finding:
    noun = "node port" if server.frontend is Frontend.NODE_PORT else "port"
    reason = (
        f"{port} on {where} is a {noun} of Service {_service_of(server)}, whose endpoints answer there instead of this "
        f"health check; give that {noun} another number"
    )
    return Finding(FindingKind.SHADOWED_BY_SERVICE, f"Service {key}", reason, _FIELD)
