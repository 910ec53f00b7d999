"""One Service becomes its virtual servers."""

from __future__ import annotations

import ipaddress

import pytest
from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.cluster.objects import Endpoint, EndpointPort, EndpointSlice, LoadBalancerIngress, Service, ServicePort
from ipvsagent.config import Network
from ipvsagent.findings import FindingKind
from ipvsagent.model import Frontend, Protocol, RealServer, VirtualServer, WhenEmpty
from ipvsagent.policy.capabilities import IPTABLES, IPVS, Capabilities
from ipvsagent.policy.limits import MAX_RANGE_MEMBERS
from ipvsagent.policy.node import NodeFacts
from ipvsagent.policy.virtual_servers import Outcome, PolicyOptions, virtual_servers_for
from ipvsagent.render.set_members import members
from ipvsagent.source_ranges import networks_of

NODE = NodeFacts(name="here", zone="a")
CART = Service(
    namespace="shop",
    name="cart",
    cluster_ips=(Address("10.96.0.10"),),
    ports=(ServicePort("http", Protocol.TCP, 80),),
)


def endpoints(*endpoints: Endpoint, family: Family = Family.IPV4, port: str = "http") -> EndpointSlice:
    return EndpointSlice(
        namespace="shop",
        name=f"cart-{family}",
        service="cart",
        family=family,
        ports=(EndpointPort(port, Protocol.TCP, 8080), EndpointPort("dns", Protocol.UDP, 5353)),
        endpoints=endpoints,
    )


SLICE = endpoints(Endpoint(Address("10.1.0.5"), node="here"), Endpoint(Address("10.1.0.6"), node="other"))


def outcome(service: Service = CART, *slices: EndpointSlice, node: NodeFacts = NODE, scheduler: str = "rr") -> Outcome:
    return virtual_servers_for(
        service, slices or (SLICE,), node, PolicyOptions(scheduler=scheduler), {Address("10.96.0.1")}.__contains__
    )


def only(result: Outcome) -> VirtualServer:
    (server,) = result.virtual_servers
    return server


def test_cluster_ip() -> None:
    server = only(outcome())
    assert str(server.id) == "TCP 10.96.0.10:80"
    assert str(server.service) == "shop/cart:http"
    assert server.frontend is Frontend.CLUSTER_IP
    assert server.scheduler == "rr" and server.scheduler_flags == 0 and server.persistence_timeout == 0
    assert server.bind
    assert server.real_servers == (
        RealServer(Address("10.1.0.5"), 8080, local=True),
        RealServer(Address("10.1.0.6"), 8080),
    )


def test_no_endpoints_still_makes_a_virtual_server_that_refuses() -> None:
    server = only(outcome(CART, endpoints()))
    assert server.real_servers == () and server.when_empty is WhenEmpty.REFUSE


def test_internal_policy_local_uses_local_endpoints_and_drops_when_they_are_elsewhere() -> None:
    service = replace(CART, internal_local=True)
    assert [r.address for r in only(outcome(service)).real_servers] == ["10.1.0.5"]
    elsewhere = only(outcome(service, endpoints(Endpoint(Address("10.1.0.6"), node="other"))))
    assert elsewhere.real_servers == () and elsewhere.when_empty is WhenEmpty.DROP
    nowhere = only(outcome(service, endpoints(Endpoint(Address("10.1.0.6"), False, False, False, "other"))))
    assert nowhere.when_empty is WhenEmpty.REFUSE


def test_what_is_listed_and_not_used_is_kept_apart() -> None:
    server = only(
        outcome(CART, endpoints(Endpoint(Address("10.1.0.5")), Endpoint(Address("10.1.0.6"), False, True, True)))
    )
    assert [r.address for r in server.real_servers] == ["10.1.0.5"]
    assert server.unused == (RealServer(Address("10.1.0.6"), 8080, alive=False),)


def test_a_terminating_endpoint_that_serves_as_fallback_is_not_alive() -> None:
    server = only(outcome(CART, endpoints(Endpoint(Address("10.1.0.6"), False, True, True))))
    assert server.real_servers == (RealServer(Address("10.1.0.6"), 8080, alive=False),)


