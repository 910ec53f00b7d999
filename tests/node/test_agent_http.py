"""What kubelet, load balancers and Prometheus read from an agent that works on a real kernel."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.agent_http import HEALTH, METRICS, ask, get, samples
from tests.support.agent_processes import Process
from tests.support.cluster_documents import NODE_ADDRESS, endpoint, endpoint_slice, node, service
from tests.support.proxied_node import A, B, ProxiedNode, eventually
from tests.support.variants import works

pytestmark = pytest.mark.kernel

LOCAL = "10.96.7.1"


@pytest.fixture
def forgotten(agents) -> Iterator[None]:
    """What an agent knows of its predecessors is gone afterwards."""
    yield
    agents.stop_all()
    shutil.rmtree(agents.state_dir, ignore_errors=True)


@pytest.fixture
def agent(agents, place, forgotten) -> Process:
    """One that is in sync."""
    agents.wants(service("web", place.free_address()), endpoint_slice("web", [A, B]))
    return agents.in_sync()


def test_health_metrics_and_the_rest(place, agents, agent):
    began = time.time() - 600
    status, body = get(place, HEALTH, "/healthz")
    document = json.loads(body)
    assert (status, document["healthy"], document["nodeEligible"]) == (200, True, True)
    assert document["status"]["IPv4"]["healthy"] is True
    assert get(place, HEALTH, "/livez")[0] == 200
    assert get(place, HEALTH, "/metrics")[0] == 404
    assert get(place, METRICS, "/proxyMode") == (200, "ipvs")
    assert get(place, METRICS, "/healthz") == (200, "ok")
    assert json.loads(get(place, METRICS, "/configz")[1])["ipvsagent"]["interface"] == "kube-ipvs0"

    first = samples(place)
    assert first["ipvsagent_virtual_servers"] == 1 and first["ipvsagent_real_servers"] == 2
    assert first["ipvsagent_in_sync"] == 1
    assert first['kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}'] == 1
    assert first['kubeproxy_proxy_livez_total{code="200"}'] == 1
    assert began <= first['kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}'] <= time.time()

    place.node.run("ipvsadm", "-C")
    eventually(lambda: samples(place)['ipvsagent_drift_total{kind="lost"}'] > 0)


def test_a_node_that_leaves(place, agents, agent):
    leaving = node()
    leaving["spec"] = {
        **leaving.get("spec", {}),
        "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}],
    }
    agents.writes("node.json", json.dumps(leaving))
    (agents.source / "objects.json").unlink()
    eventually(lambda: get(place, HEALTH, "/healthz")[0] == 503)
    assert json.loads(get(place, HEALTH, "/healthz")[1])["nodeEligible"] is False
    assert get(place, HEALTH, "/livez")[0] == 200


def test_health_check_of_a_service(place, agents, agent):
    port = 32101
    document = service("local", place.free_address())
    document["spec"] |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port}
    elsewhere = endpoint(B, node="node-9")
    agents.wants(document, endpoint_slice("local", [A, elsewhere]))
    eventually(lambda: refused_or(place, port) == 200)
    status, body = get(place, port, "/any/path")
    assert (status, json.loads(body)) == (
        200,
        {"service": {"namespace": "shop", "name": "local"}, "localEndpoints": 1, "serviceProxyHealthy": True},
    )
    assert f",tcp:{port}" in place.node.run("ipset", "save", "IPVSAGENT-SERVICE")
    agents.wants(document, endpoint_slice("local", [elsewhere, endpoint(A, "terminating")]))
    eventually(lambda: refused_or(place, port) == 503)
    agents.wants(service("local", document["spec"]["clusterIP"]), endpoint_slice("local", [A]))
    eventually(lambda: refused_or(place, port) is None)


@pytest.mark.parametrize("words", [(), ("--nodeport-addresses", "192.168.56.0/24")], ids=["everywhere", "restricted"])
def test_health_checks_on_load_balancer_addresses(place, agents, forgotten, words):
    """As Google's load balancers ask; nothing else of the host can be seen there."""
    port, first, second = 32101, place.free_address(), place.free_address()
    document = service("local", place.free_address(), local_at=first)
    document["spec"] |= {"healthCheckNodePort": port}
    agents.wants(document, endpoint_slice("local", [A]))
    agents.in_sync(*words)

    def answers(host: str, at: int = port) -> int | None:
        try:
            return ask(place.client, host, at)[0]
        except OSError:
            return None

    eventually(lambda: answers(first) == 200)
    assert answers(NODE_ADDRESS) == 200
    assert answers(first, HEALTH) is None
    other = service("local", document["spec"]["clusterIP"], local_at=second)
    other["spec"] |= {"healthCheckNodePort": port}
    agents.wants(other, endpoint_slice("local", [endpoint(B, node="node-9")]))
    eventually(lambda: answers(second) == 503)
    listening = place.node.run("ss", "-Hlnt", f"sport = {port}")
    assert first not in listening and (second in listening) is bool(words)


