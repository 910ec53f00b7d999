"""The native view of `status`, where a Service has more than one virtual server for one address."""

from __future__ import annotations

from msgspec.structs import replace

from ipvsagent.address import Address
from ipvsagent.cluster.objects import EVERYTHING_KNOWN, BlindSpots, Changes, EndpointSlice, Service, ServiceKey
from ipvsagent.kernel.fake.kernel import FakeKernel
from tests.support.generated_cluster import many
from tests.support.iptables_pipeline import Agent as AgentOnIptables
from tests.support.ipvs_pipeline import Agent
from tests.support.status_output import shown


def test_both_halves_of_a_local_policy_are_under_one_service() -> None:
    kernel = FakeKernel()
    objects = many(1, local=True)
    agent = Agent(kernel, objects, 0.0, EVERYTHING_KNOWN)
    text, made = shown(kernel, agent)
    titles = [line for line in text.splitlines() if line.startswith("ns/")]
    assert titles == [
        "ns/s0:http  ClusterIP",
        "ns/s0:http  LoadBalancer",
    ]
    elsewhere = "(pods and processes of this node: TCP 10.96.0.1:80)"
    assert f"  TCP 192.0.0.1:80 rr  (for clients outside this node)  {elsewhere}" in text.splitlines()
    assert {each.clients: each.inside for each in made.virtual_servers} == {"": "", "outside": "TCP 10.96.0.1:80"}
    assert {each.condition for each in made.virtual_servers} == {"confirmed"}


def test_a_hidden_port_is_under_its_service() -> None:
    kernel = FakeKernel()
    service, piece = many(1, local=True)
    assert isinstance(service, Service)
    agent = Agent(kernel, [replace(service, internal_local=True), piece], 0.0, EVERYTHING_KNOWN)
    text, made = shown(kernel, agent)
    titles = [line for line in text.splitlines() if line.startswith("ns/")]
    assert titles == [
        "ns/s0:http  ClusterIP",
        "ns/s0:http  LoadBalancer",
        "ns/s0:http  every external address, for pods and processes of this node",
    ]
    by_port = {(each.address, each.port): each for each in made.virtual_servers}
    assert by_port["10.96.0.1", 32848].clients == "node" and not by_port["10.96.0.1", 32848].inside
    assert by_port["192.0.0.1", 80].clients == "outside"
    assert by_port["192.0.0.1", 80].inside == "TCP 10.96.0.1:32848"
    assert {each.condition for each in made.virtual_servers} == {"confirmed"}


def test_what_is_held_is_shown_until_every_input_can_be_read() -> None:
    kernel = FakeKernel()
    objects = [each for each in many(2) if isinstance(each, (Service, EndpointSlice))]
    Agent(kernel, objects, 0.0, EVERYTHING_KNOWN)
    services = [each for each in objects if isinstance(each, Service)]
    (piece,) = [each for each in objects if isinstance(each, EndpointSlice) and each.service == services[0].name]
    smaller = replace(piece, endpoints=piece.endpoints[:1])
    blind = BlindSpots(services=True, endpoints=frozenset({ServiceKey("ns", services[0].name)}))
    agent = Agent(kernel, [services[0], smaller], 1.0, blind)
    text, made = shown(kernel, agent)
    assert {each.service: each.condition for each in made.virtual_servers} == {"ns/s0:http": "held", "": "held"}
    assert text.count("[nothing of it is removed until every input can be read]") == 2
    assert made.agent and not made.agent.held

    agent.pipeline.apply_changes(Changes(blind=EVERYTHING_KNOWN), 2.0)
    agent.round(2.0)
    assert {each.condition for each in shown(kernel, agent)[1].virtual_servers} == {"confirmed"}


def test_silence_is_said() -> None:
    kernel = FakeKernel()
    service, piece = many(1, local=True)
    assert isinstance(piece, EndpointSlice)
    agent = Agent(kernel, [service, piece], 0.0, EVERYTHING_KNOWN)
    elsewhere = tuple(endpoint for endpoint in piece.endpoints if endpoint.node == "other")
    agent.pipeline.apply_changes(Changes(upserts=(replace(piece, endpoints=elsewhere),)), 1.0)
    agent.round(1.0)
    text, _ = shown(kernel, agent)
    inside = "(pods and processes of this node: TCP 10.96.0.1:80)"
    said = f"  TCP 192.0.0.1:80 rr  (no endpoint on this node: packets of clients outside are dropped)  {inside}"
    assert said in text.splitlines()
    assert Address("192.0.0.1") in kernel.bound


def test_on_iptables_one_virtual_server_has_both_halves() -> None:
    kernel = FakeKernel()
    service, piece = many(1, local=True)
    assert isinstance(piece, EndpointSlice)
    agent = AgentOnIptables(kernel, [service, piece], 0.0)
    text, made = shown(kernel, agent)
    assert "  TCP 192.0.0.1:80 random  (for clients outside this node)" in text.splitlines()
    (outside,) = [each for each in made.virtual_servers if each.clients]
    here = {endpoint.address for endpoint in piece.endpoints if endpoint.node != "other"}
    assert {real.address for real in outside.real_servers} == here

    only_here = tuple(endpoint for endpoint in piece.endpoints if endpoint.node != "other")
    agent.pipeline.apply_changes(Changes(upserts=(replace(piece, endpoints=only_here),)), 1.0)
    agent.round(1.0)
    assert not [each.clients for each in shown(kernel, agent)[1].virtual_servers if each.clients]

    elsewhere = tuple(endpoint for endpoint in piece.endpoints if endpoint.node == "other")
    agent.pipeline.apply_changes(Changes(upserts=(replace(piece, endpoints=elsewhere),)), 2.0)
    agent.round(2.0)
    text, made = shown(kernel, agent)
    assert (
        "  TCP 192.0.0.1:80 random  (no endpoint on this node: packets of clients outside are dropped)"
        in text.splitlines()
    )
    (silent,) = [each for each in made.virtual_servers if each.clients]
    assert {real.address for real in silent.real_servers} == {endpoint.address for endpoint in elsewhere}
    assert {each.condition for each in made.virtual_servers} == {"confirmed"}
