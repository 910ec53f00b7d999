"""UDP clients that go on sending from one port: who answers them when endpoints come and go.

Real sockets from a pod, from the node and from outside, to a cluster IP and to a node port, and the agent's process.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from integration.lab import Namespace
from ipvsagent.address import Address
from ipvsagent.kernel.conntrack import ConntrackTable
from ipvsagent.model import Protocol, VirtualServerId
from tests.support.agent_http import samples
from tests.support.agent_processes import Agents
from tests.support.cluster_documents import DNS, NODE_ADDRESS, OTHER_NODE, endpoint, endpoint_slice, service
from tests.support.proxied_node import A, B, C, ProxiedNode, Proxy, UdpClient, eventually

NODE_PORT = 30053
CLIENTS = ("pod", "node", "outside")
TARGETS = ("ClusterIP", "NodePort")


@contextlib.contextmanager
def client_at(place: ProxiedNode, where: str, address: str, port: int) -> Iterator[UdpClient]:
    namespaces: dict[str, Namespace] = {"pod": place.lab.pods["D"], "node": place.node, "outside": place.client}
    with namespaces[where].socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect((address, port))
        yield UdpClient(made)


@pytest.fixture
def dns(place) -> tuple[dict, str]:
    address = place.free_address()
    document = service("dns", address, DNS)
    document["spec"]["type"] = "NodePort"
    document["spec"]["ports"][0]["nodePort"] = NODE_PORT
    # Local already, as where another port of the address is served: else the packets would go elsewhere.
    place.node.run("ip", "link", "add", "kube-ipvs0", "type", "dummy")
    place.node.run("ip", "address", "add", f"{address}/32", "dev", "kube-ipvs0", "scope", "host")
    return document, address


@pytest.fixture
def tracking(place) -> Iterator[None]:
    """Connections are tracked before there is an agent, as on a node with any firewall."""
    place.node.set_kernel({"net/ipv4/vs/conntrack": "1"})
    rule = ("INPUT", "-s", "198.51.100.77", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
    place.node.run("iptables", "-A", *rule)
    yield
    place.node.run("iptables", "-D", *rule)


@pytest.fixture
def streams(place, dns):
    """A client in every place for every kind of address, each with its own socket."""
    address = dns[1]
    targets = {"ClusterIP": (address, 53), "NodePort": (NODE_ADDRESS, NODE_PORT)}
    with contextlib.ExitStack() as stack:
        yield {
            (where, kind): stack.enter_context(client_at(place, where, *targets[kind]))
            for where in CLIENTS
            for kind in TARGETS
        }


def answers(streams: dict, patience: float = 0.5) -> dict:
    return {name: client.ask(patience) for name, client in streams.items()}


@pytest.mark.kernel
def test_a_client_that_sent_before_the_service_existed(place, agents: Agents, tracking, dns, streams):
    """Its entry says that its packets go where they were sent, and each packet keeps the entry alive."""
    document, address = dns
    # A program that swallows what it gets: nothing, and no refusal either, comes back before there is a Service.
    with contextlib.ExitStack() as swallowers:
        for where, port in ((address, 53), (NODE_ADDRESS, NODE_PORT)):
            sink = swallowers.enter_context(place.node.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sink.bind((where, port))
        assert set(answers(streams, 0.05).values()) == {""}
    with place.node.entered(), contextlib.closing(ConntrackTable()) as table:
        servers = [
            VirtualServerId(Protocol.UDP, Address(address), 53),
            VirtualServerId(Protocol.UDP, Address(NODE_ADDRESS), NODE_PORT),
        ]
        assert {flow.answerer for flow in table.flows(servers)} == {(address, 53), (NODE_ADDRESS, NODE_PORT)}
    agents.wants(document, endpoint_slice("dns", [A], DNS))
    agent = agents.in_sync()
    agent.says(r"ended \d+ UDP flows that no real server answers")
    assert answers(streams) == dict.fromkeys(streams, "A")
    found = samples(place)
    assert found['kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"}'] > 0
    assert found['kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family="IPv4"}'] > 0


@pytest.mark.kernel
def test_without_it_that_client_gets_no_answer(place, tracking, dns, tmp_path):
    """What the test before this one would see without the agent's thread: the kernel alone does not help."""
    document, address = dns
    with client_at(place, "outside", address, 53) as client:
        with place.node.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
            sink.bind((address, 53))
            assert client.ask() == ""
        proxy = Proxy(place.node, tmp_path)
        proxy.wants(document, endpoint_slice("dns", [A], DNS))
        assert [client.ask() for _ in range(3)] == ["", "", ""]
        proxy.end()
    place.node.run("ip", "link", "delete", "kube-ipvs0")


