"""Edits in place: whatever is edited of a Service, its virtual server stays, and with it every connection.

A virtual server that were deleted and added again would reset its connections (`expire_nodest_conn`) and start its
counters from 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster_documents import DNS, HTTP, endpoint_slice, service
from tests.support.proxied_node import A, B, C, ProxiedNode, Proxy, eventually, settled

pytestmark = pytest.mark.kernel

SCHEDULERS = ["wrr", "lc", "wlc", "sh", "mh", "sed", "nq", "dh", "lblc", "lblcr", "fo", "ovf", "rr"]


@pytest.fixture
def proxy(place, tmp_path) -> Iterator[Proxy]:
    made = Proxy(place.node, tmp_path)
    yield made
    made.end()


EDITS = {
    "scheduler": [{"annotations": {"scheduler": name}} for name in SCHEDULERS],
    "flags": [
        {"annotations": {"scheduler": name, "scheduler-flags": flags}}
        for name in ("sh", "mh")
        for flags in (f"{name}-port", f"{name}-fallback", f"{name}-port,{name}-fallback", "flag-3")
    ],
    "affinity": [{"affinity": seconds} for seconds in (600, 601, 10800, 0, 60, 0)],
    "weights": [{"annotations": {"weights": text}} for text in (f"{A}=5,*=2", "*=65535", f"{B}=1,*=3", "*=1")],
    "everything": [
        {"annotations": {"scheduler": "wrr", "weights": f"{A}=7,*=2"}, "affinity": 300},
        {"annotations": {"scheduler": "mh", "weights": "*=9", "scheduler-flags": "mh-fallback"}},
        {"annotations": {"scheduler": "sh", "drain-timeout": "1s"}, "affinity": 5},
        {},
    ],
}


@pytest.mark.parametrize("what", EDITS)
def test_edits_keep_the_virtual_server_and_its_connections(place, proxy, what):
    address = place.free_address()
    pieces = endpoint_slice("web", [A, B, C])
    proxy.wants(service("web", address), pieces)
    made = 6
    with place.held(address, made) as conversations:
        servers = [each.ask().server for each in conversations]
        assert sorted(servers) == sorted("ABC" * 2)
        seen = {line for line in place.saved() if address in line and line.startswith("-A")}
        for edit in EDITS[what]:
            assert 0 < proxy.wants(service("web", address, **edit), pieces) <= 4
            (line,) = (line for line in place.saved() if address in line and line.startswith("-A"))
            seen.add(line)
            if " ovf" not in line:  # takes the weight for the number of connections that a real server may have
                place.answers(address, 3)
                made += 3
            assert [each.ask().server for each in conversations] == servers, edit
        if what != "weights":
            assert len(seen) > 2, "the edits have reached the kernel"
    eventually(lambda: proxy.counters(address).connections == made)


def test_new_target_port(place, proxy):
    """Other real servers: the old ones drain, and the new ones are there first."""
    address = place.free_address()
    web = service("web", address)
    proxy.wants(web, endpoint_slice("web", [A]))
    with place.held(address) as (conversation,):
        proxy.wants(web, endpoint_slice("web", [A], {"http": ("TCP", 80, 8081)}))
        settled(proxy)
        lines = {line for line in place.saved() if address in line and line.startswith("-a")}
        assert lines == {
            f"-a -t {address}:80 -r {A}:8080 -m -w 0",
            f"-a -t {address}:80 -r {A}:8081 -m -w 1",
        }
        assert conversation.ask().server == "A"


def test_an_address_stays_bound_until_its_last_port_goes(place, proxy):
    address = place.free_address()
    alt = {"alt": ("TCP", 81, 8080)}
    ports = {**HTTP, **alt, **DNS}

    def want(mine, *others):
        proxy.wants(service("web", address, mine), endpoint_slice("web", [A, B], mine), *others)

    # Another Service on the same address, as external and load balancer addresses may be; here a cluster IP will do.
    other = [
        service("other", address, {"more": ("TCP", 82, 8080)}),
        endpoint_slice("other", [C], {"more": HTTP["http"]}),
    ]
    want(ports, *other)
    with place.held(address) as (conversation,):
        for fewer in ({**HTTP, **DNS}, HTTP):
            want(fewer, *other)
            assert bound(place, address)
            assert conversation.ask().failure is None
    want(alt, *other)
    assert bound(place, address)
    assert place.answers(address, 2, port=81) in ("AB", "BA")
    proxy.wants(*other)
    assert bound(place, address)
    assert place.answers(address, 2, port=82) == "CC"
    proxy.wants()
    assert not bound(place, address)
    with pytest.raises(OSError, match="No route to host"):
        place.answers(address, 1, port=82)


def test_an_address_that_moves_between_services_is_bound_all_the_time(place, proxy):
    """No packet is lost: nothing happens to the address at all."""
    address = place.free_address()
    pieces = [endpoint_slice("web", [A]), endpoint_slice("web2", [A])]
    proxy.wants(service("web", address), *pieces)
    with place.held(address) as (conversation,):
        assert proxy.wants(service("web2", address), *pieces) == 0
        assert conversation.ask().failure is None


def test_a_service_that_gets_another_address(place, proxy):
    old, new = place.free_address(), place.free_address()
    pieces = endpoint_slice("web", [A, B])
    proxy.wants(service("web", old), pieces)
    proxy.wants(service("web", new), pieces)
    assert sorted(place.answers(new, 2)) == ["A", "B"]
    assert not bound(place, old) and bound(place, new)
    assert not place.real_servers(old)
    with pytest.raises(OSError, match="No route to host"):
        place.answers(old, 1)


def bound(place: ProxiedNode, address: str) -> bool:
    return f" {address}/32 " in place.node.run("ip", "-o", "address", "show", "dev", "kube-ipvs0")
