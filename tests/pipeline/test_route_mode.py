"""Route mode through the whole pipeline, on the fake kernel: what is bound, what is routed, and in which order."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from ipvsagent.address import Address
from ipvsagent.cluster.manifest_set import ManifestSet
from ipvsagent.cluster.manifests import read_manifest
from ipvsagent.findings import FindingKind
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.pipeline import Pipeline
from ipvsagent.policy.virtual_servers import PolicyOptions
from ipvsagent.reconcile.drain import Drains
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows import AddressRow, Op, RouteRow, SetMemberRow, Verb
from tests.support.cluster_documents import NODE_ADDRESS, THIS_NODE, endpoint_slice, manifest, node, service

RANGE = "10.96.0.0/16"
ROUTE = RouteRow(RANGE, Address(NODE_ADDRESS))


class World:
    def __init__(self, kernel: FakeKernel, *documents: Any, routed: bool = True) -> None:
        self.kernel = kernel
        kernel.restart()
        kernel.sets.ensure(set_specs())
        backend = KernelTables(IpvsRenderer(), kernel.ipvs, kernel.addresses, kernel.sets, routes=kernel.routes_table)
        options = PolicyOptions(route_networks=(ip_network(RANGE),) if routed else ())
        self.pipeline = Pipeline(THIS_NODE, options, backend, Drains(0.0, 0.0))
        kernel.addresses.refresh()
        kernel.routes_table.refresh()
        self._addresses()
        manifests = ManifestSet("test", allow_empty=True)
        manifests.replace("a.json", read_manifest(manifest(documents or (node(), web(), PIECES)).encode()))
        self.pipeline.apply_changes(manifests.take().changes, 0.0)
        kernel.log.clear()
        self.pipeline.begin(0.0)

    def _addresses(self) -> list[Any]:
        return self.pipeline.set_node_addresses(self.kernel.addresses.node_addresses())

    def moves(self, *addresses: str) -> list[Any]:
        """The node has these addresses from now on."""
        self.kernel.node = {Address(address): "eth0" for address in addresses}
        self.kernel.log.clear()
        origins = self._addresses()
        self.report = self.pipeline.round(1.0)
        return [finding for _, found in origins for finding in found]

    @property
    def log(self) -> list[Op]:
        return self.kernel.log


def web() -> Any:
    document = service("web", "10.96.0.1")
    document["spec"]["type"] = "LoadBalancer"
    document["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    return document


PIECES = endpoint_slice("web", ["10.244.1.1"])


def kernel() -> FakeKernel:
    return FakeKernel(node_addresses={NODE_ADDRESS: "eth0"})


def test_cluster_ips_are_routed_and_others_bound():
    world = World(kernel())
    assert world.kernel.bound == {"192.0.2.1"}
    assert world.kernel.routes == {RANGE: ROUTE}
    assert SetMemberRow("IPVSAGENT-VIP", RANGE) in world.kernel.set_members
    assert SetMemberRow("IPVSAGENT-VIP", "10.96.0.1") not in world.kernel.set_members
    assert World(world.kernel).log == [], "a restart writes nothing"


def test_changing_over_is_never_without_either():
    world = World(kernel(), routed=False)
    assert world.kernel.bound == {"10.96.0.1", "192.0.2.1"} and not world.kernel.routes
    world = World(world.kernel)
    log = world.log
    assert log.index(Op(Verb.ADD, ROUTE)) < log.index(Op(Verb.DELETE, AddressRow(Address("10.96.0.1"))))
    assert log.index(Op(Verb.ADD, SetMemberRow("IPVSAGENT-VIP", RANGE))) < log.index(Op(Verb.ADD, ROUTE))
    world = World(world.kernel, routed=False)
    log = world.log
    assert log.index(Op(Verb.ADD, AddressRow(Address("10.96.0.1")))) < log.index(Op(Verb.DELETE, ROUTE))
    assert world.kernel.bound == {"10.96.0.1", "192.0.2.1"} and not world.kernel.routes


def test_a_virtual_server_in_our_range_is_ours():
    """Also one that the ledger lost: nothing else can tell whose it is."""
    world = World(kernel())
    for server in list(world.kernel.virtual_servers):
        world.kernel.ownership.ledger.release([server])
    world = World(world.kernel, node())
    assert not [s for s in world.kernel.virtual_servers if s.address.startswith("10.96.")]


def test_the_source_follows_the_node():
    world = World(kernel())
    world.moves("192.168.56.99")
    assert world.kernel.routes == {RANGE: RouteRow(RANGE, Address("192.168.56.99"))}
    assert world.report.drift == [], "nobody else did it"
    assert world.moves("192.168.56.99", "192.168.57.1") == []
    assert world.log == []


def test_a_route_that_somebody_deletes_comes_back_and_is_drift():
    world = World(kernel())
    world.kernel.drop(ROUTE)
    world.pipeline.reconciler.shared.check_routes(1.0)
    report = world.pipeline.round(1.0)
    assert [str(drift.op) for drift in report.drift] == [
        f"ip route replace local {RANGE} dev lo table local proto 119 src {NODE_ADDRESS}"
    ]
    assert world.kernel.routes == {RANGE: ROUTE}


def test_a_range_with_a_node_in_it_is_not_routed():
    world = World(kernel())
    (finding,) = world.moves(NODE_ADDRESS, "10.96.200.1")
    assert finding.kind is FindingKind.ADDRESS_REFUSED and "10.96.200.1, an address of this node" in finding.reason
    assert not world.kernel.routes and world.kernel.bound == {"10.96.0.1", "192.0.2.1"}
    assert SetMemberRow("IPVSAGENT-VIP", RANGE) not in world.kernel.set_members
    log = world.log
    assert log.index(Op(Verb.ADD, AddressRow(Address("10.96.0.1")))) < log.index(Op(Verb.DELETE, ROUTE))
    assert world.moves(NODE_ADDRESS) == []
    assert world.kernel.routes == {RANGE: ROUTE} and world.kernel.bound == {"192.0.2.1"}


def test_another_nodes_address_in_the_range():
    other = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "node-2"}}
    other["status"] = {"addresses": [{"type": "InternalIP", "address": "10.96.200.1"}]}
    world = World(kernel(), node(), other, web(), PIECES)
    assert not world.kernel.routes and "10.96.0.1" in world.kernel.bound
