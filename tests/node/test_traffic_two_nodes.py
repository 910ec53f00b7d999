"""mh on two nodes: whichever node a router sends a flow to, the same endpoint gets it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.lab import Target
from tests.support.cluster_documents import endpoint, endpoint_slice, service
from tests.support.proxied_node import CLIENT, CLIENTS, A, B, C, D, ProxiedNode, Proxy

pytestmark = pytest.mark.kernel

FLOWS = [(CLIENT, port) for port in range(30000, 30060)]
PEERS = [(client, 0) for client in CLIENTS[:60]]


@pytest.fixture(scope="module")
def places() -> Iterator[tuple[ProxiedNode, ProxiedNode]]:
    made = ProxiedNode(), ProxiedNode()
    yield made
    for each in made:
        each.close()


@pytest.mark.parametrize(
    ("flags", "clients", "weights"),
    [
        ("mh-port,mh-fallback", FLOWS, ""),
        ("mh-port,mh-fallback", FLOWS, f"{A}=1,{B}=5,*=2"),
        ("mh-fallback", PEERS, ""),
    ],
    ids=["flows", "weighted flows", "clients"],
)
def test_two_nodes_agree(places, tmp_path, flags, clients, weights):
    (address,) = {place.free_address() for place in places}
    web = service("web", address, annotations={"scheduler": "mh", "scheduler-flags": flags, "weights": weights})
    first, second = proxies = [Proxy(place.node, tmp_path / str(n)) for n, place in enumerate(places)]
    first.wants(web, endpoint_slice("web", [A, B, C, D]))
    for endpoints in ([D], [D, B], [D, B, A, C], [D, endpoint(B, "terminating"), A, C], [D, A, C]):
        second.wants(web, endpoint_slice("web", endpoints))
        second.after(1.0)
    assert places[1].weights(address).keys() == {"A", "C", "D"}
    # In several slices, too, and B once more.
    second.wants(web, endpoint_slice("web", [C, B], name="web-2"), endpoint_slice("web", [D, A], name="web-1"))
    assert places[0].weights(address) == places[1].weights(address)
    orders = [[line for line in place.node.run("ipvsadm", "-Sn").splitlines() if "-a" in line] for place in places]
    assert sorted(orders[0]) == sorted(orders[1])
    target = Target(address, 80)
    chosen = [{client: place.ask(target, *client) for client in clients} for place in places]
    assert chosen[0] == chosen[1]
    assert set(chosen[0].values()) == set("ABCD"), "all take part"
    for proxy in proxies:
        proxy.end()
