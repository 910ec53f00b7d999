"""Generates clusters: Hypothesis strategies for Services and EndpointSlices, and regular clusters of any size."""

from __future__ import annotations

from hypothesis import strategies as st

from ipvsagent.address import Address, Family
from ipvsagent.cluster.objects import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    LoadBalancerIngress,
    Object,
    Service,
    ServicePort,
)
from ipvsagent.model import Protocol

NODE = "here"
IPS = ["10.96.0.1", "10.96.0.2", "fd00::1"]
INGRESS = [LoadBalancerIngress(Address(ip)) for ip in ("192.0.2.1", "192.0.2.2", "fd00:192::1")]
ENDPOINTS = [f"10.1.0.{i}" for i in range(1, 6)] + ["10.96.0.2"]
NAMES = ["a", "b", "c"]
services = st.builds(
    Service,
    namespace=st.just("ns"),
    name=st.sampled_from(NAMES),
    created=st.one_of(st.none(), st.integers(0, 3)),
    cluster_ips=st.lists(st.sampled_from(IPS).map(Address), min_size=1, max_size=2, unique=True).map(tuple),
    ports=st.sampled_from(
        [
            (ServicePort("http", Protocol.TCP, 80),),
            (ServicePort("http", Protocol.TCP, 80), ServicePort("dns", Protocol.UDP, 53)),
            (ServicePort("dns", Protocol.UDP, 53),),
        ]
    ),
    internal_local=st.booleans(),
    external_local=st.booleans(),
    type=st.sampled_from(["ClusterIP", "LoadBalancer"]),
    ingress=st.lists(st.sampled_from(INGRESS), max_size=2, unique=True).map(tuple),
    affinity_timeout=st.sampled_from([0, 0, 100]),
    annotations=st.sampled_from([{}, {}, {"ipvsagent.io/scheduler": "lc"}, {"ipvsagent.io/weights": "10.1.0.1=0,*=3"}]),
)
endpoints = st.builds(
    Endpoint,
    address=st.sampled_from(ENDPOINTS).map(Address),
    ready=st.sampled_from([True, True, False]),
    serving=st.sampled_from([True, True, False]),
    terminating=st.sampled_from([False, False, True]),
    node=st.sampled_from(["", NODE, "other"]),
)
slices = st.builds(
    EndpointSlice,
    namespace=st.just("ns"),
    name=st.sampled_from(["s1", "s2", "s3"]),
    service=st.sampled_from(NAMES),
    family=st.just(Family.IPV4),
    ports=st.just((EndpointPort("http", Protocol.TCP, 8080), EndpointPort("dns", Protocol.UDP, 5353))),
    endpoints=st.lists(endpoints, max_size=4, unique_by=lambda e: e.address).map(tuple),
)


def many(count: int, *, local: bool = False) -> list[Object]:
    """Return `count` Services, each followed by its EndpointSlice with four endpoints.

    local: each Service has a load balancer address and externalTrafficPolicy Local, and every second endpoint is here.
    """
    objects: list[Object] = []
    for n in range(count):
        high, low = divmod(n, 250)
        objects.append(
            Service(
                namespace="ns",
                name=f"s{n}",
                cluster_ips=(Address(f"10.96.{high}.{low + 1}"),),
                ports=(ServicePort("http", Protocol.TCP, 80),),
                type="LoadBalancer" if local else "ClusterIP",
                external_local=local,
                ingress=(LoadBalancerIngress(Address(f"192.0.{high}.{low + 1}")),) if local else (),
            )
        )
        objects.append(
            EndpointSlice(
                namespace="ns",
                name=f"s{n}-x",
                service=f"s{n}",
                family=Family.IPV4,
                ports=(EndpointPort("http", Protocol.TCP, 8080),),
                endpoints=tuple(
                    Endpoint(Address(f"10.{1 + k}.{high}.{low + 1}"), node=NODE if k % 2 == 0 else "other")
                    for k in range(4)
                ),
            )
        )
    return objects
