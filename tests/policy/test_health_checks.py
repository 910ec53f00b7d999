"""Which Services have health checks, and what counts there."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.backends.assembly import pipeline_for
from ipvsagent.backends.iptables import iptables_pipeline, renderer
from ipvsagent.cluster.objects import Changes, Endpoint, EndpointSlice, LoadBalancerIngress, Service, ServiceKey
from ipvsagent.cluster.objects import ServicePort as Port
from ipvsagent.config import Config
from ipvsagent.findings import FindingBook
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.kernel.fake.rules import server_rules
from ipvsagent.model import Protocol
from ipvsagent.pipeline import Origins, Pipeline
from ipvsagent.policy.health_checks import HealthCheck, health_check_of
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows import SetMemberRow
from ipvsagent.rows.packet_rules import RuleSet

SERVICE = Service(
    namespace="shop",
    name="web",
    type="LoadBalancer",
    external_local=True,
    health_check_node_port=32101,
    cluster_ips=(Address("10.96.0.1"), Address("fd00::1")),
)


def piece(name: str, family: Family, *endpoints: Endpoint) -> EndpointSlice:
    return EndpointSlice(namespace="shop", name=name, service="web", family=family, endpoints=endpoints)


@pytest.mark.parametrize(
    "changes", [{"type": "NodePort"}, {"external_local": False}, {"health_check_node_port": 0}], ids=str
)
def test_services_without_one(changes: dict[str, object]) -> None:
    assert health_check_of(replace(SERVICE, **changes), (), "a") is None


def test_what_counts() -> None:
    """Distinct addresses of ready endpoints of this node, each family for itself."""
    here, there = "a", "b"
    slices = (
        piece(
            "one",
            Family.IPV4,
            Endpoint(Address("10.1.0.1"), node=here),
            Endpoint(Address("10.1.0.2"), node=here, ready=False),
            Endpoint(Address("10.1.0.3"), node=here, terminating=True),
            Endpoint(Address("10.1.0.4"), node=there),
        ),
        piece("two", Family.IPV4, Endpoint(Address("10.1.0.1"), node=here), Endpoint(Address("10.1.0.5"), node=here)),
        piece("six", Family.IPV6, Endpoint(Address("fd01::1"), node=here)),
    )
    expected = HealthCheck(ServiceKey("shop", "web"), 32101, {Family.IPV4: 2, Family.IPV6: 1})
    assert health_check_of(SERVICE, slices, here) == expected
    single = replace(SERVICE, cluster_ips=(Address("10.96.0.1"),))
    assert health_check_of(single, slices, there) == HealthCheck(ServiceKey("shop", "web"), 32101, {Family.IPV4: 1})


# Where it is answered, and who answers

NODE, OTHER_NODE = Address("172.16.0.1"), Address("10.244.0.1")
LB, LB6 = Address("192.0.2.10"), Address("2001:db8::10")


def balanced(name: str = "web", port: int = 32101, **changes: object) -> Service:
    service = replace(SERVICE, name=name, health_check_node_port=port, cluster_ips=(Address("10.96.0.1"),))
    return replace(
        service, **{"ingress": (LoadBalancerIngress(LB),), "ports": (Port("", Protocol.TCP, 80),), **changes}
    )


class Here:
    """A pipeline on a kernel that only remembers; `answered` and `says` are what came of it."""

    def __init__(self, *services: Service, iptables: bool = False, **settings: object) -> None:
        self.kernel = FakeKernel(node_addresses={NODE: "eth0", OTHER_NODE: "cni0"})
        self.kernel.sets.ensure(set_specs())
        config = Config(node_name="a", **settings)  # type: ignore[arg-type]
        self.pipeline: Pipeline
        if iptables:
            servers = server_rules(self.kernel)
            for table in servers.tables:
                table.apply(RuleSet(table.family))
            backend = KernelTables(renderer(config), servers, None, self.kernel.sets)
            self.pipeline = iptables_pipeline(config, backend, window=0)
        else:
            backend = KernelTables(
                IpvsRenderer(),
                self.kernel.ipvs,
                self.kernel.addresses,
                self.kernel.sets,
                translations=self.kernel.translations,
            )
            self.pipeline = pipeline_for(config, backend, window=0)
        self._book = FindingBook()
        self.has(self.kernel.addresses.node_addresses())
        self._take(self.pipeline.apply_changes(Changes(upserts=services, synced=True), 0.0))
        self._take(self.pipeline.start(0.0).findings)

    def has(self, addresses: object) -> None:
        self._take(self.pipeline.set_node_addresses(addresses))  # type: ignore[arg-type]

    def _take(self, origins: Origins) -> None:
        for origin, findings in origins:
            self._book.replace(origin, findings)

    def change(self, *services: Service, gone: tuple[Service, ...] = ()) -> None:
        self._take(self.pipeline.apply_changes(Changes(upserts=services, removals=tuple(s.key for s in gone)), 1.0))
        self.round()

    def round(self) -> None:
        self._take(self.pipeline.round(1.0).findings)

    @property
    def answered(self) -> dict[str, tuple[Address, ...]]:
        return {key.name: check.addresses for key, check in self.pipeline.health_checks.items()}

    @property
    def open(self) -> set[str]:
        """What gets past a default-drop policy, of health check ports."""
        rows = [row for row in self.kernel.snapshot() if isinstance(row, SetMemberRow)]
        return {r.member for r in rows if r.set.endswith("SERVICE") and ",tcp:32" in r.member}

    @property
    def says(self) -> list[str]:
        return [str(f) for f in self._book.current() if "no Node object" not in f.reason]


def places(*addresses: Address, port: int = 32101) -> set[str]:
    return {f"{address},tcp:{port}" for address in addresses}


def test_load_balancer_addresses_answer_where_they_are_bound() -> None:
    """Those alone that are served here: not proxied ones, not those of the other family, not another node's."""
    proxied = LoadBalancerIngress(Address("192.0.2.11"), proxied=True)
    ingress = (LoadBalancerIngress(LB), LoadBalancerIngress(LB6), proxied)
    service = balanced(ingress=ingress)
    here = Here(service)
    assert here.answered == {"web": (LB,)}
    assert here.open == places(NODE, OTHER_NODE, LB)
    assert len(here.says) == 1 and "2001:db8::10 is not served" in here.says[0]
    here.change(replace(service, ingress=(LoadBalancerIngress(Address("192.0.2.12")),)))
    assert here.answered == {"web": (Address("192.0.2.12"),)}
    assert here.open == places(NODE, OTHER_NODE, Address("192.0.2.12"))
    here.change(gone=(service,))
    assert (here.answered, here.open, here.says) == ({}, set(), [])


