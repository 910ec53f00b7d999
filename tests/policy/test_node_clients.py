"""Two sets of endpoints behind one address: which virtual server clients on the node are translated to."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.cluster.objects import (
    EVERYTHING_KNOWN,
    Changes,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    LoadBalancerIngress,
    Object,
    Service,
    ServicePort,
)
from ipvsagent.config import parse_network
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.model import Frontend, Protocol, VirtualServer, VirtualServerId, WhenEmpty
from ipvsagent.policy.capabilities import IPTABLES, IPVS, Capabilities
from ipvsagent.policy.node import NodeFacts
from ipvsagent.policy.virtual_servers import PolicyOptions, virtual_servers_for
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.render.set_members import members
from ipvsagent.rows import SetMemberRow, TranslationRow
from tests.support.ipvs_pipeline import Agent, fresh_snapshot

NODE = NodeFacts(name="here")
CLUSTER_IP, BALANCER = Address("10.96.0.4"), Address("192.0.2.4")
WEB = Service(
    namespace="shop",
    name="web",
    created=1,
    type="LoadBalancer",
    external_local=True,
    cluster_ips=(CLUSTER_IP,),
    ports=(ServicePort("http", Protocol.TCP, 80),),
    ingress=(LoadBalancerIngress(BALANCER),),
)
HERE, THERE = Endpoint(Address("10.1.0.5"), node="here"), Endpoint(Address("10.1.0.6"), node="other")
GONE = Endpoint(Address("10.1.0.7"), ready=False, serving=False, node="other")


def piece(*endpoints: Endpoint, family: Family = Family.IPV4, service: str = "web") -> EndpointSlice:
    return EndpointSlice(
        namespace="shop",
        name=f"{service}-{family}",
        service=service,
        family=family,
        ports=(
            EndpointPort("http", Protocol.TCP, 8080),
            EndpointPort("admin", Protocol.TCP, 9090),
            EndpointPort("dns", Protocol.UDP, 5353),
        ),
        endpoints=endpoints,
    )


def servers(
    service: Service,
    *endpoints: Endpoint,
    node: NodeFacts = NODE,
    capabilities: Capabilities = IPVS,
) -> dict[VirtualServerId, VirtualServer]:
    slices = [piece(*(endpoints or (HERE, THERE)))]
    options = PolicyOptions(scheduler="rr", capabilities=capabilities)
    made = virtual_servers_for(service, slices, node, options, lambda address: False)
    return {server.id: server for server in made.virtual_servers}


def tcp(address: Address, port: int = 80) -> VirtualServerId:
    return VirtualServerId(Protocol.TCP, address, port)


def addresses(server: VirtualServer) -> list[str]:
    return [real.address for real in server.real_servers]


def sets_of(server: VirtualServer) -> set[str]:
    return {row.set.removeprefix("IPVSAGENT-") for row in members(server)}


def translations_of(server: VirtualServer) -> list[TranslationRow]:
    return [row for row in IpvsRenderer().shared(server) if isinstance(row, TranslationRow)]


def test_clients_on_the_node_are_translated_to_the_cluster_ip() -> None:
    made = servers(WEB, HERE, THERE, GONE)
    cluster, balancer = made[tcp(CLUSTER_IP)], made[tcp(BALANCER)]
    assert len(made) == 2 and cluster.inside is None and balancer.inside == cluster.id
    assert addresses(balancer) == ["10.1.0.5"] and not balancer.node_only
    assert [real.address for real in balancer.unused] == ["10.1.0.6", "10.1.0.7"]
    assert addresses(cluster) == ["10.1.0.5", "10.1.0.6"]
    assert "INSIDE" in sets_of(balancer) and "INSIDE" not in sets_of(cluster)
    assert translations_of(balancer) == [TranslationRow(balancer.id, cluster.id)] and not translations_of(cluster)


def test_node_ports_and_external_addresses_are_translated_too() -> None:
    external_ip = Address("198.51.100.7")
    service = replace(
        WEB,
        ports=(ServicePort("http", Protocol.TCP, 80, node_port=30080),),
        external_ips=(external_ip,),
    )
    node_addresses = (Address("172.16.0.1"), Address("172.16.0.2"))
    options = PolicyOptions(scheduler="rr", capabilities=IPVS, allowed_external=(parse_network("198.51.100.0/24"),))
    node = replace(NODE, node_port_addresses=node_addresses)
    made = virtual_servers_for(service, [piece(HERE, THERE)], node, options, lambda address: False).virtual_servers
    assert {server.id: server.inside for server in made} == {
        tcp(CLUSTER_IP): None,
        tcp(BALANCER): tcp(CLUSTER_IP),
        tcp(external_ip): tcp(CLUSTER_IP),
        **{tcp(address, 30080): tcp(CLUSTER_IP) for address in node_addresses},
    }


def test_without_two_sets_nobody_is_translated() -> None:
    for service in (replace(WEB, external_local=False), replace(WEB, internal_local=True, external_local=False)):
        assert {server.inside for server in servers(service).values()} == {None}
    balancer = servers(WEB, capabilities=IPTABLES)[tcp(BALANCER)]
    assert balancer.inside is None and balancer.node_real_servers is not None


def test_without_an_endpoint_here_the_address_serves_the_node_alone() -> None:
    balancer = servers(WEB, THERE, GONE)[tcp(BALANCER)]
    assert addresses(balancer) == ["10.1.0.6"] and balancer.node_only and balancer.inside == tcp(CLUSTER_IP)
    assert [real.address for real in balancer.unused] == ["10.1.0.7"]
    assert {"INNER", "INSIDE"} <= sets_of(balancer) and not {"SILENT", "EMPTY"} & sets_of(balancer)


def test_without_any_endpoint_everybody_is_refused() -> None:
    balancer = servers(WEB, GONE)[tcp(BALANCER)]
    assert not balancer.real_servers and not balancer.node_only and "EMPTY" in sets_of(balancer)


# Both policies are Local: a hidden port of the cluster IP


def both(*ports: tuple[str, Protocol, int]) -> Service:
    return replace(WEB, internal_local=True, ports=tuple(ServicePort(*port) for port in ports))


def hidden_in(made: dict[VirtualServerId, VirtualServer]) -> dict[VirtualServerId, VirtualServer]:
    return {i: server for i, server in made.items() if server.frontend is Frontend.NODE_CLIENTS}


def test_where_both_policies_are_local_they_are_translated_to_a_hidden_port() -> None:
    made = servers(both(("http", Protocol.TCP, 80)), HERE, THERE, GONE)
    hidden = made[tcp(CLUSTER_IP, 32848)]
    assert len(made) == 3 and hidden_in(made) == {hidden.id: hidden}
    assert made[tcp(BALANCER)].inside == hidden.id and made[tcp(CLUSTER_IP)].inside is None
    assert addresses(made[tcp(CLUSTER_IP)]) == ["10.1.0.5"]
    assert addresses(hidden) == ["10.1.0.5", "10.1.0.6"] and hidden.inside is None
    assert [real.address for real in hidden.unused] == ["10.1.0.7"]
    assert {"SERVICE", "CLUSTER", "HIDDEN"} <= sets_of(hidden) and "INSIDE" not in sets_of(hidden)
    assert not translations_of(hidden)


def test_the_hidden_port_is_there_whatever_endpoints_are_here() -> None:
    silent = servers(both(("http", Protocol.TCP, 80)), THERE)
    assert silent[tcp(CLUSTER_IP)].when_empty is WhenEmpty.DROP and not silent[tcp(CLUSTER_IP)].real_servers
    assert addresses(silent[tcp(CLUSTER_IP, 32848)]) == ["10.1.0.6"]
    assert silent[tcp(BALANCER)].inside == tcp(CLUSTER_IP, 32848)
    empty = servers(both(("http", Protocol.TCP, 80)), GONE)
    assert all(server.when_empty is WhenEmpty.REFUSE for server in hidden_in(empty).values())


def test_all_addresses_of_a_port_share_its_hidden_port() -> None:
    service = replace(
        both(("http", Protocol.TCP, 80)),
        ingress=(LoadBalancerIngress(BALANCER), LoadBalancerIngress(Address("192.0.2.5"))),
    )
    made = servers(service)
    assert len(hidden_in(made)) == 1
    assert made[tcp(BALANCER)].inside == made[tcp(Address("192.0.2.5"))].inside == tcp(CLUSTER_IP, 32848)


@pytest.mark.parametrize(
    ("ports", "hidden"),
    [
        ((80, 443), (32848, 33211)),
        ((40000,), (7232,)),  # around the end
        ((32768,), (1,)),  # 0 is no port
        ((80, 32848), (32849, 80 + 1)),  # a port of the Service is not taken, in either direction
        ((80, 32848, 32849), (32850, 81, 82)),
        ((32767, 65535, 32768), (1, 32769, 2)),  # neither 65535, nor 0, nor what the first has
        ((32768, 32769), (1, 2)),
        ((1, 32769), (32770, 2)),
    ],
)
def test_hidden_ports_are_distinct(ports: tuple[int, ...], hidden: tuple[int, ...]) -> None:
    names = ("http", "admin", "more")
    service = both(*((name, Protocol.TCP, port) for name, port in zip(names, ports, strict=False)))
    made = servers(service)
    targets = [made[tcp(BALANCER, port)].inside for port in ports]
    assert targets == [tcp(CLUSTER_IP, port) for port in hidden]
    assert [made[target].service.port for target in targets if target] == list(names[: len(ports)])


def test_protocols_have_hidden_ports_of_their_own() -> None:
    made = servers(both(("http", Protocol.TCP, 53), ("dns", Protocol.UDP, 53)))
    assert {str(i) for i in hidden_in(made)} == {"TCP 10.96.0.4:32821", "UDP 10.96.0.4:32821"}
    assert made[VirtualServerId(Protocol.UDP, BALANCER, 53)].inside == VirtualServerId(Protocol.UDP, CLUSTER_IP, 32821)


# Where there is nothing to translate to


def test_without_a_cluster_ip_of_the_family_there_is_nothing_to_translate_to() -> None:
    six = Address("2001:db8::4")
    service = replace(WEB, ingress=(LoadBalancerIngress(BALANCER), LoadBalancerIngress(six)))
    made = {
        server.id: server
        for server in virtual_servers_for(
            service,
            [piece(HERE, THERE), piece(Endpoint(Address("fd00::5"), node="here"), family=Family.IPV6)],
            NODE,
            PolicyOptions(scheduler="rr", capabilities=IPVS),
            lambda address: False,
        ).virtual_servers
    }
    assert made[tcp(BALANCER)].inside == tcp(CLUSTER_IP)
    assert all(server.inside is None for server in made.values() if server.id.family is Family.IPV6)


def test_a_cluster_ip_that_is_refused_is_no_target() -> None:
    """As the address of another Node is."""
    node = replace(NODE, other_nodes={CLUSTER_IP: "other"})
    for service in (WEB, both(("http", Protocol.TCP, 80))):
        made = servers(service, node=node)
        assert made.keys() == {tcp(BALANCER)} and made[tcp(BALANCER)].inside is None
        assert addresses(made[tcp(BALANCER)]) == ["10.1.0.5"]
        (alone,) = servers(service, THERE, node=node).values()
        assert alone.node_only and addresses(alone) == ["10.1.0.6"]


# With the pipeline and a kernel


def older(port: int = 80) -> list[Object]:
    """A Service that is older than WEB and has its cluster IP."""
    service = Service(
        namespace="shop",
        name="older",
        created=0,
        cluster_ips=(CLUSTER_IP,),
        ports=(ServicePort("http", Protocol.TCP, port),),
    )
    return [service, piece(Endpoint(Address("10.9.9.9"), node="other"), service="older")]


def translated(kernel: FakeKernel) -> set[str]:
    return {f"{row.source} to {row.target}" for row in kernel.translated}


def drained(agent: Agent, now: float) -> None:
    for seconds in (0.0, 100.0, 200.0):
        agent.round(now + seconds)


def inside_members(kernel: FakeKernel) -> set[SetMemberRow]:
    return {row for row in kernel.set_members if row.set == "IPVSAGENT-INSIDE"}


@pytest.mark.parametrize(
    ("service", "port", "target"),
    [
        (WEB, 80, "10.96.0.4:80"),
        (both(("http", Protocol.TCP, 80)), 32848, "10.96.0.4:32848"),
    ],
    ids=["cluster IP", "hidden port"],
)
def test_nobody_is_translated_to_the_endpoints_of_an_older_service(service: Service, port: int, target: str) -> None:
    kernel = FakeKernel()
    web: list[Object] = [service, piece(HERE, THERE)]
    agent = Agent(kernel, web, 0.0, EVERYTHING_KNOWN)
    wanted = {f"TCP 192.0.2.4:80 to TCP {target}"}
    assert translated(kernel) == wanted and len(inside_members(kernel)) == 1

    agent.pipeline.apply_changes(Changes(upserts=tuple(older(port))), 1.0)
    agent.round(1.0)
    assert translated(kernel) == set() and not inside_members(kernel)
    assert kernel.real_servers[tcp(BALANCER)], "clients on the node have what there is for clients outside"
    drained(agent, 2.0)
    assert kernel.snapshot() == fresh_snapshot([*web, *older(port)])

    agent.pipeline.apply_changes(Changes(removals=tuple(each.key for each in older(port))), 501.0)
    agent.round(501.0)
    assert translated(kernel) == wanted and len(inside_members(kernel)) == 1
    drained(agent, 502.0)
    assert kernel.snapshot() == fresh_snapshot(web)


def test_another_target_replaces_the_old_one() -> None:
    kernel = FakeKernel()
    pods = piece(HERE, THERE)
    agent = Agent(kernel, [WEB, pods], 0.0, EVERYTHING_KNOWN)
    changed = replace(WEB, internal_local=True)
    agent.pipeline.apply_changes(Changes(upserts=(changed,)), 1.0)
    agent.round(1.0)
    assert translated(kernel) == {"TCP 192.0.2.4:80 to TCP 10.96.0.4:32848"}
    agent.pipeline.apply_changes(Changes(upserts=(replace(WEB, external_local=False),)), 2.0)
    agent.round(2.0)
    assert translated(kernel) == set() and tcp(CLUSTER_IP, 32848) not in kernel.virtual_servers


def test_a_translation_comes_after_its_target_and_goes_before_it() -> None:
    """While one is there its target has real servers."""
    kernel = FakeKernel()
    agent = Agent(kernel, [], 0.0, EVERYTHING_KNOWN)
    seen: list[int] = []

    def look(_: object) -> None:
        wanted = kernel.translations.desired or frozenset()
        assert all(kernel.real_servers.get(row.target) for row in wanted)
        seen.append(len(wanted))

    kernel.after_each_op = look
    web = (both(("http", Protocol.TCP, 80)), piece(HERE, THERE))
    agent.pipeline.apply_changes(Changes(upserts=web), 1.0)
    agent.round(1.0)
    agent.pipeline.apply_changes(Changes(removals=(web[0].key,)), 2.0)
    agent.round(2.0)
    assert max(seen) == 1 and not kernel.translated


@pytest.mark.parametrize("internal", [False, True])
def test_who_is_translated_is_told_of_when_a_udp_endpoint_elsewhere_goes(internal: bool) -> None:
    """Flows are known by the address that they were sent to. IPVS goes on with one until the real server is away, and
    that is after a window: the last report must be what ends them."""
    service = replace(WEB, ports=(ServicePort("dns", Protocol.UDP, 53),), internal_local=internal)
    kernel = FakeKernel()
    agent = Agent(kernel, [service, piece(HERE, THERE)], 0.0, EVERYTHING_KNOWN)
    balancer = VirtualServerId(Protocol.UDP, BALANCER, 53)
    target = VirtualServerId(Protocol.UDP, CLUSTER_IP, 32821 if internal else 53)

    def told(now: float) -> set[tuple[str, ...]]:
        """Who may answer clients of the address, those on the node among them, if any is reported."""
        found = [server for server in agent.pipeline.round(now).udp if server.id == balancer]
        return {tuple(r.address for r in (*server.real_servers, *(server.node_real_servers or ()))) for server in found}

    moved = piece(HERE, replace(THERE, address=Address("10.1.0.8")))
    agent.pipeline.apply_changes(Changes(upserts=(moved,)), 1.0)
    everybody = ("10.1.0.5", "10.1.0.5", "10.1.0.8")
    assert told(1.0) == {everybody}
    assert (Address("10.1.0.6"), 5353) in kernel.real_servers[target], (
        "for a window, or it would be the test of nothing"
    )
    assert told(2.0) == {everybody} and (Address("10.1.0.6"), 5353) not in kernel.real_servers[target]
    assert told(100.0) == set()
    unready = piece(HERE, replace(THERE, address=Address("10.1.0.8"), ready=False, serving=False))
    agent.pipeline.apply_changes(Changes(upserts=(unready,)), 200.0)
    assert told(200.0) == {("10.1.0.5", "10.1.0.5")}


def test_who_is_no_longer_translated_is_told_of() -> None:
    dns = replace(WEB, ports=(ServicePort("dns", Protocol.UDP, 53),))
    agent = Agent(FakeKernel(), [dns, piece(HERE, THERE)], 0.0, EVERYTHING_KNOWN)
    thief = replace(older()[0], ports=(ServicePort("dns", Protocol.UDP, 53),))
    agent.pipeline.apply_changes(Changes(upserts=(thief,)), 1.0)
    (told,) = [server for server in agent.pipeline.round(1.0).udp if server.id.address == BALANCER]
    assert told.inside is None and told.node_real_servers is None
