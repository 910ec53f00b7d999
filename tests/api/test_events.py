"""The thread that writes Events, against the API server double."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest

from integration.apiserver import ApiServer, Refuse
from integration.apiserver.resources import NEW_EVENTS
from ipvsagent.api import event_writer as events
from ipvsagent.api.credentials import CredentialSource
from ipvsagent.api.event_writer import EventWriter
from ipvsagent.api.transport import ApiTransport
from ipvsagent.findings import Finding, FindingKind

BAD = Finding(FindingKind.INVALID_ANNOTATION, "Service shop/cart", "no such scheduler", "metadata.annotations")
FALLBACK = Finding(FindingKind.FALLBACK, "backend", "the kernel has no IPVS; modprobe ip_vs")
PATH = "/apis/events.k8s.io/v1/namespaces/shop/events"


@pytest.fixture
def server():
    with ApiServer() as made:
        for name in ("cart", "web"):
            made.put(
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": {"name": name, "namespace": "shop", "uid": f"uid-of-{name}"},
                    "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]},
                }
            )
        yield made


class Writing:
    def __init__(self, server, tmp_path) -> None:
        self.server = server
        self.counted: Counter[str] = Counter()
        kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig")
        transport = ApiTransport(CredentialSource(str(kubeconfig)), {}, time.monotonic)
        self.writer = EventWriter(transport, "node-1", lambda outcome, n: self.counted.update({outcome: n}))
        self.writer.set_cluster_size(1)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.writer.run, args=(self.stop,), daemon=True)
        self.thread.start()

    def until(self, outcome: str, count: int = 1) -> None:
        end = time.monotonic() + 10
        while self.counted[outcome] < count:
            assert time.monotonic() < end, self.counted
            time.sleep(0.01)

    def events(self, namespace: str = "shop") -> list[dict]:
        things = [record.decoded() for record in self.server.store.records(NEW_EVENTS)]
        return [each for each in things if each["metadata"]["namespace"] == namespace]

    def end(self) -> None:
        self.stop.set()
        self.writer.found([FALLBACK], [])  # wakes it
        self.thread.join(5)


@pytest.fixture
def writing(server, tmp_path):
    made = Writing(server, tmp_path)
    yield made
    made.end()
    assert not server.breakdowns


def test_an_event_names_the_service_and_what_is_wrong(server, writing):
    writing.writer.found([BAD], [])
    writing.until("created")
    (event,) = writing.events()
    assert event["regarding"]["uid"] == "uid-of-cart", "kubectl describe looks for it"
    assert event["note"] == "metadata.annotations: no such scheduler"
    assert (event["type"], event["reason"]) == ("Warning", "InvalidAnnotation")


def test_the_second_node_finds_that_it_is_said(server, writing, tmp_path):
    writing.writer.found([BAD], [])
    writing.until("created")
    other = Writing(server, tmp_path)
    other.writer.found([BAD], [])
    other.until("known")
    other.end()
    assert len(writing.events()) == 1


def test_what_comes_again_is_counted_in_the_same_event(writing):
    writing.writer.found([BAD], [])
    writing.until("created")
    writing.writer.found([], [BAD])
    writing.writer.found([BAD], [])
    writing.until("repeated")
    (event,) = writing.events()
    assert event["series"]["count"] == 2


def test_start_and_fallback_are_about_the_node(writing):
    writing.writer.starts("ipvsagent serves")
    writing.writer.found([FALLBACK], [])
    writing.until("created", 2)
    start, fallback = sorted(writing.events("default"), key=lambda each: each["type"])
    assert (start["type"], start["reason"], start["note"]) == ("Normal", "Starting", "ipvsagent serves")
    assert fallback["regarding"]["name"] == "node-1" and "modprobe ip_vs" in fallback["note"]


def test_a_service_that_is_gone_gets_no_event(server, writing):
    server.remove("Service", "shop", "cart")
    writing.writer.found([BAD], [])
    writing.until("pointless")
    assert writing.events() == []


def test_who_may_not_write_events_is_told_once_and_tried_again(server, writing, caplog, monkeypatch):
    monkeypatch.setattr(events, "NOT_ALLOWED_PAUSE", 0.05)
    server.faults.add(Refuse(code=403, resource="events", verb="create", times=3))
    writing.writer.found([BAD], [])
    writing.until("created")
    assert writing.counted["failed"] == 3
    (record,) = caplog.records
    assert "403 Forbidden: events is forbidden" in record.message and "allow our user to create" in record.message


def test_a_server_that_does_not_answer_is_asked_again(server, writing, caplog, monkeypatch):
    monkeypatch.setattr(events, "PAUSES", (0.05, 0.1))
    writing.writer._pause = 0.05
    server.stop()
    writing.writer.found([BAD], [])
    writing.until("failed", 2)
    server.start()
    writing.until("created")
    assert not caplog.records, "those who follow the API have said it"


def test_what_the_server_never_takes_is_not_sent_for_ever(server, writing, caplog):
    server.faults.add(Refuse(code=422, resource="events", verb="create", times=None))
    writing.writer.found([BAD], [])
    writing.until("pointless")
    assert "refused for good: 422" in caplog.text


def test_found_does_not_wait_for_a_server_that_hangs(server, writing):
    server.faults.add(Refuse(code=503, resource="events", times=None))
    began = time.monotonic()
    for number in range(2000):
        writing.writer.found([Finding(FindingKind.INVALID_OBJECT, f"Service shop/s{number}", "bad")], [])
    assert time.monotonic() - began < 5 and writing.counted["dropped"] == 1000
