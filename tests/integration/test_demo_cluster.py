"""The demo's own reading and editing of its objects."""

from dataclasses import replace

import pytest
import yaml

from integration.demo.cluster import Cluster
from integration.lab import Server, Target


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "objects").mkdir()
    return Cluster(tmp_path / "objects")


def read(cluster):
    return yaml.safe_load((cluster.directory / "online-boutique.yaml").read_text())["items"]


def test_ports_know_their_addresses_and_endpoints(cluster):
    port = cluster.service_port("online-boutique/frontend-external:http")
    assert port.targets == (
        Target("10.96.16.12", 80),
        Target("192.0.2.10", 80),
        Target("192.168.56.11", 30081),
    )
    assert port.endpoints == (Server("frontend-7da6e", "10.244.1.10", 8080),)
    assert cluster.service_port("kube-system/kube-dns:dns").cluster_ip == Target("10.96.0.10", 53, "UDP")


def test_servers_are_each_listed_once(cluster):
    servers = cluster.servers()
    assert len({replace(server, name="") for server in servers}) == len(servers)
    assert Server("kubernetes-192.168.56.10", "192.168.56.10", 6443) in servers


def test_everything_has_its_place(cluster):
    topology = cluster.topology()
    topology.check()
    assert [machine.name for machine in topology.machines] == [
        "node-1",
        "node-2",
        "node-3",
        "kubernetes-192.168.56.10",
    ]
    placed = {a for m in topology.machines for a in (*m.addresses, *(a for p in m.pods for a in p.addresses))}
    assert {server.address for server in cluster.servers()} <= placed


def test_draining_and_leaving_is_written_for_the_agent(cluster):
    leaving = cluster.service_port("online-boutique/cartservice:grpc").endpoints[1]
    before = read(cluster)
    cluster.set_conditions(leaving, ready=False, terminating=True)
    changed = [new for old, new in zip(before, read(cluster), strict=True) if old != new]
    assert len(changed) == 1
    endpoint = next(e for e in changed[0]["endpoints"] if leaving.address in e["addresses"])
    assert endpoint["conditions"] == {"ready": False, "serving": True, "terminating": True}
    cluster.remove(leaving)
    assert leaving not in cluster.service_port("online-boutique/cartservice:grpc").endpoints
    assert leaving.address not in str(read(cluster))