def refused_or(place: ProxiedNode, port: int) -> int | None:
    try:
        return get(place, port, "/")[0]
    except ConnectionError:
        return None


@pytest.mark.only_where(not works("iptables-nft"))  # it takes no lock that a test could hold
def test_packet_rules_are_counted_and_so_are_writes_that_iptables_refuses(place, agents):
    name = "kubeproxy_sync_proxy_rules_iptables"

    def held() -> int:
        return place.node.run("sh", "-c", "iptables-save -t nat").count("\n-A IPVSAGENT-")

    # What an agent on IPVS left would go some time after "in sync", with a write that has all rules of the table.
    assert agents.end_of("cleanup", "--yes").wait() == 0
    web, more = place.free_address(), place.free_address()
    agents.wants(service("web", web), endpoint_slice("web", [A, B]))
    agent = agents.in_sync("--backend", "iptables")
    # A look at the rules after "in sync" may still be under way.
    total = f'{name}_total{{ip_family="IPv4",table="nat"}}'
    eventually(lambda: samples(place).get(total) == held() > 64)
    found = samples(place)
    assert found[f'{name}_last{{ip_family="IPv4",table="nat"}}'] == 3
    assert found[f'{name}_restore_failures_total{{ip_family="IPv4"}}'] == 0
    before = held()
    with open("/run/xtables.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        agents.wants(service("web", more), endpoint_slice("web", [A, B]))
        eventually(lambda: samples(place)[f'{name}_partial_restore_failures_total{{ip_family="IPv4"}}'] > 0, 30)
        assert samples(place)[f'{name}_restore_failures_total{{ip_family="IPv4"}}'] > 0
    agent.says("in sync again", 30)
    assert place.answers(more, 2)
    eventually(lambda: samples(place)[total] == held() == before)


def test_services_without_a_local_endpoint_are_counted_on_iptables(place, agents):
    inside, outside = service("inside", place.free_address()), service("outside", place.free_address(), local_at=LOCAL)
    inside["spec"]["internalTrafficPolicy"] = "Local"
    elsewhere = [endpoint(B, node="node-9")]
    agents.wants(inside, outside, endpoint_slice("inside", elsewhere), endpoint_slice("outside", elsewhere))
    agents.in_sync("--backend", "iptables")

    def counted() -> tuple[float, float]:
        name, found = "kubeproxy_sync_proxy_rules_no_local_endpoints_total", samples(place)
        internal, external = (f'{name}{{ip_family="IPv4",traffic_policy="{p}"}}' for p in ("internal", "external"))
        return found.get(internal, 0), found.get(external, 0)

    eventually(lambda: counted() == (1, 1))  # it is counted after "in sync" is said
    shown = agents.end_of("status").output
    assert f"TCP {LOCAL}:80 random  (no endpoint on this node: packets of clients outside are dropped)" in shown
    both = [*elsewhere, A]
    agents.wants(inside, outside, endpoint_slice("inside", elsewhere), endpoint_slice("outside", both))
    eventually(lambda: counted() == (1, 0))
    assert f"TCP {LOCAL}:80 random  (for clients outside this node)" in agents.end_of("status").output


def test_a_second_agent_takes_the_ports_over(place, agents, agent):
    second = agents.start("run")
    second.says("holds this node; waiting")
    agent.send(signal.SIGTERM)
    second.says("in sync")
    eventually(lambda: get(place, HEALTH, "/livez")[0] == 200)
