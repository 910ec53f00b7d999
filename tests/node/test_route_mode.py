"""An agent in route mode: routes to the Service networks in place of bound addresses."""

from __future__ import annotations

import json

import pytest

from integration.lab import Load, Target
from tests.support.agent_processes import Agents
from tests.support.cluster_documents import NODE_ADDRESS, endpoint_slice
from tests.support.proxied_node import C, ProxiedNode, eventually

pytestmark = pytest.mark.kernel

RANGE = "10.96.0.0/16"
ROUTED = ("--route-mode", "--service-cidrs", RANGE)


def routes(place: ProxiedNode) -> list[str]:
    shown = json.loads(place.node.run("ip", "-j", "-d", "route", "show", "table", "local", "proto", "119"))
    return [f"{each['dst']} {each.get('prefsrc', '')}" for each in shown]


def test_an_agent_with_routes(place, agents: Agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    agent = agents.in_sync(*ROUTED)
    assert routes(place) == [f"{RANGE} {NODE_ADDRESS}"] and place.bound() == set()
    assert sorted(place.answers(address, 2)) == ["A", "B"]
    # Somebody deletes it, or the interface's addresses move.
    place.node.run("ip", "route", "del", "local", RANGE, "dev", "lo", "table", "local")
    eventually(lambda: routes(place) == [f"{RANGE} {NODE_ADDRESS}"])
    agent.says(r"repaired drift \(lost\): `ip route replace local 10.96.0.0/16")
    # What somebody adds in our range is ours to remove.
    stray = place.free_address()
    place.node.run("ipvsadm", "-A", "-t", f"{stray}:80", "-s", "rr")
    eventually(lambda: not [line for line in place.saved() if stray in line])
    agent.kill()
    assert " (0 writes" in agents.in_sync(*ROUTED).log
    agents.stop_all()
    assert agents.end_of("cleanup", "--yes").wait() == 0
    assert routes(place) == [] and place.saved() == set()


def test_changing_over_and_back_under_traffic(place, agents: Agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    agents.in_sync()
    assert place.bound() == {address}
    load = Load(place.client, Target(address, 80), rate=20)
    agents.stop_all()
    agents.in_sync(*ROUTED)
    assert place.bound() == set() and routes(place)
    agents.stop_all()
    agents.in_sync()
    assert place.bound() == {address} and routes(place) == []
    report = load.stop()
    assert report.outcomes and not [outcome for outcome in report.outcomes if outcome.failure]


def test_the_source_follows_the_nodes_address(place, agents: Agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    agents.in_sync(*ROUTED)
    place.node.run("ip", "address", "add", "192.168.56.31/32", "dev", "eth0")
    place.node.run("ip", "address", "del", f"{NODE_ADDRESS}/24", "dev", "eth0")
    try:
        eventually(lambda: routes(place) == [f"{RANGE} 192.168.56.31"])
    finally:
        place.node.run("ip", "address", "add", f"{NODE_ADDRESS}/24", "dev", "eth0")
        place.node.run("ip", "address", "del", "192.168.56.31/32", "dev", "eth0")
        place.node.run("ip", "route", "replace", "default", "via", "192.168.56.1")
    eventually(lambda: routes(place) == [f"{RANGE} {NODE_ADDRESS}"])
    agents.wants(document, endpoint_slice("web", [C]))
    eventually(lambda: place.weights(address).get("C") == 1)
