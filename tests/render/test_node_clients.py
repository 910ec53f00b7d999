"""Two virtual servers behind one address: what is in each, and which mark leads to the second."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from ipvsagent.address import Address
from ipvsagent.cluster.objects import (
    EVERYTHING_KNOWN,
    Changes,
    Endpoint,
    EndpointSlice,
    LoadBalancerIngress,
    Service,
    ServiceKey,
    ServicePort,
)
from ipvsagent.findings import FindingKind
from ipvsagent.kernel.fake import FakeKernel
from ipvsagent.model import (
    Frontend,
    Mark,
    Protocol,
    RealServer,
    ServicePortName,
    VirtualServer,
    VirtualServerId,
    WhenEmpty,
)
from ipvsagent.reconcile.report import Report
from ipvsagent.render.members import marks_held, members
from ipvsagent.render.node_clients import NodeClients
from ipvsagent.rows import SCHED1, RealServerRow, SetMemberRow, VirtualServerRow
from tests.test_laws import Agent, many, pipeline_on

MASK = 0x1FF00000
HERE, THERE, GONE = (RealServer(Address(f"10.244.{n}.1"), 8080, local=n == 1) for n in (1, 2, 3))


def free(server_id: VirtualServerId) -> bool:
    return False


def mine(server_id: VirtualServerId) -> bool:
    return True


def server(name: str = "web", address: str = "192.0.2.1", **more: object) -> VirtualServer:
    local = VirtualServer(
        id=VirtualServerId(Protocol.TCP, Address(address), 80),
        service=ServicePortName("shop", name, "http"),
        frontend=Frontend.LOAD_BALANCER,
        scheduler="rr",
        real_servers=(HERE,),
        node_real_servers=(HERE, THERE),
        unused=(THERE, GONE),
    )
    return replace(local, **more)


def arranged(*servers: VirtualServer, clients: NodeClients | None = None) -> list[VirtualServer]:
    made, findings = (clients or NodeClients(MASK)).arrange(("shop", servers[0].service.service), servers, free, mine)
    assert not findings
    return list(made)


def test_clients_outside_and_clients_on_the_node_have_a_virtual_server_each() -> None:
    outside, inside = arranged(server())
    assert outside.real_servers == (HERE,) and outside.unused == (THERE, GONE) and not outside.node_only
    assert inside.real_servers == (HERE, THERE) and inside.unused == (GONE,)
    assert inside.id.protocol is Protocol.FWM and outside.node_mark == Mark(inside.id.port, MASK)
    assert not inside.bind and not members(inside), "it has no address"
    assert f"192.0.2.1,tcp:80 skbmark {outside.node_mark}" in [row.member for row in members(outside)]


def test_without_an_endpoint_here_the_address_serves_the_node_alone() -> None:
    outside, inside = arranged(server(real_servers=(), unused=(THERE, GONE), when_empty=WhenEmpty.DROP))
    assert outside.real_servers == inside.real_servers == (HERE, THERE)
    assert outside.unused == (GONE,) and outside.node_only
    sets = {row.set for row in members(outside)}
    assert "IPVSAGENT-INNER" in sets and "IPVSAGENT-SILENT" not in sets


def test_without_any_endpoint_everybody_is_refused() -> None:
    outside, inside = arranged(server(real_servers=(), node_real_servers=(), unused=(GONE,)))
    assert not outside.real_servers and not inside.real_servers and not outside.node_only
    assert "IPVSAGENT-EMPTY" in {row.set for row in members(outside)}


def test_the_mark_stays_whatever_the_endpoints_are() -> None:
    clients = NodeClients(MASK)
    marks = {
        arranged(each, clients=clients)[0].node_mark
        for each in (server(), server(real_servers=()), server(real_servers=(), node_real_servers=()), server())
    }
    assert len(marks) == 1


def test_all_addresses_of_a_port_and_family_share_one() -> None:
    *outside, inside_v4, inside_v6 = arranged(server(), server(address="192.0.2.2"), server(address="fd00::1"))
    assert len({each.node_mark for each in outside}) == 1
    assert [str(each.id.address) for each in (inside_v4, inside_v6)] == ["0.0.0.0", "::"]


def test_affinity_is_by_a_hash_and_never_by_the_persistent_flag() -> None:
    """ip_vs_sched_persist takes the virtual server's port for the endpoint's when there is a mark."""
    for works, scheduler in ((True, "mh"), (False, "sh")):
        clients = NodeClients(MASK, scheduler_works=lambda name, works=works: works)
        outside, inside = arranged(server(persistence_timeout=600, scheduler_flags=0x30), clients=clients)
        assert outside.persistence_timeout == 600 and inside.persistence_timeout == 0
        assert (inside.scheduler, inside.scheduler_flags) == (scheduler, SCHED1)


def test_only_tcp_drains() -> None:
    for protocol, timeout in ((Protocol.TCP, 7.0), (Protocol.UDP, 0.0), (Protocol.SCTP, 0.0)):
        udp = server(id=VirtualServerId(protocol, Address("192.0.2.1"), 80), drain_timeout=7.0)
        assert arranged(udp)[1].drain_timeout == timeout


def test_others_are_not_changed() -> None:
    cluster = server(node_real_servers=None)
    assert arranged(cluster) == [cluster]
    assert arranged(server(), clients=NodeClients(0)) == [server(node_real_servers=None)]


def test_marks_found_in_the_kernel_are_taken_again_and_spare_their_owner() -> None:
    preferred = arranged(server())[1].id.port
    held = marks_held(
        [
            SetMemberRow("IPVSAGENT-LOCAL", "192.0.2.9,tcp:80 skbmark 0x500000/0x1ff00000"),
            SetMemberRow("IPVSAGENT-LOCAL", f"192.0.2.8,tcp:80 skbmark {preferred:#x}/0x1ff00000"),
            SetMemberRow("IPVSAGENT-LOCAL", "192.0.2.7,tcp:80 skbmark 0x5/0xf"),
        ]
    )
    clients = NodeClients(MASK, held)
    assert arranged(server(), clients=clients)[1].id.port != preferred, "somebody may still come for it"
    assert arranged(server("nine", "192.0.2.9"), clients=clients)[1].id.port == 0x500000
    assert arranged(server("eight", "192.0.2.8"), clients=clients)[1].id.port == preferred
    assert not arranged(server("seven", "192.0.2.7"), clients=clients)[1].id.port & ~MASK, "of another mask"


@pytest.mark.parametrize("mask", [0x1, 0x80000001, 0x7FF00000])
def test_every_number_of_a_mask_is_used_once(mask: int) -> None:
    clients = NodeClients(mask)
    count = 2 ** mask.bit_count() - 1
    ports = {
        arranged(server(f"s{n}", f"192.0.{n // 250}.{n % 250 + 1}"), clients=clients)[1].id.port for n in range(count)
    }
    assert len(ports) == count and 0 not in ports and not any(port & ~mask for port in ports)


def test_a_service_without_a_mark_is_told_of_and_gets_the_next_that_is_free() -> None:
    clients = NodeClients(0x1)
    first = arranged(server("one"), clients=clients)
    made, findings = clients.arrange(("shop", "two"), [server("two", "192.0.2.2")], free, mine)
    assert [each.node_mark for each in made] == [None] and made[0].real_servers == (HERE,)
    (finding,) = findings
    assert finding.kind is FindingKind.MARKS_EXHAUSTED and finding.subject == "Service shop/two"
    assert clients.waiting() == []
    clients.arrange(("shop", "one"), [], free, mine)
    assert clients.waiting() == [("shop", "two")] and clients.waiting() == []
    assert arranged(server("two", "192.0.2.2"), clients=clients)[1].id == first[1].id


def test_when_all_are_taken_nothing_is_looked_for() -> None:
    clients = NodeClients(0xF0)
    for n in range(15):
        arranged(server(f"s{n}", f"192.0.2.{n + 1}"), clients=clients)
    asked: list[VirtualServerId] = []
    clients.arrange(("shop", "more"), [server("more", "192.0.2.99")], lambda i: bool(asked.append(i)), mine)
    assert not asked


def test_who_has_none_of_its_addresses_has_no_mark() -> None:
    """Nothing in the kernel would say after a restart that it is its mark, and it would take the winner's."""
    clients = NodeClients(MASK, {"192.0.2.1,tcp:80": 0x00100000})
    made, findings = clients.arrange(("shop", "young"), [server("young")], free, lambda server_id: False)
    assert not findings and [(each.id, each.node_mark) for each in made] == [(server().id, None)]
    outside, _ = arranged(server("old"), clients=clients)
    assert outside.node_mark == Mark(0x00100000, MASK)
    two = [server("young"), server("young", "192.0.2.2")]
    made, _ = clients.arrange(("shop", "young"), two, free, lambda server_id: server_id == two[1].id)
    assert len(made) == 3 and made[2].id.port != 0x00100000
    clients.arrange(("shop", "young"), two, free, lambda server_id: False)
    clients.arrange(("shop", "old"), [], free, mine)
    assert clients.waiting() == []


