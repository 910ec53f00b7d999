"""A renderer that says that two virtual servers share alike spares rendering both, so it must never be wrong."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ipvsagent.address import Address
from ipvsagent.model import Frontend, Protocol, RealServer, ServicePortName, VirtualServer, VirtualServerId, WhenEmpty
from ipvsagent.render.ipvs import IpvsRenderer

PLAIN = VirtualServer(
    id=VirtualServerId(Protocol.TCP, Address("10.96.0.1"), 80),
    service=ServicePortName("shop", "cart", "http"),
    frontend=Frontend.LOAD_BALANCER,
    scheduler="rr",
    real_servers=(RealServer(Address("10.244.1.7"), 8080),),
)
REAL_SERVERS = st.lists(
    st.builds(RealServer, st.sampled_from(["10.244.1.7", "10.244.2.7"]).map(Address), st.just(8080), st.integers(0, 2)),
    max_size=2,
).map(tuple)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "real_servers": REAL_SERVERS,
        "node_real_servers": st.none() | REAL_SERVERS,
        "unused": REAL_SERVERS,
        "inside": st.sampled_from([None, *(VirtualServerId(Protocol.TCP, Address("10.96.0.9"), n) for n in (80, 81))]),
        "node_only": st.booleans(),
        "when_empty": st.sampled_from(WhenEmpty),
        "bind": st.booleans(),
        "preserve_client_address": st.booleans(),
        "source_ranges": st.sampled_from([(), ("10.0.0.0/8",), ("0.0.0.0/0",)]),
        "frontend": st.sampled_from([Frontend.CLUSTER_IP, Frontend.LOAD_BALANCER, Frontend.NODE_CLIENTS]),
        "drain_timeout": st.sampled_from([None, 5.0]),
    },
)


@given(one=FIELDS, other=FIELDS)
def test_who_shares_alike_shares_the_same(one, other):
    before, after = replace(PLAIN, **one), replace(PLAIN, **other)
    renderer = IpvsRenderer()
    if renderer.shares_alike(before, after):
        assert renderer.shared(before) == renderer.shared(after)


def test_another_endpoint_changes_nothing_that_is_shared():
    renderer = IpvsRenderer()
    grown = replace(PLAIN, real_servers=(*PLAIN.real_servers, RealServer(Address("10.244.2.7"), 8080)))
    assert renderer.shares_alike(PLAIN, grown)
    assert not renderer.shares_alike(PLAIN, replace(PLAIN, real_servers=()))
