"""externalTrafficPolicy Local while endpoints come and go: connections through both virtual servers, restarts, packet
rules that wait, and what an older agent left. Who reaches what is for the table in integration/flows."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from integration.lab import Namespace, Target
from integration.lab.load import Conversation, Failure, Question, ask
from ipvsagent.address import Address
from ipvsagent.config import parse_network
from ipvsagent.kernel.ipvs.ownership import Ledger, state_key
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.reconcile.by_mark import LOOK_EVERY
from tests.support.cluster_documents import NODE_ADDRESS, OTHER_NODE, Document, endpoint, endpoint_slice, service
from tests.support.proxied_node import A, B, C, ProxiedNode, Proxy, eventually, settled

pytestmark = pytest.mark.kernel

CLUSTER_IP = "10.96.5.1"
POD_NETWORK = (parse_network("10.244.0.0/16"),)
HIDDEN = 32848


@pytest.fixture
def proxy(place, tmp_path) -> Iterator[Proxy]:
    made = Proxy(place.node, tmp_path, rules=True, cluster_cidrs=POD_NETWORK)
    yield made
    made.end()


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


def translated(place: ProxiedNode) -> dict[str, str]:
    """Where clients on the node are translated from, and where to."""
    lines = place.node.run("iptables", "-t", "nat", "-S", "IPVSAGENT-INSIDE").splitlines()
    found = [re.search(r"-d ([\d.]+)/32 .*--dport (\d+) .*--to-destination (\S+)", line) for line in lines]
    return {f"{each[1]}:{each[2]}": each[3] for each in found if each}


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
        assert place.weights(address) == {"A": 0, "C": 1} and place.weights(CLUSTER_IP) == {"A": 0, "B": 1, "C": 1}
        assert inside.ask().server == outside.ask().server == "A"
        assert reached(place.client, address) == {"C"} and reached(place.node, address) == {"B", "C"}
        proxy.wants(*web(address, {C: "ready"}, {B: "ready"}))
        settled(proxy)
        assert outside.ask().failure, "it has ended, and nobody waits for a time-out"
        # From its second packet on connection tracking alone knows where it goes, past IPVS. It ends with the pod.
        assert inside.ask().server == "A"
    assert place.weights(address) == {"C": 1} and place.weights(CLUSTER_IP) == {"B": 1, "C": 1}


@pytest.mark.parametrize("internal_local", [False, True])
def test_a_restart_writes_nothing(place, proxy, address, internal_local) -> None:
    wanted = web(address, {A: "ready"}, {B: "ready"}, affinity=60)
    wanted[0]["spec"]["internalTrafficPolicy"] = "Local" if internal_local else "Cluster"
    proxy.wants(*wanted)
    target = f"{CLUSTER_IP}:{HIDDEN if internal_local else 80}"
    before = place.saved()
    assert translated(place) == {f"{address}:80": target}
    again = proxy.restarted()
    assert again.wants(*wanted) == 0 and again.rules and not again.rules.pending
    assert place.saved() == before and translated(place) == {f"{address}:80": target}
    again.end()
    assert not translated(place) and not place.saved()


def test_affinity_is_that_of_the_cluster_ip(place, proxy, address) -> None:
    proxy.wants(*web(address, {A: "ready"}, {B: "ready", C: "ready"}, affinity=60))
    assert len(reached(place.node, address)) == 1 and reached(place.node, address) <= {"A", "B", "C"}
    pod = place.lab.pods["D"]
    assert len(reached(pod, address)) == 1 and reached(pod, address) == reached(pod, CLUSTER_IP)
    assert reached(place.client, address) == {"A"}


def test_with_both_policies_local_a_hidden_port_has_every_endpoint(place, proxy, address) -> None:
    wanted = web(address, {A: "ready"}, {B: "ready"})
    wanted[0]["spec"]["internalTrafficPolicy"] = "Local"
    proxy.wants(*wanted)
    pod = place.lab.pods["D"]
    assert place.weights(CLUSTER_IP) == {"A": 1} and place.weights(CLUSTER_IP, HIDDEN) == {"A": 1, "B": 1}
    for client in (place.node, pod):
        assert reached(client, address) == {"A", "B"} and reached(client, CLUSTER_IP) == {"A"}
        (outcome,) = ask([Question(client, Target(CLUSTER_IP, HIDDEN))], timeout=1.5)
        assert outcome.failure, "nobody comes to it but by translation"
    assert reached(place.client, address) == {"A"}
    proxy.wants(*web(address, {A: "ready"}, {B: "ready"}))
    settled(proxy)
    assert translated(place) == {f"{address}:80": f"{CLUSTER_IP}:80"} and not place.real_servers(CLUSTER_IP, HIDDEN)
    assert reached(place.node, address) == {"A", "B"}


def test_the_node_reaches_its_own_addresses_behind_a_default_of_drop(place, proxy, address) -> None:
    """Its source is no Service address then, and all but the first packet of it pass IPVS by."""
    wanted = web(address, {A: "ready"}, {B: "ready"})
    wanted[0]["spec"]["ports"][0]["nodePort"] = 30080
    wanted[0]["status"]["loadBalancer"]["ingress"].append({"ip": NODE_ADDRESS})
    proxy.wants(*wanted)
    chains = ("INPUT", "FORWARD", "OUTPUT")
    try:
        for chain in chains:
            place.node.run("iptables", "-P", chain, "DROP")
        proxy.after(0.0)
        targets = [Target(NODE_ADDRESS, 30080), Target(NODE_ADDRESS, 80), Target(address, 80)]
        for client, servers in ((place.node, {"A", "B"}), (place.lab.pods["D"], {"A", "B"}), (place.client, {"A"})):
            for target in targets:
                outcomes = ask([Question(client, target) for _ in range(8)], timeout=1.5)
                assert {outcome.server for outcome in outcomes} == servers, f"{client} at {target}"
    finally:
        for chain in chains:
            place.node.run("iptables", "-P", chain, "ACCEPT")
        proxy.after(0.0)


def test_while_the_rules_wait_the_node_fares_as_with_kube_proxy(place, tmp_path, address, monkeypatch) -> None:
    """Another program may hold the lock of iptables for long; no client is without an answer for that."""
    proxy = Proxy(place.node, tmp_path, rules=True, cluster_cidrs=POD_NETWORK)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(proxy, "keep_rules", lambda: None)
            proxy.wants(*web(address, {A: "ready"}, {B: "ready"}))
            assert proxy.rules and proxy.rules.pending
            assert reached(place.node, address) == reached(place.client, address) == {"A"}
            proxy.wants(*web(address, {}, {B: "ready"}))
            settled(proxy)
            assert reached(place.node, address) == {"B"}
            assert reached(place.client, address, 2) == {str(Failure.TIMEOUT)}
            proxy.wants(*web(address, {A: "ready"}, {B: "ready"}))
            settled(proxy)
        proxy.after(0.0)
        assert not proxy.rules.pending and reached(place.node, address) == {"A", "B"}
    finally:
        proxy.end()


def test_what_an_older_agent_made_for_a_mark_drains(place, tmp_path, address) -> None:
    """It has a connection, keeps it, and goes with it; new ones go where they go now."""
    mark = 0x2F900000
    with place.node.entered():
        ledger = Ledger(tmp_path / f"{state_key()}.ledger")
        ledger.claim([VirtualServerId(Protocol.FWM, Address("0.0.0.0"), mark)])
        ledger.close()
    # As one more agent of before left it: its rules are replaced by those of the new one, its virtual server is there.
    marking = ("OUTPUT", "-d", address, "-p", "tcp", "-j", "MARK", "--set-mark", f"{mark:#x}")
    place.node.run("sh", "-c", "ip link add kube-ipvs0 type dummy 2>/dev/null; true")
    place.node.run("ip", "address", "replace", f"{address}/32", "dev", "kube-ipvs0", "scope", "host")
    place.node.run("ipvsadm", "-A", "-f", str(mark), "-s", "rr")
    place.node.run("ipvsadm", "-a", "-f", str(mark), "-r", f"{B}:8080", "-m")
    place.node.run("iptables", "-t", "mangle", "-A", *marking)
    conversation = Conversation(place.node, Target(address, 80), timeout=5.0)
    assert conversation.ask().server == "B"
    place.node.run("iptables", "-t", "mangle", "-D", *marking)

    proxy = Proxy(place.node, tmp_path, rules=True, cluster_cidrs=POD_NETWORK)
    try:
        proxy.wants(*web(address, {A: "ready"}, {C: "ready"}))
        left = {f"-A -f {mark} -s rr", f"-a -f {mark} -r {B}:8080 -m -w 0"}
        assert left <= place.saved()
        assert reached(place.node, address) == {"A", "C"} and reached(place.client, address) == {"A"}
        for _ in range(3):
            assert proxy.after(LOOK_EVERY) == 0 and left <= place.saved()
            assert conversation.ask().server == "B"
        conversation._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        conversation.close()  # by a reset: the kernel forgets it soon
        eventually(lambda: f"{B}:8080" not in place.node.run("ipvsadm", "-Lcn"))
        assert proxy.after(LOOK_EVERY) and not left & place.saved()
        assert reached(place.node, address) == {"A", "C"}
    finally:
        conversation.close()
        proxy.end()
