"""The agent as an operator has it: a process that follows files, repairs, waits, refuses, and leaves."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from contextlib import ExitStack

import pytest

from integration.lab import Load, Target
from integration.lab.load import Conversation
from tests.support.agent_processes import IN_SYNC, executed
from tests.support.cluster_documents import DNS, endpoint, endpoint_slice, manifest, node, service
from tests.support.proxied_node import ADDRESS, A, B, C, D, eventually

pytestmark = pytest.mark.kernel

PORT = 21_000
FAILED, WOULD_CHANGE, USAGE = 1, 2, 64


def test_follows_its_files(place, agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    agent = agents.in_sync()
    assert sorted(place.answers(address, 2)) == ["A", "B"]
    agents.wants(document, endpoint_slice("web", [A, B, C]))
    eventually(lambda: "C" in place.weights(address))
    other = place.free_address()
    agents.wants(service("dns", other, DNS), endpoint_slice("dns", [D], DNS), name="more.json")
    eventually(lambda: place.weights(other, 53, "UDP") == {"D": 1})
    with place.udp(other) as client:
        assert client.ask_until_answered()[0] == "D"
    (agents.source / "more.json").unlink()
    eventually(lambda: not place.real_servers(other, 53, "UDP") and place.bound() == {address})
    # Written in place, as an editor does.
    (agents.source / "objects.json").write_text(manifest([node(), document, endpoint_slice("web", [D])]))
    eventually(lambda: place.weights(address).get("D") == 1)
    assert agent.stop() == 0


def test_repairs_a_flush_within_two_seconds(place, agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    agent = agents.in_sync()
    place.node.run("ipvsadm", "-C")
    began = time.monotonic()
    eventually(lambda: place.weights(address) == {"A": 1, "B": 1})
    assert time.monotonic() - began < 2
    assert sorted(place.answers(address, 2)) == ["A", "B"]
    assert "repaired drift (lost): `ipvsadm -A" in agent.log


def test_repairs_what_somebody_edits(place, agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    agent = agents.in_sync()
    virtual = f"{address}:80"
    place.node.run(
        "ipvsadm",
        "-R",
        stdin=f"-E -t {virtual} -s wlc -p 60\n-d -t {virtual} -r {A}:8080\n"
        f"-e -t {virtual} -r {B}:8080 -m -w 9\n-a -t {virtual} -r {C}:8080 -m -w 1\n",
    )
    eventually(lambda: place.weights(address) == {"A": 1, "B": 1})
    assert f"-A -t {virtual} -s rr" in place.saved()
    for kind in ("lost", "edited", "stray"):
        agent.says(rf"drift \({kind}\)")


def test_an_address_comes_back_at_once(place, agents, web):
    """Told by the kernel, not found by looking: no request sees it gone for long."""
    document, pieces, address = web
    agents.wants(document, pieces)
    agent = agents.in_sync()
    asked = time.monotonic()
    assert place.bound() == {address}
    look = time.monotonic() - asked
    took = []
    for _ in range(7):
        place.node.run("ip", "address", "del", f"{address}/32", "dev", "kube-ipvs0")
        began = time.monotonic()
        eventually(lambda: place.bound() == {address})
        took.append(time.monotonic() - began)
    # No audit looks at addresses; beside what it costs to see them at all just now, half a second is at once.
    assert sorted(took)[3] < 0.5 + 2 * look, (took, look)
    stray = place.free_address()
    place.node.run("ip", "address", "add", f"{stray}/32", "dev", "kube-ipvs0")
    eventually(lambda: place.bound() == {address})
    agent.says(r"drift \(stray\)")


def test_the_interface_comes_back(place, agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    agents.in_sync()
    place.node.run("ip", "link", "delete", "kube-ipvs0")
    eventually(lambda: place.node.run("ip", "-o", "link").count("kube-ipvs0") and place.bound() == {address})
    assert sorted(place.answers(address, 2)) == ["A", "B"]


def test_a_second_agent_waits_for_the_first(place, agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    first = agents.in_sync()
    second = agents.start("run")
    second.says(rf"another agent \(pid {first.pid}\) holds this node; waiting for it to end")
    new = place.free_address()
    agents.wants(document, endpoint_slice("web", [A, B, C]))
    agents.wants(service("new", new), endpoint_slice("new", [D]), name="new.json")
    eventually(lambda: "C" in place.weights(address) and place.bound() == {address, new})
    assert second.alive and " in sync" not in second.log
    refused = agents.end_of("cleanup", "--yes")
    assert refused.wait() == FAILED
    assert f"an agent (pid {first.pid}) is running here" in refused.log
    assert "Stop it first" in refused.log
    assert first.stop() == 0
    assert second.says(IN_SYNC)[1] == "0", "it takes over what the first left, and writes nothing"
    assert place.bound() == {address, new}, "also what the first made while it waited"
    assert place.weights(new) == {"D": 1}
    assert second.stop() == 0


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            "ipvs", marks=pytest.mark.xfail(strict=True, reason="IPVS finds connections by client and endpoint")
        ),
        "iptables",
    ],
)
def test_one_port_of_a_client_to_two_services_with_one_endpoint(place, agents, backend):
    """What an endpoint answers is given to the one of its client's connections that IPVS finds first
    (ip_vs_conn_out_get of ip_vs_conn.c)."""
    addresses = place.free_address(), place.free_address()
    named = list(zip(("web", "shop"), addresses, strict=True))
    agents.wants(*(service(n, a) for n, a in named), *(endpoint_slice(n, [A]) for n, _ in named))
    agents.in_sync("--backend", backend)
    with ExitStack() as open_ones:
        both = [Conversation(place.client, Target(a, 80), timeout=1.0, port=PORT) for a in addresses]
        for each in both:
            open_ones.callback(each.close)
        assert [each.ask().server for each in both] == ["A", "A"]


def test_refuses_to_run_beside_kube_proxy(place, agents, web, tmp_path):
    agents.wants(*web[:2])
    proxy = tmp_path / "kube-proxy"
    shutil.copy("/bin/sleep", proxy)
    with place.node.entered():
        running = subprocess.Popen([proxy, "600"])
    try:
        for words in (["run"], ["run", "--once"]):
            agent = agents.end_of(*words)
            assert agent.wait() == FAILED
            assert f"kube-proxy (pid {running.pid}) is running on this node" in agent.log
            assert "kubectl -n kube-system delete daemonset kube-proxy" in agent.log
            assert place.saved() == set()
    finally:
        running.kill()
        running.wait()
    with place.client.entered():
        elsewhere = subprocess.Popen([proxy, "600"])
    try:
        agents.in_sync()
    finally:
        elsewhere.kill()
        elsewhere.wait()


def test_without_the_privilege(place, agents, web):
    agents.wants(*web[:2])
    for words in (["run"], ["status"]):
        done = executed(
            place.node, agents.words(*words), "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"
        )
        assert done.returncode == FAILED
        assert "this process lacks the capability CAP_NET_ADMIN" in done.stderr
        assert "`sudo ipvsagent ...`" in done.stderr and "NET_ADMIN" in done.stderr
        assert "Traceback" not in done.stderr
    assert place.saved() == set()


def test_unknown_scheduler(place, agents, web):
    agents.wants(*web[:2])
    agent = agents.end_of("run", "--scheduler", "lottery")
    assert agent.wait() == FAILED
    assert "the kernel has no IPVS scheduler 'lottery'" in agent.log
    assert "modprobe ip_vs_lottery" in agent.log
    assert place.saved() == set()


def test_unknown_scheduler_of_a_service(place, agents, web):
    """Of one Service: that one is served by the default, and it is said."""
    _, pieces, address = web
    agents.wants(service("web", address, annotations={"scheduler": "lottery"}), pieces)
    agent = agents.in_sync()
    assert f"-A -t {address}:80 -s rr" in place.saved()
    agent.says(r"Service shop/web metadata.annotations\[ipvsagent.io/scheduler\]: .*lottery")


def test_broken_input_keeps_what_was_accepted(place, agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    agent = agents.in_sync()
    held = place.saved()
    path = agents.source / "objects.json"

    def still_so() -> bool:
        time.sleep(0.5)  # three looks at the files: nothing must happen, and for that one can only wait
        return place.saved() == held

    broken = service("web", address, {"http": ("TCP", 99999, 8080)})
    agents.wants(broken, pieces)
    agent.says(rf"{path}: Service shop/web spec.ports\[0\].port: .*last accepted version stays in use")
    assert still_so()
    agents.writes("objects.json", "{ this is: [no YAML")
    agent.says(rf"warning +{path}: .*: .*; what it held before \(3 objects\) stays in use")
    assert still_so()
    agents.writes("objects.json", "")
    assert still_so(), "an empty source is a mistake"
    agent.says("nothing is removed without --allow-empty|stays in use")
    path.unlink()
    path.mkdir()
    assert still_so()
    path.rmdir()
    agents.wants(document, endpoint_slice("web", [A, B, C]))
    eventually(lambda: place.weights(address).get("C") == 1)
    agent.says("resolved: ")
    assert agent.stop() == 0


def test_a_start_with_broken_input_removes_nothing(place, agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    agents.in_sync().stop()
    held = place.saved()
    agents.writes("objects.json", "{ this is: [no YAML")
    agent = agents.start("run")
    agent.says(r"nothing is removed until it can be read")
    agent.says(r"in sync|programmed")
    assert place.saved() == held
    agents.wants(document, endpoint_slice("web", [A]))
    eventually(lambda: place.weights(address).get("B") != 1)


def test_once(place, agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    planned = agents.end_of("plan")
    assert planned.wait() == WOULD_CHANGE
    assert f"ipvsadm -A -t {address}:80 -s rr" in planned.output
    once = executed(place.node, agents.words("run", "--once"))
    assert once.returncode == 0
    assert "applied: 1 Services, 1 virtual servers, 2 real servers (" in once.stderr
    assert sorted(place.answers(address, 2)) == ["A", "B"]
    planned = agents.end_of("plan")
    assert (planned.wait(), planned.output) == (0, "")
    chain = "IPVSAGENT-MARK-IN"
    place.node.run("iptables", "-t", "mangle", "-F", chain)
    planned = agents.end_of("plan")
    assert planned.wait() == WOULD_CHANGE
    assert re.match(rf"# packet rules\n# IPv4 mangle: chain {chain}: rule 1 is missing: ", planned.output)
    again = agents.end_of("run", "--once")
    assert again.wait() == 0
    assert "(0 writes" in again.log


def test_sigterm_leaves_everything_and_cleanup_removes_ours_only(place, agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    theirs = {"-A -t 198.18.0.7:443 -s rr", "-a -t 198.18.0.7:443 -r 198.18.0.8:443 -g -w 1"}
    place.node.run("ipvsadm", "-R", stdin="".join(f"{line}\n" for line in sorted(theirs)))
    agent = agents.in_sync()
    held = place.saved()
    load = Load(place.client, Target(address, 80), rate=50)
    try:
        with place.held(address, 2) as conversations:
            assert agent.stop() == 0
            agent.says(r"stopping \(SIGTERM\), leaving the kernel state in place")
            assert place.saved() == held and place.bound() == {address}
            assert all(each.ask().failure is None for each in conversations)
            dry = agents.end_of("cleanup", "--dry-run")
            assert dry.wait() == 0
            assert f"ipvsadm -D -t {address}:80" in dry.output
            assert f"{address}/32 dev kube-ipvs0\n" in dry.output and "\nip link delete kube-ipvs0\n" in dry.output
            assert place.saved() == held
            assert agents.end_of("cleanup").wait() == USAGE, "it wants to be asked"
    finally:
        report = load.stop()
    assert report.answered and not report.lost, report
    done = agents.end_of("cleanup", "--yes")
    assert done.wait() == 0
    assert place.saved() == theirs
    assert "kube-ipvs0" not in place.node.run("ip", "-o", "link")


def test_killed_in_the_middle_of_a_drain(place, agents, web):
    """By SIGKILL: the connection does not notice, and the next agent goes on where the first one was."""
    document, pieces, address = web
    agents.wants(document, pieces)
    agent = agents.in_sync()
    with place.held(address) as (conversation,):
        victim = conversation.ask().server
        (other,) = {"A", "B"} - {victim}
        left = [endpoint(ADDRESS[other])]
        agents.wants(document, endpoint_slice("web", [*left, endpoint(ADDRESS[victim], "terminating")]))
        eventually(lambda: place.weights(address)[victim] == 0)
        agent.kill()
        assert conversation.ask().server == victim
        assert place.answers(address, 4) == other * 4
        agent = agents.start("run")
        assert agent.says(IN_SYNC)[1] == "0"
        assert conversation.ask().server == victim
        assert place.answers(address, 4) == other * 4
        status = json.loads(agents.end_of("status", "-o", "json").output)
        (server,) = (s for s in status["virtual_servers"] if s["address"] == address)
        draining = [real for real in server["real_servers"] if "draining" in real]
        assert [real["address"] for real in draining] == [ADDRESS[victim]]
        agents.wants(document, endpoint_slice("web", left))
        eventually(lambda: victim not in place.weights(address))
        assert conversation.ask().failure is not None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--drain-timeout", "soon"], "'soon' is not a duration"),
        (["run", "--exclude-cidrs", "10.0.0.0/99"], "is not a CIDR"),
        (["run", "--nonsense"], "--nonsense"),
        (["walk"], "no such command 'walk'"),
    ],
)
def test_wrong_usage(agents, words, said):
    agent = agents.end_of(*words)
    assert agent.wait() == USAGE
    assert said in agent.log
    assert "Traceback" not in agent.log


def test_a_source_that_is_not_there(agents):
    agents.source.rmdir()
    agent = agents.end_of("run")
    assert agent.wait() == FAILED
    assert f"{agents.source} does not exist" in agent.log
    agents.source.mkdir()


def test_status_without_an_agent(place, agents, web):
    document, pieces, address = web
    agents.wants(document, pieces)
    agents.in_sync().stop()
    shown = agents.end_of("status", "-o", "ipvsadm")
    assert shown.wait() == 0
    assert shown.output == place.node.run("ipvsadm", "-Ln")
    assert f"TCP  {address}:80 rr" in shown.output
