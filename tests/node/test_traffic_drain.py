"""Connections whose endpoint is taken out of service: they go on, new ones go elsewhere, and it ends in time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from integration.lab.load import Conversation, Failure
from tests.support.cluster_documents import DNS, endpoint, endpoint_slice, service
from tests.support.proxied_node import ADDRESS, A, B, C, ProxiedNode, Proxy, eventually, settled

pytestmark = pytest.mark.kernel

# dh is not among these: see test_dh_without_draining.
SCHEDULERS = ["rr", "wrr", "lc", "wlc", "sh", "mh", "sed", "nq", "lblc", "lblcr"]
CUT = {Failure.RESET, Failure.CLOSED}
TIMEOUT = 60.0


@pytest.fixture
def proxy(place, tmp_path) -> Iterator[Proxy]:
    made = Proxy(place.node, tmp_path, drain_timeout=TIMEOUT)
    yield made
    made.end()


class Web:
    """A Service with the endpoints A, B and C, one of which, `victim`, has an open connection."""

    def __init__(self, place: ProxiedNode, proxy: Proxy, conversation: Conversation, service_document) -> None:
        self.place = place
        self.proxy = proxy
        self.conversation = conversation
        self.address = conversation.target.address
        self.victim = conversation.ask().server
        self._service = service_document

    def victim_is(self, state: str) -> int:
        """terminating, unready, ready, or gone from its slice. How many rows were written."""
        endpoints = [endpoint(a) for a in (A, B, C) if a != ADDRESS[self.victim]]
        if state != "gone":
            endpoints.append(endpoint(ADDRESS[self.victim], state))
        return self.proxy.wants(self._service, endpoint_slice("web", endpoints))

    @property
    def weight(self) -> int | None:
        """The victim's in the kernel, None if it is not there."""
        return self.place.weights(self.address).get(self.victim)

    def goes_on(self) -> bool:
        outcome = self.conversation.ask()
        return outcome.failure is None and outcome.server == self.victim

    def is_cut(self) -> bool:
        """At once, and not by a time-out."""
        outcome = self.conversation.ask()
        return outcome.failure in CUT and outcome.seconds < 1.0

    def new_ones_go_elsewhere(self, count: int = 12) -> bool:
        return self.victim not in self.place.answers(self.address, count)


@contextmanager
def open_connection(place: ProxiedNode, proxy: Proxy, scheduler: str = "rr", affinity: int = 0, **annotations: str):
    address = place.free_address()
    document = service("web", address, annotations={"scheduler": scheduler, **annotations}, affinity=affinity)
    proxy.wants(document, endpoint_slice("web", [A, B, C]))
    with place.held(address) as (conversation,):
        yield Web(place, proxy, conversation, document)


AFFINITY = pytest.mark.parametrize("affinity", [0, 600], ids=["", "affinity"])


@AFFINITY
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_terminating_then_gone(place, proxy, scheduler, affinity):
    with open_connection(place, proxy, scheduler, affinity) as web:
        assert web.victim_is("terminating") == 1
        assert web.weight == 0
        assert web.goes_on()
        assert web.new_ones_go_elsewhere()
        assert proxy.after(10 * TIMEOUT) == 0, "as long as it is listed"
        assert web.goes_on()
        web.victim_is("gone")
        assert web.goes_on(), "it may be on its way to another slice"
        settled(proxy)
        assert web.weight is None
        assert web.is_cut()
        assert web.new_ones_go_elsewhere()


@AFFINITY
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_moved_then_wanted_again(place, proxy, scheduler, affinity):
    with open_connection(place, proxy, scheduler, affinity) as web:
        assert web.victim_is("gone") == 0
        settled(proxy)
        assert web.weight == 0
        assert web.goes_on()
        assert web.new_ones_go_elsewhere()
        assert web.victim_is("ready") == 1
        assert web.weight == 1
        assert web.goes_on()
        assert proxy.after(2 * TIMEOUT) == 0, "the drain is forgotten"
        assert web.goes_on()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_moved_until_the_drain_timeout(place, proxy, scheduler):
    with open_connection(place, proxy, scheduler) as web:
        web.victim_is("gone")
        settled(proxy)
        assert proxy.after(TIMEOUT - 2) == 0
        assert web.weight == 0 and web.goes_on()
        assert proxy.after(2) == 1
        assert web.weight is None
        assert web.is_cut()
        assert web.new_ones_go_elsewhere()


