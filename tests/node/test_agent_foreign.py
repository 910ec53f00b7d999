"""Virtual servers of other programs, keepalived's for example, made with the real ipvsadm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.lab import LabError
from ipvsagent.cli import group
from ipvsagent.config import parse_network
from ipvsagent.findings import FindingKind
from tests.support.cluster_documents import HTTP, endpoint_slice, service
from tests.support.proxied_node import A, B, C, D, ProxiedNode, Proxy, settled

pytestmark = pytest.mark.kernel

THEIRS = "10.96.200.1"
LINES = {
    f"-A -t {THEIRS}:80 -s wlc",
    f"-a -t {THEIRS}:80 -r {C}:8080 -m -w 3",
    f"-a -t {THEIRS}:80 -r {D}:8080 -m -w 3",
    f"-A -u {THEIRS}:53 -s rr -p 300",
    "-A -t 198.18.0.7:443 -s sh -b sh-fallback",
    "-a -t 198.18.0.7:443 -r 198.18.0.8:443 -g -w 1",
    "-A -f 77 -s wrr",
    f"-a -f 77 -r {A}:0 -m -w 4",
}


@pytest.fixture
def theirs(place) -> Iterator[set[str]]:
    """What the other program made. It has its address on an interface of its own."""
    place.node.run("ip", "address", "replace", f"{THEIRS}/32", "dev", "lo")
    add(place, LINES)
    yield LINES
    place.node.run("ipvsadm", "-C")


@pytest.fixture
def proxy(place, tmp_path) -> Iterator[Proxy]:
    made = Proxy(place.node, tmp_path)
    yield made
    made.end()


def add(place: ProxiedNode, lines: set[str]) -> None:
    place.node.run("ipvsadm", "-R", stdin="".join(f"{line}\n" for line in sorted(lines)))


def cleanup(place: ProxiedNode, proxy: Proxy) -> None:
    with place.node.entered():
        group.main(["cleanup", "--yes", "--state-dir", str(proxy.config.state_dir)], standalone_mode=False)


def shadowed(proxy: Proxy) -> list[str]:
    return [f.subject for f in proxy.findings if f.kind is FindingKind.SHADOWED_BY_FOREIGN]


def test_others_are_never_touched(place, theirs, proxy):
    address = place.free_address()
    with place.held(THEIRS, 2) as conversations:
        servers = [each.ask().server for each in conversations]
        assert sorted(servers) == ["C", "D"]

        def all_is_well() -> bool:
            return theirs <= place.saved() and [each.ask().server for each in conversations] == servers

        objects = service("web", address), endpoint_slice("web", [A, B])
        assert proxy.wants(*objects) > 0
        assert all_is_well(), "start"
        proxy.wants(service("web", address, affinity=60), endpoint_slice("web", [A]))
        settled(proxy)
        assert all_is_well(), "change"
        for _ in range(3):
            proxy.after(1.0)
        assert all_is_well(), "audit"
        again = proxy.restarted()
        again.wants(*objects)
        assert all_is_well(), "restart"
        again.wants()
        assert place.saved() == theirs and all_is_well(), "everything of ours removed"
        again.wants(*objects)
        assert len(place.saved()) == len(theirs) + 3
        again.close()
        cleanup(place, again)
        assert place.saved() == theirs and all_is_well(), "cleanup"
        with pytest.raises(LabError, match="does not exist"):
            place.node.run("ip", "link", "show", "kube-ipvs0")


def test_a_claim_is_shadowed_and_taken_over_when_it_is_free(place, theirs, proxy):
    address = place.free_address()
    taken = {f"-A -t {address}:80 -s wlc", f"-a -t {address}:80 -r {D}:8080 -m -w 5"}
    add(place, taken)
    objects = service("web", address), endpoint_slice("web", [A, B])
    proxy.wants(*objects)
    assert shadowed(proxy) == ["Service shop/web:http"]
    for _ in range(3):
        assert proxy.after(1.0) == 0
    proxy.wants(service("web", address, affinity=60), endpoint_slice("web", [A, C]))
    again = proxy.restarted()
    again.wants(*objects)
    assert shadowed(again) == ["Service shop/web:http"]
    assert again.after(1.0) == 0
    assert place.saved() == theirs | taken
    place.node.run("ipvsadm", "-D", "-t", f"{address}:80")
    again.after(1.0)
    assert shadowed(again) == []
    assert place.weights(address) == {"A": 1, "B": 1}
    assert sorted(place.answers(address, 2)) == ["A", "B"]
    assert theirs <= place.saved()
    again.end()


def test_a_claim_that_is_given_up_leaves_theirs(place, proxy):
    address = place.free_address()
    taken = {f"-A -t {address}:80 -s wlc", f"-a -t {address}:80 -r {D}:8080 -m -w 5"}
    add(place, taken)
    proxy.wants(service("web", address), endpoint_slice("web", [A]))
    assert shadowed(proxy)
    proxy.wants()
    assert not shadowed(proxy)
    proxy.after(1.0)
    assert place.saved() == taken
    place.node.run("ipvsadm", "-C")


def test_theirs_appears_after_the_claim_was_made(place, proxy):
    """Between our reading and our writing: there is no change that makes theirs ours."""
    address = place.free_address()
    proxy.wants()
    taken = {f"-A -t {address}:80 -s wlc", f"-a -t {address}:80 -r {D}:8080 -m -w 5"}
    add(place, taken)
    proxy.wants(service("web", address), endpoint_slice("web", [A]))
    for _ in range(3):
        proxy.after(1.0)
    assert place.saved() == taken
    assert shadowed(proxy)
    place.node.run("ipvsadm", "-C")


def test_excluded_addresses(place, tmp_path):
    """On an address that is bound by us theirs would pass for ours; --exclude-cidrs is there for it."""
    address = place.free_address()
    proxy = Proxy(place.node, tmp_path, excluded=(parse_network(f"{address}/32"),))
    ours = service("web", address, {"more": ("TCP", 81, 8080)}), endpoint_slice("web", [A], {"more": HTTP["http"]})
    proxy.wants(*ours)
    taken = {f"-A -t {address}:80 -s wlc", f"-a -t {address}:80 -r {D}:8080 -m -w 5"}
    add(place, taken)
    for _ in range(3):
        proxy.after(1.0)
    again = proxy.restarted()
    assert again.wants(*ours) == 0
    again.after(1.0)
    assert taken <= place.saved()
    assert place.answers(address, 1, port=81) == "A"
    again.wants()
    assert place.saved() == taken
    place.node.run("ipvsadm", "-C")
    again.end()
