"""Connections of the node itself, to a server outside, on a node whose ephemeral ports overlap its node ports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from integration.lab import Server
from tests.support.agent_processes import Agents, Process
from tests.support.cluster_documents import NODE_ADDRESS, endpoint_slice, service
from tests.support.proxied_node import CLIENT, PATIENCE, A, B, ProxiedNode

pytestmark = pytest.mark.kernel

PORTS = {"net/ipv4/ip_local_port_range": "30000 33792", "net/ipv4/ip_local_reserved_ports": "33000"}
SERVED, NOT_SERVED, OUTSIDE = 30080, 30081, 9000
KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
MANY = 40


@pytest.fixture(scope="module")
def outside(place: ProxiedNode) -> None:
    place.servers.add(place.lab, [Server("outside", CLIENT, OUTSIDE, protocol) for protocol in KINDS])


@pytest.fixture
def wanted(place: ProxiedNode, agents: Agents, outside: None) -> Iterator[None]:
    """A node port that leads to pods."""
    before = {name: place.node.run("cat", f"/proc/sys/{name}") for name in PORTS}
    place.node.set_kernel(PORTS)
    ports = {"tcp": ("TCP", 80, 8080), "udp": ("UDP", 80, 8080)}
    document = service("web", place.free_address(), ports)
    document["spec"]["type"] = "NodePort"
    for port in document["spec"]["ports"]:
        port["nodePort"] = SERVED
    agents.wants(document, endpoint_slice("web", [A, B], ports))
    yield
    place.node.set_kernel(before)


@pytest.fixture
def served(agents: Agents, wanted: None) -> Process:
    """The agent of a node that another process prepared."""
    return serving(agents, "ipvs")


def serving(agents: Agents, backend: str) -> Process:
    prepared = agents.end_of("run", "--init-only", "--backend", backend)
    assert prepared.status() == 0, prepared.log
    return agents.in_sync("--backend", backend)


def reserved(place: ProxiedNode) -> str:
    return place.node.run("cat", "/proc/sys/net/ipv4/ip_local_reserved_ports").strip()


def connection(place: ProxiedNode, protocol: str, port: int = 0, patience: float = PATIENCE) -> socket.socket:
    """One that the server has answered. Raises TimeoutError."""
    made = place.node.socket(socket.AF_INET, KINDS[protocol])
    try:
        made.settimeout(patience)
        if port:
            made.bind((NODE_ADDRESS, port))
        made.connect((CLIENT, OUTSIDE))
        made.send(b"GET / HTTP/1.1\r\nHost: outside\r\n\r\n")
        assert b"outside" in made.recv(4096)
    except BaseException:
        made.close()
        raise
    return made


@pytest.mark.parametrize("protocol", KINDS)
def test_a_port_that_the_kernel_chooses_works_and_a_node_port_does_not(place, served, protocol):
    with ExitStack() as stack:
        made = [stack.enter_context(connection(place, protocol)) for _ in range(MANY)]
        chosen = {each.getsockname()[1] for each in made}
        assert len(chosen) == MANY and min(chosen) > 32767 and 33000 not in chosen
        stack.enter_context(connection(place, protocol, NOT_SERVED))
        with pytest.raises(TimeoutError):  # why they are reserved: the answer went to a pod
            connection(place, protocol, SERVED, patience=0.5)


def test_on_iptables_a_node_port_is_as_good_as_any(place, agents, wanted):
    agent = serving(agents, "iptables")
    assert reserved(place) == "33000" and place.answers(NODE_ADDRESS, 1, port=SERVED) in "AB"
    for protocol in KINDS:
        connection(place, protocol, SERVED).close()
    agent.stop()
    done = agents.end_of("cleanup", "--yes")
    assert done.status() == 0, done.log


def test_what_is_taken_away_comes_back_and_cleanup_takes_what_is_ours(place, agents, served):
    assert reserved(place) == "30000-32767,33000"
    place.node.run("sysctl", "-qw", "net.ipv4.ip_local_reserved_ports=33001")
    served.says(r"repaired drift \(sysctl\): .*net\.ipv4\.ip_local_reserved_ports")
    assert reserved(place) == "30000-32767,33001"
    served.stop()
    done = agents.end_of("cleanup", "--yes")
    assert done.status() == 0, done.log
    assert reserved(place) == "33001"