# With the pipeline and a kernel.


def fwm(kernel: FakeKernel) -> set[VirtualServerId]:
    return {server_id for server_id in kernel.virtual_servers if server_id.protocol is Protocol.FWM}


def test_a_number_that_another_program_has_is_left_to_it() -> None:
    kernel = FakeKernel()
    objects = many(1, local=True)
    Agent(kernel, objects, 0.0, EVERYTHING_KNOWN)
    (preferred,) = fwm(kernel)
    kernel = FakeKernel()
    theirs = (VirtualServerRow(preferred, "wlc"), RealServerRow(preferred, Address("203.0.113.9"), 80))
    kernel.put(*theirs)
    agent = Agent(kernel, (), 0.0, EVERYTHING_KNOWN)
    agent.pipeline.take(Changes(upserts=tuple(objects)), 1.0)
    agent.round(1.0)
    (ours,) = fwm(kernel) - {preferred}
    assert set(theirs) <= kernel.snapshot() and len(kernel.real_servers[ours]) == 4
    assert set(marks_held(kernel.set_members).values()) == {ours.port}


def test_a_number_that_another_program_takes_in_between_is_changed() -> None:
    kernel = FakeKernel()
    objects = many(1, local=True)
    agent = Agent(kernel, objects[1:], 0.0, EVERYTHING_KNOWN)
    pipeline = agent.pipeline
    pipeline.take(Changes(upserts=(objects[0],)), 1.0)
    pipeline._wish(sorted(pipeline._dirty), Report())
    (lost,) = [server_id for server_id in pipeline.desired if server_id.protocol is Protocol.FWM]
    kernel.put(VirtualServerRow(lost, "wlc"))
    for now in (1.0, 2.0, 3.0, 4.0):
        agent.round(now)
    (ours,) = fwm(kernel) - {lost}
    assert kernel.real_servers[lost] == {} and len(kernel.real_servers[ours]) == 4
    assert set(marks_held(kernel.set_members).values()) == {ours.port}
    assert not pipeline.reconciler.suspects


