"""Which sources count as pods, and which of them as pods of this node: the sets POD and HOME."""

from __future__ import annotations

import pytest

from ipvsagent.address import Address
from ipvsagent.cluster.objects import Changes, Node
from ipvsagent.config import parse_network
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.pipeline import Pipeline
from ipvsagent.policy.virtual_servers import PolicyOptions
from ipvsagent.reconcile.drain import Drains
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.render.set_members import set_specs

CLUSTER = (parse_network("10.244.0.0/16"), parse_network("fd00:10:244::/56"))
OWN = ("10.244.1.0/24", "fd00:10:244:1::/64")


@pytest.mark.parametrize(
    ("options", "cidrs", "interfaces", "pods", "home"),
    [
        (PolicyOptions(pod_networks=CLUSTER), OWN, ["192.168.56.11"], ["10.244.0.0/16"], ["10.244.0.0/16"]),
        (PolicyOptions(pod_networks=CLUSTER), OWN, ["10.244.1.1"], ["10.244.0.0/16"], ["10.244.1.0/24"]),
        (PolicyOptions(pod_networks=CLUSTER), (), ["10.244.1.1"], ["10.244.0.0/16"], ["10.244.0.0/16"]),
        (PolicyOptions(pods_of_node=True), OWN, ["192.168.56.11"], ["10.244.1.0/24"], ["10.244.1.0/24"]),
        (PolicyOptions(), OWN, ["192.168.56.11"], [], ["10.244.1.0/24"]),
        (PolicyOptions(), (), ["192.168.56.11"], [], []),
    ],
    ids=["not in use", "a bridge has one", "no pod CIDRs", "NodeCIDR", "no detector", "nothing known"],
)
def test_pods_of_this_node(options, cidrs, interfaces, pods, home) -> None:
    kernel = FakeKernel()
    kernel.sets.ensure(set_specs())
    backend = KernelTables(IpvsRenderer(), kernel.ipvs, kernel.addresses, kernel.sets)
    pipeline = Pipeline("here", options, backend, Drains())
    node = Node(name="here", addresses=(Address("192.168.56.11"),), pod_cidrs=cidrs)
    pipeline.apply_changes(Changes(upserts=(node,), synced=True), 0.0)
    pipeline.start(0.0)
    pipeline.set_node_addresses({Address(each): "eth0" for each in interfaces})
    pipeline.round(1.0)
    for name, expected in (("POD", pods), ("HOME", home)):
        assert [row.member for row in kernel.set_members if row.set == f"IPVSAGENT-{name}"] == expected, name