@pytest.mark.parametrize(("timeout", "seconds"), [("10s", 10), ("2m", 120)])
def test_drain_timeout_of_the_service(place, proxy, timeout, seconds):
    with open_connection(place, proxy, **{"drain-timeout": timeout}) as web:
        web.victim_is("gone")
        settled(proxy)
        assert proxy.after(seconds - 1) == 0
        assert web.goes_on()
        proxy.after(1)
        assert web.is_cut()


@pytest.mark.parametrize("state", ["gone", "terminating"])
def test_no_drain_at_all(place, proxy, state):
    with open_connection(place, proxy, **{"drain-timeout": "0"}) as web:
        web.victim_is(state)
        settled(proxy)
        assert web.weight is None
        assert web.is_cut()


def test_moved_until_idle(place, tmp_path):
    """What counts is the kernel's own count: here it forgets a silent connection after two seconds."""
    proxy = Proxy(place.node, tmp_path, drain_timeout=TIMEOUT, tcp_timeout=2)
    try:
        with open_connection(place, proxy) as web:
            web.victim_is("gone")
            settled(proxy)
            assert proxy.after(1) == 0
            assert web.weight == 0 and web.goes_on()
            eventually(lambda: sum(_connections(web)) == 0)
            assert proxy.after(1) == 1
            assert web.weight is None
    finally:
        proxy.end()


def _connections(web: Web) -> tuple[int, int]:
    real = web.place.real_servers(web.address)[web.victim]
    return real.active, real.inactive


def test_idle_from_the_beginning(place, proxy):
    """Nobody waits for connections that are not there."""
    address = place.free_address()
    web = service("web", address)
    proxy.wants(web, endpoint_slice("web", [A, B, C]))
    proxy.wants(web, endpoint_slice("web", [A, B, endpoint(C, "terminating")]))
    proxy.after(1.0)
    assert place.weights(address) == {"A": 1, "B": 1}
    proxy.wants(web, endpoint_slice("web", [A]))
    settled(proxy)
    proxy.after(1.0)
    assert place.weights(address) == {"A": 1}


def test_moves_between_slices_are_not_seen(place, proxy):
    """In neither slice for a moment: no write at all, and nothing is cut."""
    address = place.free_address()
    web = service("web", address)
    proxy.wants(web, endpoint_slice("web", [A, B, C]), endpoint_slice("web", [], name="other"))
    with place.held(address, 3) as conversations:
        servers = [each.ask().server for each in conversations]
        assert proxy.wants(web, endpoint_slice("web", [A, B])) == 0
        assert proxy.wants(web, endpoint_slice("web", [A, B]), endpoint_slice("web", [C], name="other")) == 0
        assert proxy.after(1.0) == 0
        assert [each.ask().server for each in conversations] == servers


def test_last_endpoint_goes_on_serving_while_it_terminates(place, proxy):
    """Nothing better is there: it gets new connections, too."""
    address = place.free_address()
    web = service("web", address)
    proxy.wants(web, endpoint_slice("web", [A]))
    with place.held(address) as (conversation,):
        assert proxy.wants(web, endpoint_slice("web", [endpoint(A, "terminating")])) == 0
        assert place.spread(address, 5) == {"A": 5}
        proxy.wants(web, endpoint_slice("web", [endpoint(A, "terminating"), endpoint(B)]))
        assert place.weights(address) == {"A": 0, "B": 1}
        assert place.spread(address, 5) == {"B": 5}
        assert conversation.ask().server == "A"