def test_a_number_is_not_used_again_before_its_virtual_server_is_gone() -> None:
    """Or the real servers of the old Service would serve the clients of the new one for a moment."""
    kernel = FakeKernel()
    one = many(1, local=True)
    clients = NodeClients(0x1)
    pipeline = pipeline_on(kernel)
    pipeline._node_clients = clients
    two = [replace(each, name="two", service="two") if isinstance(each, EndpointSlice) else each for each in one]
    assert isinstance(one[0], Service) and isinstance(two[1], EndpointSlice)
    two[0] = replace(
        one[0], name="two", cluster_ips=(Address("10.97.0.1"),), ingress=(LoadBalancerIngress(Address("192.0.3.1")),)
    )
    two[1] = replace(two[1], endpoints=(Endpoint(Address("10.9.9.9")),))
    pipeline.take(Changes(upserts=tuple(one), synced=True), 0.0)
    pipeline.start(0.0)
    pipeline.take(Changes(upserts=tuple(two), removals=(one[0].key,)), 1.0)
    mixed: list[set[str]] = []

    def look(op: object) -> None:
        mixed.extend({r.address for r in kernel.real_servers[i].values()} for i in fwm(kernel))

    kernel.after_each_op = look
    for now in (1.0, 2.0):
        pipeline.round(now)
    assert ServiceKey("ns", "two") not in pipeline._dirty
    (number,) = fwm(kernel)
    assert [str(r.address) for r in kernel.real_servers[number].values()] == ["10.9.9.9"]
    assert all("10.9.9.9" not in reals or len(reals) == 1 for reals in mixed)


def test_a_restart_finds_the_marks_that_chance_gave() -> None:
    """Names that lead to one number get neighbours, by who came first; a restart comes in another order."""
    kernel = FakeKernel()
    objects = many(40, local=True)
    pipeline = pipeline_on(kernel)
    pipeline._node_clients = NodeClients(0x3F)
    pipeline.take(Changes(upserts=tuple(reversed(objects)), synced=True), 0.0)
    pipeline.start(0.0)
    for service, piece in zip(objects[::2], objects[1::2], strict=True):
        pipeline.take(Changes(removals=(service.key,)), 1.0)
        pipeline.round(1.0)
        pipeline.take(Changes(upserts=(service, piece)), 2.0)
        pipeline.round(2.0)
    before = kernel.snapshot()
    kernel.restart()
    list(kernel.addresses.read(None))
    again = pipeline_on(kernel)
    again._node_clients = NodeClients(0x3F, marks_held(kernel.set_members))
    again.take(Changes(upserts=tuple(objects), synced=True), 3.0)
    assert again.start(3.0).written == 0 and kernel.snapshot() == before


def test_ports_of_a_service_have_marks_of_their_own() -> None:
    service = many(1, local=True)[0]
    assert isinstance(service, Service)
    both = replace(service, ports=(*service.ports, ServicePort("dns", Protocol.UDP, 53)))
    kernel = FakeKernel()
    Agent(kernel, [both], 0.0, EVERYTHING_KNOWN)
    assert len(fwm(kernel)) == len(set(marks_held(kernel.set_members).values())) == 2
