"""Which Services have health checks, and what counts there."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.cluster.objects import Endpoint, EndpointSlice, Service, ServiceKey
from ipvsagent.policy.health_checks import HealthCheck, health_check_of

SERVICE = Service(
    namespace="shop",
    name="web",
    type="LoadBalancer",
    external_local=True,
    health_check_node_port=32101,
    cluster_ips=(Address("10.96.0.1"), Address("fd00::1")),
)


def piece(name: str, family: Family, *endpoints: Endpoint) -> EndpointSlice:
    return EndpointSlice(namespace="shop", name=name, service="web", family=family, endpoints=endpoints)


@pytest.mark.parametrize(
    "changes", [{"type": "NodePort"}, {"external_local": False}, {"health_check_node_port": 0}], ids=str
)
def test_services_without_one(changes: dict[str, object]) -> None:
    assert health_check_of(replace(SERVICE, **changes), (), "a") is None


def test_what_counts() -> None:
    """Distinct addresses of ready endpoints of this node, each family for itself."""
    here, there = "a", "b"
    slices = (
        piece(
            "one",
            Family.IPV4,
            Endpoint(Address("10.1.0.1"), node=here),
            Endpoint(Address("10.1.0.2"), node=here, ready=False),
            Endpoint(Address("10.1.0.3"), node=here, terminating=True),
            Endpoint(Address("10.1.0.4"), node=there),
        ),
        piece("two", Family.IPV4, Endpoint(Address("10.1.0.1"), node=here), Endpoint(Address("10.1.0.5"), node=here)),
        piece("six", Family.IPV6, Endpoint(Address("fd01::1"), node=here)),
    )
    expected = HealthCheck(ServiceKey("shop", "web"), 32101, {Family.IPV4: 2, Family.IPV6: 1})
    assert health_check_of(SERVICE, slices, here) == expected
    single = replace(SERVICE, cluster_ips=(Address("10.96.0.1"),))
    assert health_check_of(single, slices, there) == HealthCheck(ServiceKey("shop", "web"), 32101, {Family.IPV4: 1})