def test_dual_stack_and_several_ports_share_nothing_but_the_service() -> None:
    service = replace(
        CART,
        cluster_ips=(Address("10.96.0.10"), Address("fd00::10")),
        ports=(ServicePort("http", Protocol.TCP, 80), ServicePort("dns", Protocol.UDP, 53)),
    )
    slices = (SLICE, endpoints(Endpoint(Address("fd00:1::5")), family=Family.IPV6))
    found = {
        str(s.id): [f"{r.address} {r.port}" for r in s.real_servers] for s in outcome(service, *slices).virtual_servers
    }
    assert found == {
        "TCP 10.96.0.10:80": ["10.1.0.5 8080", "10.1.0.6 8080"],
        "TCP [fd00::10]:80": ["fd00:1::5 8080"],
        "UDP 10.96.0.10:53": ["10.1.0.5 5353", "10.1.0.6 5353"],
        "UDP [fd00::10]:53": ["fd00:1::5 5353"],
    }


def test_affinity_is_persistence() -> None:
    assert only(outcome(replace(CART, affinity_timeout=10800))).persistence_timeout == 10800


def test_hashing_schedulers_fall_back_and_mh_hashes_ports_as_kube_proxy_does() -> None:
    assert only(outcome(CART, scheduler="mh")).scheduler_flags == 0x18
    assert only(outcome(CART, scheduler="sh")).scheduler_flags == 0x8
    assert only(outcome(CART, scheduler="lc")).scheduler_flags == 0


def test_headless_services_have_no_virtual_servers() -> None:
    assert outcome(replace(CART, headless=True)) == Outcome()


def test_an_address_of_another_interface_is_served_but_not_bound() -> None:
    node = replace(NODE, own_addresses=frozenset({Address("10.96.0.10")}))
    assert not only(outcome(CART, node=node)).bind


def test_an_address_of_another_node_is_refused_and_said() -> None:
    result = outcome(CART, node=replace(NODE, other_nodes={Address("10.96.0.10"): "node-2"}))
    assert result.virtual_servers == ()
    (finding,) = result.findings
    assert finding.kind is FindingKind.ADDRESS_REFUSED
    assert "10.96.0.10 is an address of Node node-2" in finding.reason


def test_an_endpoint_that_is_a_cluster_ip_is_refused_and_said() -> None:
    result = outcome(CART, endpoints(Endpoint(Address("10.96.0.1")), Endpoint(Address("10.1.0.5"))))
    assert [r.address for r in only(result).real_servers] == ["10.1.0.5"]
    (finding,) = result.findings
    assert finding.kind is FindingKind.ENDPOINT_REFUSED and "10.96.0.1" in finding.reason


# Every other address a Service has

OUTSIDE = replace(
    CART,
    type="LoadBalancer",
    ingress=(LoadBalancerIngress(Address("192.0.2.10")), LoadBalancerIngress(Address("192.0.2.11"), proxied=True)),
    external_ips=(Address("198.51.100.7"),),
    ports=(ServicePort("http", Protocol.TCP, 80, 30080),),
    source_ranges=("203.0.113.0/24",),
)
HERE = replace(
    NODE,
    own_addresses=frozenset({Address("172.16.0.1"), Address("10.244.0.1")}),
    node_port_addresses=(Address("172.16.0.1"), Address("10.244.0.1"), Address("fd00:172::1")),
)
ALL = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


def fronts(
    service: Service = OUTSIDE,
    node: NodeFacts = HERE,
    allowed: tuple[Network, ...] = ALL,
    backend: Capabilities = IPVS,
) -> tuple[dict[str, VirtualServer], list[str]]:
    options = PolicyOptions(allowed_external=allowed, capabilities=backend)
    result = virtual_servers_for(service, (SLICE,), node, options, lambda address: False)
    return {str(s.id): s for s in result.virtual_servers}, [f.reason for f in result.findings]


def test_every_frontend_of_a_service() -> None:
    servers, findings = fronts()
    assert {name: (s.frontend.value, s.bind, s.preserve_client_address) for name, s in servers.items()} == {
        "TCP 10.96.0.10:80": ("ClusterIP", True, True),
        "TCP 192.0.2.10:80": ("LoadBalancer", True, False),
        "TCP 198.51.100.7:80": ("ExternalIP", True, False),
        "TCP 172.16.0.1:30080": ("NodePort", False, False),
        "TCP 10.244.0.1:30080": ("NodePort", False, False),
    }
    assert findings == []
    assert {n for n, s in servers.items() if s.source_ranges} == {"TCP 192.0.2.10:80"}
    assert len({id(s.real_servers) for s in servers.values()}) == 1


