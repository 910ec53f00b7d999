"""What policy learns about this node and the others."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from ipvsagent.address import Address
from ipvsagent.cluster.objects import Node
from ipvsagent.policy.node import node_facts


def addresses(text: str) -> tuple[Address, ...]:
    return tuple(Address(a) for a in text.split())


NODES = {
    "here": Node(name="here", addresses=addresses("172.16.0.1 fd00:172::1 172.16.9.1"), zone="a"),
    "there": Node(name="there", addresses=addresses("172.16.0.2"), zone="b", annotations={"ipvsagent.io/weight": "5"}),
}
ON_INTERFACES = dict.fromkeys(addresses("172.16.0.1 10.244.0.1 fd00:172::1 fd00:244::1"), "eth0")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], "10.244.0.1 172.16.0.1 fd00:172::1 fd00:244::1"),
        (["172.16.0.0/16"], "172.16.0.1 fd00:172::1 fd00:244::1"),
        (["172.16.0.0/16", "fd00:244::/32"], "172.16.0.1 fd00:244::1"),
        (["0.0.0.0/0", "::/0"], "10.244.0.1 172.16.0.1 fd00:172::1 fd00:244::1"),
        (["192.0.2.0/24"], "fd00:172::1 fd00:244::1"),
        (["primary"], "172.16.0.1 fd00:172::1"),
    ],
)
def test_node_port_addresses(wanted: list[str], expected: str) -> None:
    facts, _ = node_facts("here", NODES, ON_INTERFACES, wanted)
    assert facts.node_port_addresses == addresses(expected)


@pytest.mark.parametrize(
    ("node_ports", "pods", "said"),
    [
        ([], [], []),
        (["primary"], ["10.244.0.0/16"], []),
        (["172.16.0.0/16", "::/0"], ["10.244.0.0/16", "fd00::/16"], []),
        (["172.16.0.0/16"], [], ["nodePortAddresses: has no IPv6 range"]),
        (["fd00::/8"], [], ["nodePortAddresses: has no IPv4 range"]),
        ([], ["fd00::/16"], ["clusterCIDR: has no IPv4 range"]),
    ],
)
def test_ranges_of_the_wrong_family_are_said(node_ports: list[str], pods: list[str], said: list[str]) -> None:
    _, findings = node_facts("here", NODES, ON_INTERFACES, node_ports, pod_networks=[ip_network(each) for each in pods])
    assert [str(finding).partition(",")[0] for finding in findings] == said


def test_own_and_other_addresses() -> None:
    facts, findings = node_facts("here", NODES, ON_INTERFACES, ())
    assert facts.zone == "a" and findings == ()
    assert facts.own_addresses == ON_INTERFACES.keys() | {Address("172.16.9.1")}
    assert facts.other_nodes == {Address("172.16.0.2"): "there"}
    assert facts.weights == {"there": 5} and facts.zones == {"here": "a", "there": "b"}


def test_an_address_that_this_node_has_is_its_own_whatever_another_node_says() -> None:
    facts, _ = node_facts("here", NODES, {**ON_INTERFACES, Address("172.16.0.2"): "eth1"}, ())
    assert facts.other_nodes == {}


def test_a_node_weight_that_is_none_is_said() -> None:
    node = Node(name="x", annotations={"ipvsagent.io/weight": "heavy"})
    facts, (finding,) = node_facts("here", {"x": node}, {}, ())
    assert facts.weights == {} and "weight 'heavy' is not a whole number" in finding.reason


def test_an_unknown_node_has_no_zone_and_everything_is_another_node() -> None:
    facts, _ = node_facts("nowhere", NODES, ON_INTERFACES, ())
    assert facts.zone == "" and set(facts.other_nodes) == set(addresses("172.16.9.1 172.16.0.2"))


@pytest.mark.parametrize(
    ("primary_address", "primary"),
    [
        ("172.16.9.1", "172.16.9.1 fd00:172::1"),
        ("192.0.2.1", "192.0.2.1 fd00:172::1"),
        ("fd00:9::9", "172.16.0.1 fd00:9::9"),
    ],
)
def test_an_address_that_the_operator_gave_is_the_first_of_its_family(primary_address: str, primary: str) -> None:
    facts, _ = node_facts("here", NODES, ON_INTERFACES, ["primary"], Address(primary_address))
    assert facts.node_port_addresses == addresses(primary)
    assert Address(primary_address) in facts.own_addresses and Address(primary_address) in facts.node_addresses


def test_an_address_that_the_operator_gave_is_no_other_nodes() -> None:
    facts, _ = node_facts("here", NODES, ON_INTERFACES, (), Address("172.16.0.2"))
    assert facts.other_nodes == {}


def test_a_node_without_addresses_is_known_by_its_interfaces() -> None:
    facts, _ = node_facts("here", {"here": Node(name="here")}, ON_INTERFACES, ())
    assert facts.node_addresses == ON_INTERFACES.keys()
    assert node_facts("here", {"here": Node(name="here")}, ON_INTERFACES, ["primary"])[0].node_port_addresses == ()
