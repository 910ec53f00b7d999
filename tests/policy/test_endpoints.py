"""Which endpoints serve: one line per case, in the words of pkg/proxy/topology_test.go."""

from __future__ import annotations

import pytest

from ipvsagent.address import Address, Family
from ipvsagent.cluster.objects import Endpoint, EndpointPort, EndpointSlice, ServicePort
from ipvsagent.model import Protocol
from ipvsagent.policy.endpoints import Reason, choose, join, why

HTTP = ServicePort("http", Protocol.TCP, 80)
NODE, ZONE = "here", "zone-a"


def endpoint(number: int, state: str = "ready", node: str = "", zones: str = "", nodes: str = "") -> Endpoint:
    ready, serving, terminating = {
        "ready": (True, True, False),
        "fading": (False, True, True),
        "unready": (False, False, False),
        "serving-unready": (False, True, False),
        "ended": (False, False, True),
        "ready-terminating": (True, True, True),
    }[state]
    return Endpoint(
        Address(f"10.1.0.{number}"),
        ready,
        serving,
        terminating,
        node,
        "",
        tuple(zones.split()),
        tuple(nodes.split()),
    )


def slice_of(*endpoints: Endpoint, name: str = "s", port: int = 8080, port_name: str = "http") -> EndpointSlice:
    return EndpointSlice(
        namespace="ns",
        name=name,
        service="svc",
        family=Family.IPV4,
        ports=(EndpointPort(port_name, Protocol.TCP, port),),
        endpoints=endpoints,
    )


def chosen(*endpoints: Endpoint, node: str = NODE, zone: str = ZONE) -> tuple[str, str, bool]:
    """(cluster, local, anywhere) as last octets."""
    choice = choose(join(HTTP, [slice_of(*endpoints)], Family.IPV4), node, zone)

    def numbers(candidates: tuple) -> str:  # type: ignore[type-arg]
        return " ".join(c.endpoint.address.rsplit(".")[-1] for c in candidates)

    return numbers(choice.cluster), numbers(choice.local), choice.has_usable_endpoints_anywhere


E = endpoint
CASES = {
    "no endpoints": ([], ("", "", False)),
    "all ready, wherever they are": ([E(1), E(2, node="other"), E(3, node=NODE)], ("1 2 3", "3", True)),
    "unready is never used": ([E(1), E(2, "unready")], ("1", "", True)),
    "serving, unready, not terminating is never used": ([E(1, "serving-unready")], ("", "", False)),
    "terminating only while nothing is ready": ([E(1), E(2, "fading")], ("1", "", True)),
    "terminating when nothing is ready": ([E(1, "unready"), E(2, "fading")], ("2", "", True)),
    "terminating that no longer serves": ([E(1, "ended")], ("", "", False)),
    "ready is taken as given, even terminating": ([E(1, "ready-terminating")], ("1", "", True)),
    "the two fallbacks are independent": (
        [E(1, node="other"), E(2, "fading", node=NODE)],
        ("1", "2", True),
    ),
    "local falls back only to local": ([E(1, "fading", node="other")], ("1", "", True)),
    "zone hints": ([E(1, zones="zone-a"), E(2, zones="zone-b"), E(3, zones="zone-b zone-a")], ("1 3", "", True)),
    "one unhinted endpoint switches zone hints off": ([E(1, zones="zone-a"), E(2)], ("1 2", "", True)),
    "an unhinted unready endpoint does not": (
        [E(1, zones="zone-a"), E(2, "unready"), E(3, zones="zone-b")],
        ("1", "", True),
    ),
    "zone hints that leave this zone out": ([E(1, zones="zone-b"), E(2, zones="zone-c")], ("1 2", "", True)),
    "node hints before zone hints": (
        [E(1, zones="zone-a", nodes="other"), E(2, zones="zone-b", nodes=NODE)],
        ("2", "", True),
    ),
    "node hints for other nodes, then zone hints": (
        [E(1, zones="zone-a", nodes="other"), E(2, zones="zone-b", nodes="other")],
        ("1", "", True),
    ),
    "hints never touch the local set": (
        [E(1, node=NODE, zones="zone-b"), E(2, node="other", zones="zone-a")],
        ("2", "1", True),
    ),
    "no hints for the terminating fallback": (
        [E(1, "fading", zones="zone-b"), E(2, "fading", zones="zone-a")],
        ("1 2", "", True),
    ),
    "the endpoint's own zone and node play no part in hints": (
        [Endpoint(Address("10.1.0.1"), zone="zone-b", zone_hints=("zone-a",)), E(2, zones="zone-b")],
        ("1", "", True),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_choice(case: str) -> None:
    endpoints, expected = CASES[case]
    assert chosen(*endpoints) == expected


def test_without_a_node_name_nothing_is_local() -> None:
    assert chosen(E(1, node=""), E(2, node=NODE), node="") == ("1 2", "", True)


def test_without_a_zone_zone_hints_do_not_apply() -> None:
    assert chosen(E(1, zones="zone-a"), E(2, zones="zone-b"), zone="") == ("1 2", "", True)


def test_join_goes_by_name_and_protocol_and_takes_the_number_of_each_slice() -> None:
    slices = [
        slice_of(E(1), name="a", port=8080),
        slice_of(E(2), name="b", port=9090),
        slice_of(E(3), name="c", port_name="metrics"),
    ]
    assert [(c.endpoint.address, c.port) for c in join(HTTP, slices, Family.IPV4)] == [
        ("10.1.0.1", 8080),
        ("10.1.0.2", 9090),
    ]
    assert join(ServicePort("http", Protocol.UDP, 80), slices, Family.IPV4) == ()
    assert join(HTTP, slices, Family.IPV6) == ()


@pytest.mark.parametrize("worse", ["fading", "unready", "ended"])
@pytest.mark.parametrize("first", ["better", "worse"])
def test_an_endpoint_in_two_slices_counts_by_its_better_entry(worse: str, first: str) -> None:
    better = slice_of(E(1), name="a" if first == "better" else "z")
    other = slice_of(E(1, worse), name="m")
    slices = sorted([better, other], key=lambda s: s.name)
    (candidate,) = join(HTTP, slices, Family.IPV4)
    assert candidate.endpoint.ready and not candidate.endpoint.terminating


@pytest.mark.parametrize(
    ("candidate", "local", "reason"),
    [
        (E(1), False, Reason.READY),
        (E(2, "unready"), False, Reason.NOT_READY),
        (E(3, "fading"), False, Reason.TERMINATING),
        (E(4, zones="zone-b"), False, Reason.READY),
        (E(1, node="other"), True, Reason.OTHER_NODE),
    ],
)
def test_why(candidate: Endpoint, local: bool, reason: Reason) -> None:
    candidates = join(HTTP, [slice_of(candidate, E(9, node=NODE))], Family.IPV4)
    choice = choose(candidates, NODE, ZONE)
    found = next(c for c in candidates if c.endpoint == candidate)
    assert why(found, choice.local if local else choice.cluster, local=local, node=NODE) is reason