def test_a_service_is_served_in_the_families_of_its_cluster_ips_alone() -> None:
    """Load balancer and external addresses of the other family are neither served nor bound, allowed or not."""
    four, six = Address("192.0.2.10"), Address("2001:db8::10")
    both = replace(
        OUTSIDE,
        ingress=tuple(LoadBalancerIngress(address) for address in (four, six)),
        external_ips=(Address("198.51.100.7"), Address("2001:db8:1::7")),
        source_ranges=(),
    )
    servers, findings = fronts(both)
    assert {s.id.family for s in servers.values()} == {Family.IPV4} and len(servers) == 5
    assert findings == [
        "LoadBalancer address 2001:db8::10 is not served: it is IPv6, and the Service has no IPv6 cluster IP, only "
        "10.96.0.10; spec.ipFamilyPolicy: PreferDualStack gives it one",
        "ExternalIP address 2001:db8:1::7 is not served: it is IPv6, and the Service has no IPv6 cluster IP, only "
        "10.96.0.10; spec.ipFamilyPolicy: PreferDualStack gives it one",
    ]
    assert fronts(both, allowed=())[1][1:] == [
        "external IP 198.51.100.7 is not allowed; allow its range with --allow-external-ips",
        findings[1],
    ]
    only_six = replace(both, cluster_ips=(Address("fd00:10::10"),))
    servers, findings = fronts(only_six)
    assert set(servers) == {
        "TCP [fd00:10::10]:80",
        "TCP [2001:db8::10]:80",
        "TCP [2001:db8:1::7]:80",
        "TCP [fd00:172::1]:30080",
    }
    assert [finding.split(" is not served")[0] for finding in findings] == [
        "LoadBalancer address 192.0.2.10",
        "ExternalIP address 198.51.100.7",
    ]
    dual = replace(both, cluster_ips=(Address("10.96.0.10"), Address("fd00:10::10")))
    assert fronts(dual)[1] == []


def test_external_ips_are_refused_unless_allowed_and_the_rest_goes_on() -> None:
    servers, findings = fronts(allowed=())
    assert "TCP 198.51.100.7:80" not in servers and len(servers) == 4
    assert findings == ["external IP 198.51.100.7 is not allowed; allow its range with --allow-external-ips"]
    servers, findings = fronts(allowed=(ipaddress.ip_network("198.51.100.0/24"),))
    assert "TCP 198.51.100.7:80" in servers and findings == []


def test_external_policy_local_rules_what_comes_from_outside_only() -> None:
    servers, _ = fronts(replace(OUTSIDE, external_local=True), backend=IPTABLES)
    local, everybody = ["10.1.0.5"], ["10.1.0.5", "10.1.0.6"]
    for name, server in servers.items():
        inside = name == "TCP 10.96.0.10:80"
        assert [r.address for r in server.real_servers] == (everybody if inside else local)
        if inside:
            assert server.node_real_servers is None
        else:
            assert [r.address for r in server.node_real_servers or ()] == everybody
        assert server.preserve_client_address


def test_external_policy_local_does_not_count_on_a_plain_cluster_ip() -> None:
    servers, _ = fronts(replace(CART, external_local=True, ports=(ServicePort("http", Protocol.TCP, 80),)))
    assert [r.address for r in servers["TCP 10.96.0.10:80"].real_servers] == ["10.1.0.5", "10.1.0.6"]


def test_a_node_inside_a_source_range_may_use_the_address_it_then_has() -> None:
    inside = replace(HERE, node_addresses=frozenset({Address("203.0.113.5")}))
    assert fronts(node=inside)[0]["TCP 192.0.2.10:80"].source_ranges == ("203.0.113.0/24", "192.0.2.10")
    bridge_inside = replace(HERE, own_addresses=frozenset({Address("203.0.113.5")}))
    assert fronts(node=bridge_inside)[0]["TCP 192.0.2.10:80"].source_ranges == ("203.0.113.0/24",)


