"""Virtual servers of kube-proxy's ipvs mode are taken over when its sets alone show whose they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.cluster.objects import Changes
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.kernel.kube_proxy.sets import SET_TYPES, kube_proxy_servers
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import AddressRow, RealServerRow, SetMemberRow, SetSpec, VirtualServerRow
from tests.support.history import B_PODS, HERE, B, piece, put
from tests.support.interrupted import Calls
from tests.support.looped import Looped

NODE = Address("172.16.0.1")
NODE_PORT = VirtualServerId(Protocol.TCP, NODE, 30080)
CLUSTER_IP = VirtualServerId(Protocol.TCP, Address("10.96.0.2"), 80)
OTHER = VirtualServerId(Protocol.TCP, NODE, 8443)
KEPT = VirtualServerId(Protocol.TCP, Address("198.51.100.1"), 80)


@pytest.fixture
def kernel() -> FakeKernel:
    """As kube-proxy left it, with a virtual server of keepalived beside it."""
    kernel = FakeKernel(node_addresses={NODE: "eth0"}, excluded=["198.51.100.0/24"])
    kernel.put(AddressRow(CLUSTER_IP.address))
    for server in (NODE_PORT, CLUSTER_IP, OTHER, KEPT):
        kernel.put(VirtualServerRow(server, "rr", 0, 0), RealServerRow(server, Address("10.1.0.4"), 8080))
    for name in ("KUBE-NODE-PORT-TCP", "KUBE-CLUSTER-IP"):
        kernel.set_specs[name] = SetSpec(name, SET_TYPES[name], Family.IPV4)
    kernel.put(SetMemberRow("KUBE-NODE-PORT-TCP", "30080"), SetMemberRow("KUBE-CLUSTER-IP", "10.96.0.2,tcp:80"))
    kernel.put(SetMemberRow("KUBE-CLUSTER-IP", "198.51.100.1,tcp:80"))
    return kernel


def test_a_node_port_of_kube_proxy_is_taken_over_and_follows_its_endpoints(kernel: FakeKernel, tmp_path: Path):
    looped = Looped(kernel, tmp_path, Calls())
    looped.node.adopt_ours()
    service = replace(B, type="NodePort", ports=(replace(B.ports[0], node_port=NODE_PORT.port),))
    looped.run(10.0, Changes(upserts=(service, B_PODS, HERE), synced=True))
    looped.run(120.0, put(piece("b", "10.1.0.7", "10.1.0.8")))
    assert sorted(kernel.real_servers[NODE_PORT]) == sorted(kernel.real_servers[CLUSTER_IP])
    assert Address("10.1.0.4") not in {address for address, _ in kernel.real_servers[NODE_PORT]}
    looped.run(120.0, Changes(removals=(service.key,)))
    assert NODE_PORT not in kernel.virtual_servers
    assert {OTHER, KEPT} <= kernel.virtual_servers.keys()  # another program's, and an excluded one


def test_an_earlier_word_that_it_is_a_strangers_does_not_outlive_the_proof(kernel: FakeKernel, tmp_path: Path):
    kernel.ownership.ledger.record_foreign(NODE_PORT)
    looped = Looped(kernel, tmp_path, Calls())
    looped.node.adopt_ours()
    assert NODE_PORT in kernel.ownership.ledger
    assert OTHER not in kernel.ownership.ledger
    assert KEPT not in kernel.ownership.ledger


def test_what_each_set_proves():
    rows = [
        SetMemberRow("KUBE-NODE-PORT-UDP", "30053"),
        SetMemberRow("KUBE-6-NODE-PORT-TCP", "30080"),
        SetMemberRow("KUBE-NODE-PORT-SCTP-HASH", "172.16.0.1,sctp:30090"),
        SetMemberRow("KUBE-6-LOAD-BALANCER", "2001:db8::9,udp:53"),
        SetMemberRow("KUBE-EXTERNAL-IP", "192.0.2.7,47:1"),
    ]
    assert set(map(str, kube_proxy_servers(rows, [NODE, Address("fd00::1")]))) == {
        str(VirtualServerId(protocol, Address(address), port))
        for protocol, address, port in (
            (Protocol.UDP, "172.16.0.1", 30053),
            (Protocol.TCP, "fd00::1", 30080),
            (Protocol.SCTP, "172.16.0.1", 30090),
            (Protocol.UDP, "2001:db8::9", 53),
        )
    }
