"""`ipvsagent check`, as an operator runs it: what it finds, and that it changes nothing."""

from __future__ import annotations

import json

import pytest

from tests.support.agent_processes import Agents
from tests.support.programs import program_named

pytestmark = pytest.mark.kernel

CONNTRACK = "net.ipv4.vs.conntrack"


def checked(agents: Agents, *words: str, status: int = 0) -> dict:
    done = agents.end_of("check", "-o", "json", *words)
    assert done.wait() == status, done.log
    found = json.loads(done.output)
    found["by_name"] = {check["name"]: check for check in found["checks"]}
    return found


def states(found: dict) -> dict[str, str]:
    return {name: check["state"] for name, check in found["by_name"].items()}


def everything(place) -> str:
    """Tables of packet rules, which the kernel makes when somebody first looks, are looked at before."""
    return place.node.run(
        "sh",
        "-c",
        "for table in filter nat mangle; do iptables -t $table -S; done >/dev/null;"
        "ip address; ip route show table all; ipvsadm -Sn; ipset save; iptables-save | grep -v '^#';"
        "sysctl net.ipv4.vs net.ipv4.conf net.netfilter.nf_conntrack_tcp_timeout_established 2>/dev/null",
    )


@pytest.mark.parametrize("words", [["check"], ["plan"], ["status"], ["save"], ["cleanup", "--dry-run"]], ids=" ".join)
def test_who_only_looks_leaves_nothing(place, agents: Agents, web, words):
    agents.wants(*web[:2])
    before = everything(place)
    assert agents.end_of(*words).wait() in (0, 2)
    assert everything(place) == before and not agents.state_dir.exists()


def test_before_and_beside_an_agent(place, agents: Agents, web):
    document, pieces, _ = web
    agents.wants(document, pieces)
    place.node.set_kernel({"net/ipv4/vs/conntrack": "0"})
    before = everything(place)
    found = checked(agents)
    assert everything(place) == before
    assert found["fit"] and states(found)[CONNTRACK] == states(found)["ARP on eth0"] == "to-do"
    assert states(found)["scheduler rr"] == states(found)["iptables"] == states(found)["privileges"] == "ok"
    assert found["conn_reuse"]["wanted"] is None and found["conn_reuse"]["kernel"].startswith("6.1")
    agents.in_sync()
    found = checked(agents)
    assert states(found)[CONNTRACK] == states(found)["ARP on eth0"] == "ok"
    assert "silent" in found["by_name"]["ARP on eth0"]["found"]
    assert "an agent (pid " in found["by_name"]["other agents"]["found"]
    (eth0,) = [each for each in found["arp"] if each["interface"] == "eth0"]
    assert (eth0["ignore"], eth0["announce"], eth0["answers"], eth0["lan"]) == (3, 2, False, True)
    (tcp,) = [each for each in found["timeouts"] if each["connection"] == "TCP, established"]
    assert tcp["effective"] == min(tcp["ipvs"], tcp["conntrack"])


def test_what_would_keep_the_agent_from_working(place, agents: Agents, tmp_path):
    found = checked(agents, "--scheduler", "nope", status=1)
    assert not found["fit"] and states(found)["scheduler nope"] == "failed"
    assert "modprobe ip_vs_nope" in found["by_name"]["scheduler nope"]["remedy"]
    with place.node.entered(), program_named("kube-proxy", tmp_path) as process:
        found = checked(agents, status=1)
        assert f"pid {process.pid}" in found["by_name"]["kube-proxy"]["found"]


def test_for_a_person(place, agents: Agents):
    place.node.run("sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_timeout_established=300")
    place.node.run("ipvsadm", "--set", "900", "0", "0")
    place.node.set_kernel({f"net/ipv4/conf/eth0/arp_{what}": "0" for what in ("ignore", "announce")})
    done = agents.end_of("check", "--answer-arp")
    assert done.wait() == 0
    assert "warning  ARP on eth0" in done.output and "as --answer-arp asks" in done.output
    assert "forgotten after 300 s by connection tracking" in done.output and "--idle-timeout" in done.output
    assert "conn_reuse_mode" in done.output
