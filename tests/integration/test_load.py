"""The load client reports what became of each request, and the servers who answered."""

import contextlib
import socket
import threading
import time
from collections import Counter

import pytest

from integration.lab import Failure, LabError, Load, Question, Report, Server, Target, ask, send_requests
from integration.lab.load import Conversation, Outcome
from tests.support.lab_topology import TOPOLOGY, servers_of

POD = "10.244.2.1"


@pytest.fixture
def shop(lab, servers):
    servers.add(lab, servers_of(TOPOLOGY))
    return lab


@contextlib.contextmanager
def crooked(lab, behave):
    """A server in node-2 that treats its first client as `behave` does."""
    listener = lab.at(POD).socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((POD, 99))
    listener.listen()

    def serve():
        with contextlib.suppress(OSError):
            client, _ = listener.accept()
            with client:
                behave(client)

    thread = threading.Thread(target=serve)
    thread.start()
    yield Target(POD, 99)
    listener.close()
    thread.join()


def test_answers_are_counted_by_server_and_by_client(shop, servers):
    targets = [Target("10.244.2.1", 8080), Target("10.244.3.1", 8080)]
    report = send_requests(shop.client, targets, 40, concurrency=8)
    assert report.spread == Counter({"pod-2-1": 20, "pod-3-1": 20})
    assert servers.requests[Server("pod-2-1", "10.244.2.1", 8080)] == 20
    assert report.of(targets[0]).spread == Counter({"pod-2-1": 20})
    assert str(report) == "40 of 40 answered"
    assert 0 < report.latency(0.5) <= report.latency(0.99)


def test_large_bodies_arrive_whole(shop):
    report = send_requests(shop.client, Target(POD, 8080, body=300_000, answer_size=500_000), 5)
    assert not report.lost


def test_udp_is_echoed(shop):
    report = send_requests(shop.client, Target("fd00:10:244:2::1", 8080, "UDP", body=100), 5)
    assert report.spread == Counter({"pod-2-1": 5})


def test_nobody_listens(shop):
    assert send_requests(shop.client, Target(POD, 81), 3).failures == Counter({Failure.REFUSED: 3})
    assert send_requests(shop.client, Target(POD, 81, "UDP"), 1).failures == Counter({Failure.REFUSED: 1})


def test_no_route(shop):
    assert send_requests(shop.node, Target("10.96.0.77", 80), 2).failures == Counter({Failure.UNREACHABLE: 2})


def test_silence_is_a_timeout_and_holds_up_nobody_else(shop):
    shop.node.ip(["route add blackhole 198.51.100.1"])
    targets = [Target("198.51.100.1", 80), Target(POD, 8080)]
    began = time.monotonic()
    report = send_requests(shop.at("10.244.1.1"), targets, 20, concurrency=20, timeout=1.0)
    assert report.failures == Counter({Failure.TIMEOUT: 10})
    assert len(report.answered) == 10
    assert time.monotonic() - began < 4
    assert max(outcome.seconds for outcome in report.answered) < 0.9


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"", Failure.CLOSED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\nhalf", Failure.CLOSED),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhtml", Failure.GARBLED),
    ],
)
def test_server_that_does_not_answer_properly(shop, answer, failure):
    def behave(client):
        client.recv(65536)
        client.sendall(answer)

    with crooked(shop, behave) as target:
        assert send_requests(shop.client, target, 1).failures == Counter({failure: 1})


def test_reset(shop):
    def behave(client):
        client.recv(1)  # the rest is unread: closing resets

    with crooked(shop, behave) as target:
        assert send_requests(shop.client, target, 1).failures == Counter({Failure.RESET: 1})


def test_steady_rate_is_kept(shop):
    report = send_requests(shop.client, Target(POD, 8080), 50, rate=100)
    begun = sorted(outcome.begun for outcome in report.outcomes)
    assert 0.45 < begun[-1] - begun[0] < 2.0
    assert not report.lost


def test_background_load_tells_what_happened_until_it_is_stopped(shop):
    seen = []
    load = Load(shop.client, Target(POD, 8080), rate=200, seen=seen.append)
    while len(load.so_far().outcomes) < 20:
        time.sleep(0.005)
    moment = time.monotonic()
    while len(load.so_far().since(moment).outcomes) < 5:
        time.sleep(0.005)
    report = load.stop()
    assert list(report.outcomes) == seen
    assert not report.lost
    assert len(report.since(moment).outcomes) < len(report.outcomes)


def test_load_that_cannot_go_on_is_no_good_result(lab):
    def fail(outcome):
        raise ValueError("tests break")

    load = Load(lab.client, Target(POD, 8080), rate=100, timeout=0.2, seen=fail)
    while not load.so_far().outcomes:
        time.sleep(0.005)
    with pytest.raises(LabError, match="tests break"):
        load.stop()


def test_targets_are_needed(lab):
    with pytest.raises(LabError, match="no target"):
        send_requests(lab.client, [], 1)


def test_conversation_stays_on_one_connection(shop, servers):
    conversation = Conversation(shop.client, Target(POD, 8080))
    assert [conversation.ask().server for _ in range(5)] == ["pod-2-1"] * 5
    conversation.close()
    assert conversation.ask().failure is not None
    assert sum(servers.requests.values()) == 5


def test_report_adds_up():
    target = Target("10.0.0.1", 80)
    good = Report((Outcome(target, 1.0, 0.1, "a", "c"),))
    bad = Report((Outcome(target, 2.0, 0.1, failure=Failure.RESET), Outcome(target, 3.0, 0.1, failure=Failure.REFUSED)))
    both = good + bad
    assert str(both) == "1 of 3 answered (1 refused, 1 reset)"
    assert both.spread == Counter({"a": 1})
    assert both.since(2.0).outcomes == bad.outcomes
    assert Report(()).latency(0.99) == 0.0
    assert str(Target("fd00::1", 53, "UDP")) == "UDP [fd00::1]:53"


def test_questions_come_from_many_places_and_are_answered_in_order(shop, servers):
    servers.add(shop, [Server("any", "0.0.0.0", 99)], at=shop.node)
    asked = [
        Question(shop.client, Target(POD, 8080)),
        Question(shop.at(POD), Target("10.244.3.1", 8080, "UDP"), "10.244.2.2"),
        Question(shop.pods["pod-1-1"], Target("fd00:10:244:2::1", 8080)),
        Question(shop.client, Target(POD, 9)),
        Question(shop.client, Target("192.168.56.11", 99)),
        Question(shop.client, Target(POD, 0, "PING")),
        Question(shop.client, Target("fd00:10:244:2::1", 0, "PING")),
        Question(shop.client, Target("10.244.2.77", 0, "PING")),
    ]
    outcomes = ask(asked, concurrency=3, timeout=1.0)
    assert [outcome.target for outcome in outcomes] == [question.target for question in asked]
    assert [outcome.server for outcome in outcomes] == ["pod-2-1", "pod-3-1", "pod-2-1", "", "any", "", "", ""]
    assert [outcome.client for outcome in outcomes[:3]] == ["203.0.113.50", "10.244.2.2", "fd00:10:244:1::1"]
    assert [outcome.failure for outcome in outcomes[3:7]] == [Failure.REFUSED, None, None, None]
    assert outcomes[7].failure is not None
