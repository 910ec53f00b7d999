"""externalTrafficPolicy Local while endpoints come and go: connections through both virtual servers, restarts, and
other programs' firewall marks. Who reaches what is for the table in integration/flows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from integration.lab import Namespace, Target
from integration.lab.load import Conversation, Failure, Question, ask
from ipvsagent.config import parse_network
from ipvsagent.packet_filter import PacketFilter
from tests.kernel.cluster_documents import OTHER_NODE, Document, endpoint, endpoint_slice, service
from tests.kernel.proxied_node import A, B, C, ProxiedNode, Proxy, settled

pytestmark = pytest.mark.kernel

CLUSTER_IP = "10.96.5.1"
FWM = re.compile(r"^-A -f (\d+)", re.MULTILINE)


@pytest.fixture
def proxy(place, tmp_path) -> Iterator[Proxy]:
    made = Proxy(place.node, tmp_path, cluster_cidrs=(parse_network("10.244.0.0/16"),))
    rules(made, place)
    yield made
    made.end()


def rules(proxy: Proxy, place: ProxiedNode) -> None:
    with place.node.entered():
        kept = PacketFilter(proxy.config)
        kept.install()
        kept.close()


@pytest.fixture
def address(place) -> str:
    return place.free_address().replace("10.96.0.", "10.96.6.")


def web(address: str, here: dict[str, str], there: dict[str, str], **settings) -> list[Document]:
    """here, there: addresses of endpoints and their states."""
    endpoints = [endpoint(a, state) for a, state in here.items()]
    endpoints += [endpoint(a, state, OTHER_NODE) for a, state in there.items()]
    return [service("web", CLUSTER_IP, local_at=address, **settings), endpoint_slice("web", endpoints)]


@contextmanager
def conversation(client: Namespace, address: str, server: str) -> Iterator[Conversation]:
    """An open connection that this server has answered."""
    made: list[Conversation] = []
    try:
        for _ in range(20):
            made.append(Conversation(client, Target(address, 80), timeout=5.0))
            if made[-1].ask().server == server:
                yield made[-1]
                return
        raise AssertionError(f"{server} never answers")
    finally:
        for each in made:
            each.close()


def reached(client: Namespace, address: str, count: int = 8) -> set[str]:
    """Servers that answered new connections; a failure by its name."""
    outcomes = ask([Question(client, Target(address, 80)) for _ in range(count)], timeout=1.5)
    return {str(outcome.server if outcome.failure is None else outcome.failure) for outcome in outcomes}


def by_mark(place: ProxiedNode) -> dict[str, int]:
    """Weights of the virtual server of a mark."""
    (number,) = FWM.findall("\n".join(place.saved()))
    lines = [line for line in place.saved() if line.startswith(f"-a -f {number} ")]
    found = [re.search(r"-r ([\d.]+):\d+ -m -w (\d+)", line) for line in lines]
    return {place.name_of(each[1]): int(each[2]) for each in found if each}


def test_connections_of_the_node_outlive_the_last_endpoint_here(place, proxy, address) -> None:
    both, there = web(address, {A: "ready"}, {B: "ready"}), web(address, {}, {B: "ready"})
    proxy.wants(*both)
    with conversation(place.node, address, "B") as held:
        assert reached(place.client, address) == {"A"} and reached(place.node, address) == {"A", "B"}
        proxy.wants(*there)
        settled(proxy)
        assert held.ask().server == "B"
        assert reached(place.client, address, 2) == {str(Failure.TIMEOUT)}
        assert reached(place.node, address) == {"B"}
        proxy.wants(*both)
        settled(proxy)
        assert held.ask().server == "B"
        assert reached(place.client, address) == {"A"} and reached(place.node, address) == {"A", "B"}


def test_an_endpoint_drains_in_both(place, proxy, address) -> None:
    proxy.wants(*web(address, {A: "ready", C: "ready"}, {B: "ready"}))
    with conversation(place.node, address, "A") as inside, conversation(place.client, address, "A") as outside:
        proxy.wants(*web(address, {A: "terminating", C: "ready"}, {B: "ready"}))
        assert place.weights(address) == {"A": 0, "C": 1} and by_mark(place) == {"A": 0, "B": 1, "C": 1}
        assert inside.ask().server == outside.ask().server == "A"
        assert reached(place.client, address) == {"C"} and reached(place.node, address) == {"B", "C"}
        proxy.wants(*web(address, {C: "ready"}, {B: "ready"}))
        settled(proxy)
        assert inside.ask().failure and outside.ask().failure, "it has ended, and nobody waits for a time-out"
    assert place.weights(address) == {"C": 1} and by_mark(place) == {"B": 1, "C": 1}


def test_a_restart_writes_nothing(place, proxy, address) -> None:
    wanted = web(address, {A: "ready"}, {B: "ready"}, affinity=60)
    proxy.wants(*wanted)
    before = place.saved()
    again = proxy.restarted()
    assert again.wants(*wanted) == 0
    assert place.saved() == before and FWM.search("\n".join(before))
    again.end()
    assert not FWM.search("\n".join(place.saved()))


def test_affinity_keeps_the_target_port(place, proxy, address) -> None:
    """A persistent virtual server by mark would send to port 80 of the endpoint, where nobody listens."""
    proxy.wants(*web(address, {A: "ready"}, {B: "ready", C: "ready"}, affinity=60))
    assert len(reached(place.node, address)) == 1 and reached(place.node, address) <= {"A", "B", "C"}
    assert reached(place.client, address) == {"A"}


def test_another_programs_mark_is_left_alone(place, proxy, address) -> None:
    wanted = web(address, {A: "ready"}, {B: "ready"})
    proxy.wants(*wanted)
    (number,) = FWM.findall("\n".join(place.saved()))
    proxy.wants()
    settled(proxy)
    place.node.run("ipvsadm", "-A", "-f", number, "-s", "wlc")
    try:
        proxy.wants(*wanted)
        settled(proxy)
        theirs, ours = sorted(FWM.findall("\n".join(place.saved())), key=lambda found: found != number)
        assert theirs == number != ours
        assert f"-A -f {number} -s wlc" in place.saved()
        assert reached(place.node, address) == {"A", "B"}
        assert not proxy.findings
    finally:
        place.node.run("ipvsadm", "-D", "-f", number)


def test_without_marks_the_node_fares_as_with_kube_proxy(place, tmp_path, address) -> None:
    proxy = Proxy(place.node, tmp_path, cluster_cidrs=(parse_network("10.244.0.0/16"),), local_mark_mask=0)
    rules(proxy, place)
    try:
        proxy.wants(*web(address, {A: "ready"}, {B: "ready"}))
        assert reached(place.node, address) == reached(place.client, address) == {"A"}
        proxy.wants(*web(address, {}, {B: "ready"}))
        settled(proxy)
        assert reached(place.node, address) == {"B"}
        assert reached(place.client, address, 2) == {str(Failure.TIMEOUT)}
        assert not FWM.search("\n".join(place.saved()))
    finally:
        proxy.end()