def test_a_load_balancer_address_of_this_node_is_served_and_not_bound() -> None:
    servers, _ = fronts(replace(OUTSIDE, ingress=(LoadBalancerIngress(Address("172.16.0.1")),)))
    assert not servers["TCP 172.16.0.1:80"].bind


@pytest.mark.parametrize("field", ["ingress", "external_ips"])
def test_an_address_of_another_node_is_refused_wherever_it_is_named(field: str) -> None:
    address = Address("172.16.0.2")
    value = (LoadBalancerIngress(address),) if field == "ingress" else (address,)
    service = replace(OUTSIDE, **{"ingress": (), "external_ips": (), field: value})
    servers, findings = fronts(service, replace(HERE, other_nodes={address: "node-2"}))
    assert len(servers) == 3
    assert len(findings) == 1 and "is an address of Node node-2" in findings[0]


def test_an_address_that_is_both_external_and_load_balancer_is_one_virtual_server() -> None:
    servers, _ = fronts(replace(OUTSIDE, external_ips=(Address("192.0.2.10"),)))
    assert servers["TCP 192.0.2.10:80"].frontend is Frontend.LOAD_BALANCER


def test_no_qualifying_node_address_is_said_and_the_rest_goes_on() -> None:
    servers, findings = fronts(node=NODE)
    assert len(servers) == 3
    assert findings == ["node port 30080 is not served: no address of this node serves node ports"]


def test_weights_of_service_and_node() -> None:
    service = replace(CART, annotations={"ipvsagent.io/weights": "zone:z=5"})
    node = replace(NODE, weights={"here": 7, "other": 9}, zones={"other": "z"})
    server = fronts(service, node)[0]["TCP 10.96.0.10:80"]
    assert {r.address: r.weight for r in server.real_servers} == {"10.1.0.5": 7, "10.1.0.6": 5}


def test_one_packet_scheduling_is_for_udp_ports_only() -> None:
    ports = (ServicePort("http", Protocol.TCP, 80), ServicePort("dns", Protocol.UDP, 53))
    mixed = replace(CART, ports=ports, annotations={"ipvsagent.io/scheduler-flags": "ops"})
    servers, findings = fronts(mixed)
    assert {n: s.one_packet for n, s in servers.items()} == {"TCP 10.96.0.10:80": False, "UDP 10.96.0.10:53": True}
    assert [f.partition(",")[0] for f in findings] == ["'ops' balances every datagram by itself"]
    _, findings = fronts(replace(mixed, ports=ports[:1]))
    assert findings == ["'ops' works for UDP only, and the Service has no UDP port"]


def test_more_source_ranges_than_one_service_may_take_close_its_load_balancer_addresses() -> None:
    ranges = tuple(f"10.{i >> 7}.{(i & 127) << 1}.0/24" for i in range(MAX_RANGE_MEMBERS // 8))
    many = tuple(ServicePort(f"p{i}", Protocol.TCP, 1000 + i) for i in range(8))
    servers, findings = fronts(replace(OUTSIDE, source_ranges=ranges, ports=many, external_ips=()))
    assert findings == [] and servers["TCP 192.0.2.10:1000"].source_ranges == ranges
    ninth = (*many, ServicePort("p8", Protocol.TCP, 1008))
    servers, findings = fronts(replace(OUTSIDE, source_ranges=ranges, ports=ninth, external_ips=()))
    assert ["closed to all clients" in text for text in findings] == [True]
    held = [row for server in servers.values() for row in members(server)]
    assert sum(row.set == "IPVSAGENT-LIMITED" for row in held) == 9
    assert not any(row.set.endswith("RANGE") for row in held)


def test_source_ranges_are_parsed_once_and_without_what_others_contain() -> None:
    networks_of.cache_clear()
    ranges = ("10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "192.0.2.10/32", "2001:db8::/32")
    ports = tuple(ServicePort(f"p{i}", Protocol.TCP, 1000 + i) for i in range(5))
    servers, _ = fronts(replace(OUTSIDE, source_ranges=ranges, ports=ports))
    held = {row.member for server in servers.values() for row in members(server) if row.set.endswith("RANGE")}
    assert held == {f"192.0.2.10,tcp:{port.port},{text}" for port in ports for text in ("10.0.0.0/8", "192.0.2.10")}
    assert networks_of.cache_info().misses <= 3  # by family, and as the members have them
