"""`run --init-only` for the iptables backend: what needs privileges is done when it ends, so that an agent with two
capabilities and a read-only /proc/sys, as the one of the DaemonSet, has nothing to do that it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from ipvsagent.kernel.sysctls import LOCALHOST, read_sysctl
from tests.support.agent_processes import Agents, executed
from tests.support.cluster_documents import THIS_NODE, endpoint_slice, manifest, node, service
from tests.support.network_namespace import NetworkNamespace
from tests.support.proxied_node import A, ProxiedNode, eventually

READ_ONLY = "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec setpriv --no-new-privs "
RESTRICTED = ("unshare", "--mount", "sh", "-c", READ_ONLY + '--bounding-set=-all,+net_admin,+net_raw "$@"', "sh")
GUARD = "-A IPVSAGENT-NAT-DROP ! -s 127.0.0.0/8 -d 127.0.0.0/8"
# What belongs to the machine and not to a namespace stays as it is.
OF_THE_MACHINE = ("--conntrack-max-per-core", "0", "--oom-score-adj", "0")


def chains(netns: NetworkNamespace) -> str:
    """Rules and chains of both variants of iptables that work here, without counters."""
    text = "".join(netns.run("sh", "-c", f"iptables-{mode}-save 2>/dev/null || true") for mode in ("nft", "legacy"))
    return "".join(f"{line.partition(' [')[0]}\n" for line in text.splitlines() if not line.startswith("#"))


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    documents = (node(), service("web", "10.96.0.1"), endpoint_slice("web", [A]))
    (tmp_path / "objects.json").write_text(manifest(documents))
    given = ["run", "--backend", "iptables", "--source", str(tmp_path / "objects.json")]
    return [*given, "--hostname-override", THIS_NODE, "--state-dir", str(tmp_path / "state"), *OF_THE_MACHINE]


def test_what_needs_privileges_is_done_for_an_agent_that_has_few(netns, words):
    netns.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
    alone = executed(netns, [*words, "--once"], *RESTRICTED)
    assert alone.returncode == 1 and "net.ipv4.ip_forward is 0 and cannot be set" in alone.stderr

    first = executed(netns, [*words, "--init-only"])
    assert first.returncode == 0 and not first.stderr, first.stderr
    assert read_sysctl("net.ipv4.ip_forward") == read_sysctl(LOCALHOST.name) == 1
    prepared = chains(netns)
    assert GUARD in prepared and "10.96.0.1" not in prepared
    again = executed(netns, [*words, "--init-only"])
    assert again.returncode == 0 and chains(netns) == prepared

    agent = executed(netns, [*words, "--once"], *RESTRICTED)
    assert agent.returncode == 0 and "warning" not in agent.stderr, agent.stderr
    assert f"--to-destination {A}:8080" in chains(netns)
    assert set(prepared.splitlines()) <= set(chains(netns).splitlines()), "what was prepared is used as it is"


def test_without_localhost_no_rule_is_written(netns, words):
    done = executed(netns, [*words, "--init-only", "--iptables-localhost-nodeports=false"])
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "IPVSAGENT" not in chains(netns) and read_sysctl(LOCALHOST.name) == 0


def test_what_cannot_be_set_is_said(netns, words):
    netns.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    done = executed(netns, [*words, "--init-only"], *RESTRICTED)
    assert done.returncode == 0
    assert f"{LOCALHOST.name} is 0 and cannot be set (Read-only file system)" in done.stderr
    assert GUARD in chains(netns) and read_sysctl(LOCALHOST.name) == 0


@pytest.mark.kernel
def test_beside_an_agent_on_ipvs_nothing_is_lost(place: ProxiedNode, agents: Agents, web):
    """As a rolling update from one backend to the other does it: the new pod prepares the node while the old serves."""
    document, pieces, address = web
    agents.wants(document, pieces)
    agent = agents.in_sync("--backend", "ipvs")
    with place.held(address) as (held,):
        prepared = agents.end_of("run", "--init-only", "--backend", "iptables")
        assert prepared.wait() == 0, prepared.log
        assert held.ask().failure is None and sorted(place.answers(address, 2)) == ["A", "B"]
        eventually(lambda: "IPVSAGENT-DNAT" not in place.node.run("iptables-save"))  # the agent that serves keeps house
        assert held.ask().failure is None and sorted(place.answers(address, 2)) == ["A", "B"]
        agent.stop()
        prepared = agents.end_of("run", "--init-only", "--backend", "iptables")
        assert prepared.wait() == 0, prepared.log
        assert held.ask().failure is None and sorted(place.answers(address, 2)) == ["A", "B"]
        agents.in_sync("--backend", "iptables")
        assert held.ask().failure is None and set(place.answers(address, 8)) == {"A", "B"}
