"""What is counted when somebody asks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.cluster.objects import EVERYTHING_KNOWN, Endpoint, EndpointSlice, LoadBalancerIngress, Service
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.status.snapshot import without_local_endpoints
from tests.support.generated_cluster import many
from tests.support.iptables_pipeline import Agent as AgentOnIptables
from tests.support.ipvs_pipeline import Agent

HERE, ELSEWHERE = many(1, local=True)[1].endpoints[:2]


Counted = Callable[..., dict[tuple[Family, str], int]]


@pytest.fixture(params=["ipvs", "iptables"])
def counted(request: pytest.FixtureRequest) -> Counted:
    """From the endpoints of a Service, and what else is changed of it."""

    def count(endpoints: tuple[Endpoint, ...], **changes: object) -> dict[tuple[Family, str], int]:
        service, piece = many(1, local=True)
        assert isinstance(service, Service) and isinstance(piece, EndpointSlice)
        more = (*service.ingress, LoadBalancerIngress(Address("192.0.2.200")))
        objects = [replace(service, ingress=more, **changes), replace(piece, endpoints=endpoints)]
        if request.param == "ipvs":
            return without_local_endpoints(Agent(FakeKernel(), objects, 0.0, EVERYTHING_KNOWN).pipeline)
        return without_local_endpoints(AgentOnIptables(FakeKernel(), objects, 0.0).pipeline)

    return count


def test_a_service_counts_once_whatever_its_addresses(counted: Counted) -> None:
    assert counted((ELSEWHERE,)) == {(Family.IPV4, "external"): 1}
    assert counted((ELSEWHERE,), internal_local=True) == {(Family.IPV4, "external"): 1, (Family.IPV4, "internal"): 1}


def test_not_with_an_endpoint_here_nor_without_any_nor_with_the_policy_cluster(counted: Counted) -> None:
    assert counted((HERE, ELSEWHERE), internal_local=True) == {}
    assert counted((), internal_local=True) == {}
    assert counted((ELSEWHERE,), external_local=False) == {}
