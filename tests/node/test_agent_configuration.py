"""Configuration files of a running agent: what it takes up, what waits for a restart, what it refuses."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from integration.lab import Question, Target, ask
from ipvsagent.kernel import host
from tests.support.agent_processes import IN_SYNC, Agents, Process
from tests.support.cluster_documents import NODE_ADDRESS, OTHER_NODE, endpoint, endpoint_slice, service
from tests.support.proxied_node import CLIENT, A, B, C, ProxiedNode, eventually

pytestmark = pytest.mark.kernel
ESTABLISHED = "net.netfilter.nf_conntrack_tcp_timeout_established"


@pytest.fixture
def web(place, agents) -> str:
    address = place.free_address()
    agents.wants(service("web", address), endpoint_slice("web", [A, B]))
    return address


def write(path: Path, kube_proxy: dict, ours: dict | None = None) -> None:
    """Puts both documents in place as a whole, as a ConfigMap's mount does."""
    documents = [
        {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "auto"}
        | kube_proxy,
        {"apiVersion": "ipvsagent.io/v1alpha1", "kind": "IPVSAgentConfiguration"} | (ours or {}),
    ]
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump_all(documents))
    new.rename(path)


def findings(agents: Agents) -> list[dict]:
    said = json.loads(agents.end_of("status", "-o", "json").output)["agent"]["findings"]
    return [finding for finding in said if finding["kind"] == "configuration"]


def rules(place: ProxiedNode) -> str:
    return place.node.run("sh", "-c", "iptables-save 2>/dev/null || iptables-legacy-save")


def test_what_is_safe_is_taken_up(place, agents, web, tmp_path):
    file = tmp_path / "config.yaml"
    write(file, {"ipvs": {"scheduler": "rr"}})
    agent = agents.in_sync("--config", str(file))
    assert f"-A -t {web}:80 -s rr" in place.saved()
    assert " 10.77.0.0/16" not in place.node.run("ipset", "save")
    write(
        file,
        {
            "ipvs": {"scheduler": "lc", "tcpTimeout": "1000s", "tcpFinTimeout": "100s", "udpTimeout": "200s"},
            "clusterCIDR": "10.77.0.0/16",
            "iptables": {"masqueradeAll": True},
            "conntrack": {"tcpEstablishedTimeout": "1234s"},
            "featureGates": {"Unheard": True},
        },
        {"drainTimeout": "1m", "logLevel": "debug"},
    )
    eventually(lambda: f"-A -t {web}:80 -s lc" in place.saved())
    assert place.weights(web) == {"A": 1, "B": 1}
    eventually(lambda: "IPVSAGENT-POD 10.77.0.0/16" in place.node.run("ipset", "save"))
    assert "1000 100 200" in place.node.run("ipvsadm", "-L", "--timeout")
    with place.node.entered():
        assert host.read_sysctl(ESTABLISHED) == 1234
    agent.says("configuration: ipvs.scheduler changed from 'rr' to 'lc'")
    agent.says("featureGates.Unheard: has no effect")
    agent.says("updated the packet rules for the new configuration")
    assert "drift" not in agent.log, agent.log
    assert findings(agents) == []
    assert sorted(place.answers(web, 2)) == ["A", "B"]
    # And back, by an edit in place.
    text = file.read_text().replace("scheduler: lc", "scheduler: rr")
    file.write_text(text)
    eventually(lambda: f"-A -t {web}:80 -s rr" in place.saved())


def seen(place: ProxiedNode, source: str, address: str) -> set[tuple[str, str]]:
    """Who answers connections to port 80 from there, and from which address they seem to come."""
    outcomes = ask([Question(place.lab.at(source), Target(address, 80)) for _ in range(12)])
    return {(outcome.server, outcome.client) for outcome in outcomes}


