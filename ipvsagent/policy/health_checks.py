"""Health checks of Services: load balancers ask every node whether traffic for the Service has an endpoint there.

A Service has one if it is of type LoadBalancer, with externalTrafficPolicy Local and a healthCheckNodePort. Terminating
endpoints do not count, though they may still get traffic (pkg/proxy/endpointschangetracker.go, healthcheck/).
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from ipvsagent.address import Family
from ipvsagent.cluster.objects import EndpointSlice, Service, ServiceKey


class HealthCheck(Struct, frozen=True):
    """port: of the node. local_endpoints: addresses of ready endpoints on this node, over all ports, by the families
    that the Service has."""

    service: ServiceKey
    port: int
    local_endpoints: dict[Family, int]


def health_check_of(service: Service, slices: Iterable[EndpointSlice], node: str) -> HealthCheck | None:
    """node: this one's name."""
    if service.type != "LoadBalancer" or not service.external_local or not service.health_check_node_port:
        return None
    found = {family: set[str]() for family in service.families}
    for piece in slices:
        if piece.family in found:
            found[piece.family].update(
                e.address for e in piece.endpoints if e.node == node and e.ready and not e.terminating
            )
    return HealthCheck(
        ServiceKey(service.namespace, service.name),
        service.health_check_node_port,
        {family: len(addresses) for family, addresses in found.items()},
    )
