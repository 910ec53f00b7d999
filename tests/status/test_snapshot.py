"""What is counted when somebody asks."""

from __future__ import annotations

from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.cluster.objects import Endpoint, EndpointSlice, Service
from ipvsagent.kernel.fake import FakeKernel
from ipvsagent.status.snapshot import without_local_endpoints
from tests.test_laws import EVERYTHING_KNOWN, Agent, many

HERE, ELSEWHERE = many(1, local=True)[1].endpoints[:2]


def counted(endpoints: tuple[Endpoint, ...], **changes: object) -> dict[tuple[Family, str], int]:
    service, piece = many(1, local=True)
    assert isinstance(service, Service) and isinstance(piece, EndpointSlice)
    service = replace(service, external_ips=(Address("192.0.2.200"),), **changes)
    agent = Agent(FakeKernel(), [service, replace(piece, endpoints=endpoints)], 0.0, EVERYTHING_KNOWN)
    return without_local_endpoints(agent.pipeline)


def test_a_service_counts_once_whatever_its_addresses() -> None:
    assert counted((ELSEWHERE,)) == {(Family.IPV4, "external"): 1}
    assert counted((ELSEWHERE,), internal_local=True) == {(Family.IPV4, "external"): 1, (Family.IPV4, "internal"): 1}


def test_not_with_an_endpoint_here_nor_without_any_nor_with_the_policy_cluster() -> None:
    assert counted((HERE, ELSEWHERE), internal_local=True) == {}
    assert counted((), internal_local=True) == {}
    assert counted((ELSEWHERE,), external_local=False) == {}
