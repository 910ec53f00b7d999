"""Idle connections and short affinities: what the kernel does with its timers, and what is said of it."""

from __future__ import annotations

import json
import re
import time

import pytest

from tests.support.agent_processes import Agents
from tests.support.cluster_documents import endpoint_slice, service
from tests.support.proxied_node import CLIENT, A, B, ProxiedNode

pytestmark = pytest.mark.kernel

ESTABLISHED = "net.netfilter.nf_conntrack_tcp_timeout_established"


def connections(place: ProxiedNode) -> list[list[str]]:
    """Protocol, client, port, virtual address, port, real address, port, state, seconds left; of /proc, decoded."""
    lines = place.node.run("ipvsadm", "-Lnc").splitlines()[2:]
    return [line.split() for line in lines]


def timeouts(agents: Agents, output: str = "json") -> dict:
    shown = agents.end_of("status", "--timeout", "-o", output)
    assert shown.wait() == 0, shown.log
    return {each["connection"]: each for each in json.loads(shown.output)}


def test_one_setting_for_both(place, agents: Agents, web):
    document, pieces, _ = web
    agents.wants(document, pieces)
    place.node.run("sysctl", "-qw", f"{ESTABLISHED}=600")
    agents.in_sync("--idle-timeout", "2h", "--conntrack-tcp-timeout-established", "0")
    assert place.node.run("ipvsadm", "-L", "--timeout").split()[4] == "7200"
    assert place.node.run("sysctl", "-n", ESTABLISHED).strip() == "7200"
    shown = timeouts(agents)["TCP, established"]
    assert (shown["ipvs"], shown["conntrack"], shown["effective"]) == (7200, 7200, 7200)
    text = agents.end_of("status", "--timeout").output
    assert re.search(r"TCP, established +2h00m +2h00m +2h00m", text)


def test_connection_tracking_never_forgets_sooner_for_it(place, agents: Agents, web):
    document, pieces, _ = web
    agents.wants(document, pieces)
    place.node.run("sysctl", "-qw", f"{ESTABLISHED}=432000")
    agents.in_sync("--idle-timeout", "30m", "--conntrack-tcp-timeout-established", "0")
    shown = timeouts(agents)["TCP, established"]
    assert (shown["ipvs"], shown["conntrack"], shown["effective"]) == (1800, 432000, 1800)


def test_an_idle_connection_lives_as_long_as_it_is_told(place, agents: Agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    agents.in_sync("--idle-timeout", "30s")
    place.node.run("ipvsadm", "--set", "2", "0", "0")  # behind the agent's back
    with place.held(address) as (idle,):
        time.sleep(4)
        assert idle.ask().failure is not None
    agents.stop_all()
    agents.in_sync("--idle-timeout", "30s")
    with place.held(address) as (idle,):
        time.sleep(4)
        assert idle.ask().failure is None


def test_the_floor_of_affinity(place, agents: Agents):
    """Five seconds are asked for; while a connection is remembered, its template gets another minute each time."""
    address = place.free_address()
    agents.wants(service("web", address, affinity=5), endpoint_slice("web", [A, B]))
    agent = agents.in_sync()
    assert "affinity of 5 s lasts longer: " in agent.log
    first = place.answers(address, 1)
    time.sleep(7)
    left = {row[3]: row[1] for row in connections(place) if row[4].startswith(address)}
    assert left[f"{CLIENT}:0"] > "00:50", f"the template of the client: {left}"
    assert place.answers(address, 4) == first * 4