def test_with_iptables_only_an_address_of_the_node_answers() -> None:
    service = balanced(ingress=(LoadBalancerIngress(LB), LoadBalancerIngress(NODE)))
    here = Here(service, iptables=True, node_port_addresses=("10.244.0.0/16", "::/0"))
    assert here.answered == {"web": (NODE,)}
    here.has({NODE: "eth0", LB: "eth1"})
    here.round()
    assert here.answered == {"web": (LB, NODE)}
    here.has({OTHER_NODE: "cni0"})
    here.round()
    assert here.answered == {"web": ()} and here.open == places(OTHER_NODE)


def test_a_service_port_of_the_same_number_keeps_the_address() -> None:
    web = balanced()
    other = balanced("api", 0, ports=(Port("", Protocol.TCP, 32101),), external_local=False, type="ClusterIP")
    here = Here(web, replace(other, cluster_ips=(Address("10.96.0.2"),)))
    assert here.answered == {"web": ()}
    assert here.says == [
        "Service shop/web spec.healthCheckNodePort: 32101 on 192.0.2.10 is a port of Service shop/api, whose endpoints "
        "answer there instead of this health check; give that port another number"
    ]
    here.change(gone=(other,))
    assert here.answered == {"web": (LB,)} and here.says == []
    udp = replace(other, cluster_ips=(Address("10.96.0.2"),), ports=(Port("", Protocol.UDP, 32101),))
    here.change(udp)
    assert here.answered == {"web": (LB,)} and here.says == []


def test_an_address_that_another_service_has_won_is_not_asked_there() -> None:
    old = balanced("old", 32102, created=1, cluster_ips=(Address("10.96.0.2"),))
    here = Here(balanced(created=2))
    assert here.answered == {"web": (LB,)}
    here.change(old)
    assert here.answered == {"web": (), "old": (LB,)}
    here.change(gone=(old,))
    assert here.answered == {"web": (LB,)}


def test_a_node_port_keeps_its_number_and_both_services_are_named() -> None:
    other = replace(balanced("debug", 0), cluster_ips=(Address("10.96.0.2"),), type="NodePort", ingress=())
    other = replace(other, ports=(Port("", Protocol.TCP, 80, 32101),))
    here = Here(balanced(), other)
    assert here.answered == {"web": (LB,)}
    assert here.says == [
        "Service shop/web spec.healthCheckNodePort: 32101 on this node's addresses is a node port of Service "
        "shop/debug, whose endpoints answer there instead of this health check; give that node port another number"
    ]
    here.change(replace(other, ports=(Port("", Protocol.TCP, 80, 32109),)))
    assert here.says == []


def test_of_two_services_with_one_health_check_port_the_older_one_has_it() -> None:
    here = Here(balanced("young", created=2, cluster_ips=(Address("10.96.0.2"),), ingress=()))
    assert here.answered == {"young": ()}
    old = balanced("old", created=1)
    here.change(old)
    assert here.answered == {"old": (LB,)}
    assert here.says == [
        "Service shop/young spec.healthCheckNodePort: 32101 is also the health check port of the older Service "
        "shop/old, and only the endpoints of that one are reported there; delete this Service and create it again, so "
        "that it gets another port"
    ]
    here.change(replace(old, health_check_node_port=32105))
    assert here.answered == {"old": (LB,), "young": ()} and here.says == []
