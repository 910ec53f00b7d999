"""Who stands behind an id that several Services claim."""

from __future__ import annotations

from itertools import permutations

import pytest

from ipvsagent.address import Address
from ipvsagent.cluster.objects import Service, ServiceKey
from ipvsagent.model import Frontend, Protocol, RealServer, ServicePortName, VirtualServer, VirtualServerId
from ipvsagent.policy.desired import DesiredState, Rank, rank_of

ID = VirtualServerId(Protocol.TCP, Address("10.0.0.1"), 80)


def server(name: str, *addresses: str) -> VirtualServer:
    return VirtualServer(
        id=ID,
        service=ServicePortName("ns", name, ""),
        frontend=Frontend.EXTERNAL_IP,
        scheduler="rr",
        real_servers=tuple(RealServer(Address(a), 80) for a in addresses),
    )


def rank(name: str, created: int | None) -> Rank:
    return rank_of(Service(namespace="ns", name=name, created=created))


AGES = {"old": 100, "young": 200, "ageless": None, "also-ageless": None}


@pytest.mark.parametrize("names", list(permutations(AGES)), ids=" ".join)
def test_the_oldest_wins_whatever_the_order(names: tuple[str, ...]) -> None:
    desired = DesiredState()
    for name in names:
        desired.replace(ServiceKey("ns", name), rank(name, AGES[name]), [server(name)])
    for _ in names:
        winner = desired.get(ID)
        assert winner
        by_age = sorted((n for n in AGES if desired.ids_of(ServiceKey("ns", n))), key=lambda n: rank(n, AGES[n]))
        assert winner.service.service == by_age[0]
        changed, *_ = desired.replace(ServiceKey("ns", by_age[0]), rank(by_age[0], AGES[by_age[0]]), [])
        assert changed == {ID}
    assert desired.get(ID) is None and len(desired) == 0


def test_a_service_made_anew_loses_its_seniority() -> None:
    desired = DesiredState()
    desired.replace(ServiceKey("ns", "a"), rank("a", 1), [server("a")])
    desired.replace(ServiceKey("ns", "b"), rank("b", 2), [server("b")])
    changed, affected, _ = desired.replace(ServiceKey("ns", "a"), rank("a", 3), [server("a")])
    assert changed == {ID} and affected == {ServiceKey("ns", "a"), ServiceKey("ns", "b")}
    assert (winner := desired.get(ID)) and winner.service.service == "b"


def test_only_what_differs_is_changed() -> None:
    desired = DesiredState()
    key = ServiceKey("ns", "a")
    assert desired.replace(key, rank("a", 1), [server("a", "10.1.0.1")])[0] == {ID}
    assert desired.replace(key, rank("a", 1), [server("a", "10.1.0.1")])[0] == set()
    assert desired.replace(key, rank("a", 1), [server("a", "10.1.0.2")])[0] == {ID}
    assert desired.replace(key, rank("a", 1), [])[0] == {ID}


def test_whom_an_address_passes_to_and_from() -> None:
    desired = DesiredState()
    old, young = ServiceKey("ns", "a"), ServiceKey("ns", "b")
    assert desired.would_win(young, rank("b", 2), ID)
    assert desired.replace(young, rank("b", 2), [server("b")]).passed == set()
    assert desired.would_win(old, rank("a", 1), ID) and not desired.would_win(old, rank("a", 3), ID)
    assert desired.replace(old, rank("a", 1), [server("a")]).passed == {young}
    assert desired.replace(old, rank("a", 1), [server("a", "10.1.0.2")]).passed == set()
    assert not desired.would_win(young, rank("b", 2), ID)
    assert desired.replace(young, rank("b", 2), [server("b", "10.1.0.2")]).passed == set()
    assert desired.replace(old, rank("a", 1), []).passed == {young}


def test_the_loser_is_told_who_won() -> None:
    desired = DesiredState()
    desired.replace(ServiceKey("ns", "a"), rank("a", 1), [server("a")])
    desired.replace(ServiceKey("ns", "b"), rank("b", 2), [server("b")])
    assert desired.shadowed(ServiceKey("ns", "a")) == []
    (finding,) = desired.shadowed(ServiceKey("ns", "b"))
    assert str(finding) == "Service ns/b: TCP 10.0.0.1:80 belongs to the older Service ns/a"
