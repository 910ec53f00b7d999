"""What kube-proxy's ipvs mode left on the node's own addresses, under an agent on iptables.

Where a Service is served there, nat has translated its packets before IPVS looks at them, whoever sends them; but a
node port that no Service has any more would go on leading to the endpoints of old.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.lab import Failure, Question, Target, ask
from integration.lab.load import Conversation
from tests.support.agent_processes import Agents
from tests.support.cluster_documents import NODE_ADDRESS, endpoint_slice, service
from tests.support.proxied_node import A, B, D, ProxiedNode, eventually

pytestmark = pytest.mark.kernel

SERVED, GONE, OTHERS = 30080, 30081, 8443
MASQUERADE = "-m mark --mark 0x4000/0x4000 -j MASQUERADE"
"""As kube-proxy has it; without such a rule no connection is tracked."""
PORTS = (SERVED, GONE, OTHERS)


@pytest.fixture
def left(place: ProxiedNode) -> Iterator[None]:
    """Virtual servers that lead to D; the last is another program's."""
    run = place.node.run
    run("sysctl", "-qw", "net.ipv4.vs.conntrack=1")
    run("iptables", "-t", "nat", "-A", "POSTROUTING", *MASQUERADE.split())
    for port in PORTS:
        run("ipvsadm", "-A", "-t", f"{NODE_ADDRESS}:{port}", "-s", "rr")
        run("ipvsadm", "-a", "-t", f"{NODE_ADDRESS}:{port}", "-r", f"{D}:8080", "-m")
    run("ipset", "create", "KUBE-NODE-PORT-TCP", "bitmap:port", "range", "0-65535")
    for port in (SERVED, GONE):
        run("ipset", "add", "KUBE-NODE-PORT-TCP", str(port))
    yield
    run("iptables", "-t", "nat", "-D", "POSTROUTING", *MASQUERADE.split())
    run("ipset", "destroy", "KUBE-NODE-PORT-TCP")


def answered(place: ProxiedNode, port: int) -> set[str]:
    """By whom, four connections from outside and four of the node itself; a failure by its name."""
    target = Target(NODE_ADDRESS, port)
    outcomes = ask([Question(each, target) for each in (place.client, place.node) for _ in range(4)], timeout=2.0)
    return {str(outcome.failure or outcome.server) for outcome in outcomes}


def test_they_take_no_packet_of_a_service_and_go(place: ProxiedNode, agents: Agents, left: None) -> None:
    assert all(answered(place, port) == {"D"} for port in PORTS)
    document = service("web", place.free_address())
    document["spec"] |= {"type": "NodePort"}
    document["spec"]["ports"][0]["nodePort"] = SERVED
    agents.wants(document, endpoint_slice("web", [A, B]))
    held = Conversation(place.client, Target(NODE_ADDRESS, SERVED))
    assert held.ask().server == "D"
    agent = agents.in_sync("--backend", "iptables")
    assert answered(place, SERVED) == {"A", "B"}
    assert held.ask().server == "D", "what was begun there goes on there"
    agent.says("IPVS: virtual servers, which this node used before, remain")
    assert any(f"{NODE_ADDRESS}:{SERVED}" in line for line in place.saved())
    agent.stop()
    held.close()

    agents.in_sync("--backend", "iptables", "--drain-timeout", "1s")
    eventually(lambda: all(f":{OTHERS}" in line for line in place.saved()), 20)
    assert answered(place, SERVED) == {"A", "B"} and answered(place, GONE) == {Failure.REFUSED.value}
    assert answered(place, OTHERS) == {"D"}, "another program's is left alone"