def test_who_is_local_is_taken_up_on_iptables(place, agents, tmp_path):
    """It is in the chains of a Service with a Local policy, in the constant rules, and in sets."""
    file, address, balancer = tmp_path / "config.yaml", place.free_address(), place.free_address()
    pieces = endpoint_slice("web", [A, endpoint(B, node=OTHER_NODE)])
    agents.wants(service("web", address, local_at=balancer), pieces)
    on_iptables = {"mode": "iptables", "nodePortAddresses": ["192.168.0.0/16"]}
    write(file, on_iptables | {"clusterCIDR": "10.77.0.0/16"})
    agent = agents.in_sync("--config", str(file))
    outside = ("A", CLIENT)
    assert seen(place, C, balancer) == {("A", C)} and seen(place, CLIENT, balancer) == {outside}
    assert seen(place, C, address) == {("A", NODE_ADDRESS), ("B", NODE_ADDRESS)}
    assert "--ctstate INVALID" in rules(place)

    write(file, on_iptables | {"clusterCIDR": "10.244.0.0/16", "conntrack": {"tcpBeLiberal": True}})
    eventually(lambda: seen(place, C, address) == {("A", C), ("B", C)})
    assert seen(place, C, balancer) == {("A", C), ("B", C)} and seen(place, CLIENT, balancer) == {outside}
    eventually(lambda: "--ctstate INVALID" not in rules(place))

    by_interface = {"detectLocalMode": "InterfaceNamePrefix", "detectLocal": {"interfaceNamePrefix": "none"}}
    write(file, on_iptables | by_interface)
    eventually(lambda: seen(place, C, balancer) == {("A", C)})
    write(file, on_iptables | {"clusterCIDR": "10.244.0.0/16", "iptables": {"masqueradeAll": True}})
    eventually(lambda: seen(place, C, balancer) == {("A", C), ("B", C)})
    eventually(lambda: seen(place, C, address) == {("A", NODE_ADDRESS), ("B", NODE_ADDRESS)})
    eventually(lambda: "--ctstate INVALID" in rules(place))

    assert findings(agents) == [] and "drift" not in agent.log, agent.log
    before = place.node.run("sh", "-c", "iptables-save -t nat | grep -v ^#")
    agent.stop()
    assert agents.in_sync("--config", str(file)).says(IN_SYNC)[1] == "0"
    assert place.node.run("sh", "-c", "iptables-save -t nat | grep -v ^#") == before


def test_a_restart_is_asked_for_where_it_is_needed(place, agents, web, tmp_path):
    file = tmp_path / "config.yaml"
    write(file, {})
    agents.in_sync("--config", str(file))
    write(file, {"iptables": {"masqueradeBit": 13}, "ipvs": {"scheduler": "lc"}}, {"interface": "svc0"})
    eventually(lambda: f"-A -t {web}:80 -s lc" in place.saved())
    waiting = {finding["field"]: finding for finding in findings(agents)}
    assert waiting.keys() == {"iptables.masqueradeBit", "interface"}
    assert waiting["interface"]["reason"] == "is 'kube-ipvs0' and becomes 'svc0' when the agent is restarted"
    assert waiting["interface"]["file"] == str(file)
    write(file, {"ipvs": {"scheduler": "lc"}})
    eventually(lambda: findings(agents) == [])


def test_a_wrong_file_changes_nothing_until_it_is_right(place, agents, web, tmp_path):
    file = tmp_path / "config.yaml"
    write(file, {"ipvs": {"scheduler": "lc"}})
    agent = agents.in_sync("--config", str(file))
    write(file, {"ipvs": {"scheduler": "rr", "tcpTimeout": "soon"}})
    agent.says("tcpTimeout: 'soon' is not a duration.*; the settings in force are kept")
    (problem,) = findings(agents)
    assert (problem["field"], problem["severity"]) == ("ipvs.tcpTimeout", "error")
    file.unlink()
    agent.says("config.yaml: cannot be read .No such file or directory.; the settings in force are kept", 30)
    assert f"-A -t {web}:80 -s lc" in place.saved()
    write(file, {"ipvs": {"scheduler": "lc"}})
    eventually(lambda: findings(agents) == [])
    agent.says("resolved: .*config.yaml")
    assert agent.alive and f"-A -t {web}:80 -s lc" in place.saved()


def test_a_scheduler_that_the_kernel_lacks_is_not_taken_up(place, agents, web, tmp_path):
    file = tmp_path / "config.yaml"
    write(file, {})
    agent = agents.in_sync("--config", str(file))
    write(file, {"ipvs": {"scheduler": "none-such"}}, {"drainTimeout": "1m"})
    agent.says("scheduler none-such: the kernel does not have it; rr stays")
    assert "drainTimeout changed from '" in agent.log and "to '1m'" in agent.log
    time.sleep(1)
    assert f"-A -t {web}:80 -s rr" in place.saved()


def test_a_wrong_file_at_the_start_is_refused(agents, tmp_path):
    file = tmp_path / "config.yaml"
    write(file, {"ipvs": {"scheduler": 5}}, {"new": 1})
    agent = agents.end_of("run", "--config", str(file))
    assert agent.wait() == 64
    assert agent.log.count("config.yaml: ") == 2


def test_init_only_sets_sysctls_and_leaves_the_rest(place, agents, web):
    place.node.run("sh", "-c", f"sysctl -qw {ESTABLISHED}=5555 net.ipv4.vs.conntrack=0")
    agent: Process = agents.end_of("run", "--init-only", "--conntrack-tcp-timeout-established", "2h")
    assert agent.wait() == 0, agent.log
    with place.node.entered():
        assert host.read_sysctl(ESTABLISHED) == 7200
        assert host.read_sysctl("net.ipv4.vs.conntrack") == 1
    assert not place.saved()
    assert "kube-ipvs0" not in place.node.run("ip", "-o", "link")