@pytest.mark.kernel
def test_an_endpoint_is_replaced_under_every_stream(place, agents: Agents, dns, streams):
    document, _ = dns
    agents.wants(document, endpoint_slice("dns", [A], DNS))
    agents.in_sync()
    assert answers(streams) == dict.fromkeys(streams, "A")
    for real, name in ((B, "B"), (C, "C")):
        agents.wants(document, endpoint_slice("dns", [real], DNS))
        eventually(lambda name=name: place.weights(document["spec"]["clusterIP"], 53, "UDP") == {name: 1})
        # IPVS takes its entries away a moment after the real server; from then on no packet is lost.
        eventually(lambda name=name: answers(streams) == dict.fromkeys(streams, name))
        assert [answers(streams) for _ in range(2)] == [dict.fromkeys(streams, name)] * 2


@pytest.mark.kernel
@pytest.mark.parametrize("internal", ["Cluster", "Local"])
def test_an_endpoint_elsewhere_is_replaced_under_clients_that_are_translated(place, agents: Agents, internal):
    """From its second packet on connection tracking alone knows where such a flow goes, and the virtual server that it
    was sent to has no such real server."""
    address = place.free_address().replace("10.96.0.", "10.96.7.")
    document = service("dns", place.free_address(), DNS, local_at=address)
    document["spec"]["internalTrafficPolicy"] = internal

    def wanted(elsewhere: str) -> list[dict]:
        return [document, endpoint_slice("dns", [endpoint(A), endpoint(elsewhere, "ready", OTHER_NODE)], DNS)]

    agents.wants(*wanted(B))
    agents.in_sync("--cluster-cidr", "10.244.0.0/16")
    with contextlib.ExitStack() as stack:
        # Endpoints take turns: of eight streams some have the one elsewhere.
        streams = {
            (where, n): stack.enter_context(client_at(place, where, address, 53))
            for where in CLIENTS
            for n in range(8 if where != "outside" else 1)
        }
        before = answers(streams)
        assert before["outside", 0] == "A"
        for where in ("pod", "node"):
            assert {name for (at, _), name in before.items() if at == where} == {"A", "B"}
        for real, name in ((C, "C"), (B, "B")):
            agents.wants(*wanted(real))
            eventually(lambda name=name: set(answers(streams).values()) == {"A", name})
            after = answers(streams)
            assert {key: after[key] for key in before if before[key] == "A"} == {
                k: "A" for k in before if before[k] == "A"
            }
            before = after
        # Without an endpoint here it is the same.
        agents.wants(document, endpoint_slice("dns", [endpoint(C, "ready", OTHER_NODE)], DNS))
        inside = {key: client for key, client in streams.items() if key[0] != "outside"}
        eventually(lambda: set(answers(inside).values()) == {"C"})
        assert streams["outside", 0].ask() == ""


@pytest.mark.kernel
def test_a_service_without_endpoints_for_a_while(place, agents: Agents, dns, streams):
    document, address = dns
    agents.wants(document, endpoint_slice("dns", [A], DNS))
    agents.in_sync()
    assert answers(streams) == dict.fromkeys(streams, "A")
    agents.wants(document, endpoint_slice("dns", [], DNS))
    eventually(lambda: not place.real_servers(address, 53, "UDP"))
    assert set(answers(streams, 0.05).values()) == {""}
    agents.wants(document, endpoint_slice("dns", [B], DNS))
    eventually(lambda: place.weights(address, 53, "UDP") == {"B": 1})
    eventually(lambda: answers(streams) == dict.fromkeys(streams, "B"))
