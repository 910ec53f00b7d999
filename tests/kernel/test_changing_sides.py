"""From one backend to the other and back, under traffic: what was begun goes on, and what is new is not lost."""

from __future__ import annotations

import pytest

from integration.lab import Load, Target
from tests.kernel.agent_processes import Agents
from tests.kernel.proxied_node import ProxiedNode, eventually

pytestmark = pytest.mark.kernel


def chains(place: ProxiedNode) -> set[str]:
    """Chains of ours, whatever the table."""
    lines = place.node.run("iptables-save").splitlines()
    return {line[1:].split()[0] for line in lines if line.startswith(":IPVSAGENT-")}


def test_to_iptables_and_back(place: ProxiedNode, agents: Agents, web: tuple[dict, dict, str]) -> None:
    document, pieces, address = web
    agents.wants(document, pieces)
    agent = agents.in_sync("--backend", "ipvs")
    assert place.saved() and "IPVSAGENT-DNAT" not in chains(place)
    load = Load(place.client, Target(address, 80), rate=20)
    try:
        with place.held(address, 2) as on_ipvs:
            agent.stop()
            agent = agents.in_sync("--backend", "iptables")
            agent.says("virtual servers of IPVS, which this node used before, still have connections")
            with place.held(address, 2) as on_iptables:
                assert all(each.ask().failure is None for each in (*on_ipvs, *on_iptables))
                assert place.saved() and place.bound() == {address}
        to_iptables = load.stop()
    finally:
        load.stop()
    assert to_iptables.answered and not to_iptables.lost, to_iptables
    agent.stop()
    agent = agents.in_sync("--backend", "iptables", "--drain-timeout", "1s")
    eventually(lambda: not place.saved())
    eventually(lambda: "IPVSAGENT-MASQ" not in chains(place))
    assert "IPVSAGENT-DNAT" in chains(place) and place.answers(address, 1)
    load = Load(place.client, Target(address, 80), rate=20)
    try:
        with place.held(address, 2) as on_iptables:
            agent.stop()
            agent = agents.in_sync("--backend", "ipvs")
            eventually(lambda: "IPVSAGENT-DNAT" not in chains(place))
            assert all(each.ask().failure is None for each in on_iptables)
            assert place.answers(address, 2)
    finally:
        back = load.stop()
    assert back.answered and not back.lost, back
    assert place.saved() and not any("IPVSAGENT-S-" in chain or "NAT" in chain for chain in chains(place))


def test_cleanup_takes_what_both_left(place: ProxiedNode, agents: Agents, web: tuple[dict, dict, str]) -> None:
    document, pieces, address = web
    agents.wants(document, pieces)
    agents.in_sync("--backend", "ipvs").stop()
    with place.held(address, 1):
        agents.in_sync("--backend", "iptables").stop()
        assert place.saved() and "IPVSAGENT-DNAT" in chains(place)
        assert agents.end_of("cleanup", "--yes").wait() == 0
    assert not place.saved() and not chains(place)
    assert "IPVSAGENT" not in place.node.run("ipset", "list", "-n")
    assert "kube-ipvs0" not in place.node.run("ip", "-o", "link")