@pytest.mark.parametrize("state", ["terminating", "gone"])
def test_a_restart_in_the_middle_of_a_drain(place, proxy, state):
    with open_connection(place, proxy) as web:
        web.victim_is(state)
        settled(proxy)
        proxy.after(TIMEOUT / 2)
        web.proxy = again = proxy.restarted()
        assert web.victim_is(state) == 0, "the drain is taken over as it is"
        assert web.weight == 0 and web.goes_on()
        assert web.new_ones_go_elsewhere()
        assert web.victim_is("ready") == 1
        assert web.goes_on()
        again.end()


def test_a_restart_that_missed_the_removal(place, proxy):
    """Found at its old weight and not wanted: it is drained."""
    with open_connection(place, proxy) as web:
        web.proxy = again = proxy.restarted()
        assert web.victim_is("gone") == 1
        assert web.weight == 0 and web.goes_on()
        again.after(TIMEOUT + 1)
        assert web.is_cut()
        again.end()


def test_dh_without_draining(place, proxy):
    """All connections of a virtual server go to one real server, and dh looks for no other while that one is at weight
    0. Where it is deleted instead, the next takes its place."""
    with open_connection(place, proxy, "dh", **{"drain-timeout": "0"}) as web:
        assert set(place.answers(web.address, 6)) == {web.victim}
        web.victim_is("terminating")
        assert web.is_cut()
        assert web.new_ones_go_elsewhere()


# UDP


@pytest.fixture
def dns(place, proxy):
    address = place.free_address()
    return service("dns", address, DNS), address


@pytest.mark.parametrize("state", ["terminating", "unready", "gone"])
def test_udp_moves_with_one_of_the_next_packets(place, proxy, dns, state):
    """A real server at weight 0 would keep the flow for ever: it is deleted, and the kernel does the rest."""
    document, address = dns
    proxy.wants(document, endpoint_slice("dns", [A, B, C], DNS))
    with place.udp(address) as client:
        victim = client.ask()
        assert all(client.ask() == victim for _ in range(5)), "one flow, one server"
        rest = [endpoint(a) for a in (A, B, C) if a != ADDRESS[victim]]
        if state != "gone":
            rest.append(endpoint(ADDRESS[victim], state))
        proxy.wants(document, endpoint_slice("dns", rest, DNS))
        settled(proxy)
        assert victim not in place.weights(address, 53, "UDP")
        server, packets = client.ask_until_answered()
        assert server != victim
        assert packets <= 5, "one of the next packets"
        assert client.ask() == server


def test_udp_without_endpoints_for_a_while(place, proxy, dns):
    document, address = dns
    proxy.wants(document, endpoint_slice("dns", [A], DNS))
    with place.udp(address) as client:
        assert client.ask() == "A"
        proxy.wants(document, endpoint_slice("dns", [], DNS))
        settled(proxy)
        assert client.ask() == "" and client.ask() == ""
        proxy.wants(document, endpoint_slice("dns", [B], DNS))
        assert client.ask_until_answered()[0] == "B"


def test_udp_by_affinity(place, proxy):
    address = place.free_address()
    document = service("dns", address, DNS, affinity=600)
    proxy.wants(document, endpoint_slice("dns", [A, B, C], DNS))
    with place.udp(address) as one, place.udp(address) as other:
        victim = one.ask()
        assert other.ask() == victim
        proxy.wants(document, endpoint_slice("dns", [a for a in (A, B, C) if a != ADDRESS[victim]], DNS))
        settled(proxy)
        server, _ = one.ask_until_answered()
        assert server != victim
        assert other.ask_until_answered()[0] == server


def test_one_packet_scheduling_balances_every_packet(place, proxy):
    """Of one flow. Answers are another matter: the kernel keeps no connection that could translate them back."""
    address = place.free_address()
    document = service("dns", address, DNS, annotations={"scheduler-flags": "ops"})
    proxy.wants(document, endpoint_slice("dns", [A, B, C], DNS))
    before = Counter(place.servers.requests)
    with place.udp(address) as client:
        for _ in range(9):
            client.ask(patience=0.01)
    served = eventually(lambda: (now := Counter(place.servers.requests) - before).total() == 9 and now)
    assert {(server.name, server.protocol): count for server, count in served.items()} == {
        ("A", "UDP"): 3,
        ("B", "UDP"): 3,
        ("C", "UDP"): 3,
    }
