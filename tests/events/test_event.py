"""Which finding is an Event, about what, and what it says."""

from __future__ import annotations

import pytest

from ipvsagent.events.event import NOTE_LIMIT, Regarding, document_of, event_of, start_of, topic_of
from ipvsagent.findings import Finding, FindingKind, Severity

HERE = "node-1"
CART = Regarding("Service", "shop", "cart")
OWN = Regarding("Node", "", HERE)


def finding(kind: FindingKind, subject: str, reason: str = "is wrong", field: str = "", **more) -> Finding:
    return Finding(kind, subject, reason, field, **more)


def said(*findings: Finding, node: str = HERE, start: str = "s"):
    topic = topic_of(findings[0], node)
    assert topic
    return event_of(topic, findings, node, start)


@pytest.mark.parametrize(
    ("subject", "regarding"),
    [
        ("Service shop/cart", CART),
        ("EndpointSlice shop/cart-x7f", Regarding("EndpointSlice", "shop", "cart-x7f")),
        ("Node node-2", Regarding("Node", "", "node-2")),
        ("Node node-1", OWN),
    ],
)
def test_the_object_that_a_finding_names_gets_the_event(subject, regarding):
    topic = topic_of(finding(FindingKind.INVALID_ANNOTATION, subject), HERE)
    assert topic and topic.regarding == regarding and topic.reason == "InvalidAnnotation"


@pytest.mark.parametrize(
    "finding",
    [
        finding(FindingKind.HOST, "sysctls"),
        finding(FindingKind.INVALID_OBJECT, "Service shop/"),
        finding(FindingKind.INVALID_OBJECT, "Service ../nodes/x"),
        finding(FindingKind.INVALID_OBJECT, "Service a/b\n"),
        finding(FindingKind.REMOVAL_HELD, "Service shop/cart"),
        finding(FindingKind.API_UNREACHABLE, "API server", severity=Severity.ERROR),
        finding(FindingKind.INVALID_OBJECT, "Service shop/cart", file="a.yaml"),
    ],
)
def test_no_event_where_nobody_would_look_for_it(finding):
    assert topic_of(finding, HERE) is None


def test_the_fallback_and_errors_of_the_host_are_about_this_node():
    fallback = said(finding(FindingKind.FALLBACK, "backend", "no IPVS; modprobe ip_vs"))
    assert fallback.topic.regarding == OWN and not fallback.topic.shared
    assert fallback.note == "backend: no IPVS; modprobe ip_vs"
    host = said(finding(FindingKind.HOST, "kernel", severity=Severity.ERROR))
    assert (host.topic.regarding, host.topic.reason) == (OWN, "NodeProblem")


def test_a_health_check_port_that_is_taken_has_kube_proxys_reason():
    event = said(finding(FindingKind.HOST, "Service shop/cart", field="spec.healthCheckNodePort"))
    assert event.topic.regarding == CART and event.topic.reason == "FailedToStartServiceHealthcheck"


def test_all_nodes_give_one_name_to_what_they_all_say():
    here = said(finding(FindingKind.INVALID_ANNOTATION, "Service shop/cart"), start="a")
    there = said(finding(FindingKind.INVALID_ANNOTATION, "Service shop/cart"), node="node-2", start="b")
    assert here.name == there.name and here.note == there.note
    other = said(finding(FindingKind.INVALID_ANNOTATION, "Service shop/cart", "is wrong otherwise"))
    assert other.name != here.name, "an Event never says something else"


def test_what_each_node_says_in_its_own_words_has_one_name_too():
    here = said(finding(FindingKind.KERNEL_REFUSED, "Service shop/cart", "EPERM"))
    there = said(finding(FindingKind.KERNEL_REFUSED, "Service shop/cart", "EINVAL"), node="node-2")
    assert here.name == there.name
    assert (here.note, there.note) == ("on node node-1: EPERM", "on node node-2: EINVAL")


def test_each_start_tells_anew_of_its_own_node():
    fallback = finding(FindingKind.FALLBACK, "backend")
    assert said(fallback, start="a").name != said(fallback, start="b").name == said(fallback, start="b").name
    assert start_of(HERE, "text", "a").name != start_of(HERE, "text", "b").name


def test_many_findings_of_a_kind_are_one_event():
    many = [finding(FindingKind.ENDPOINT_REFUSED, "Service shop/cart", f"endpoint {i}") for i in range(3, 0, -1)]
    event = said(*many)
    assert event.note.startswith("on node node-1: endpoint 1 (and 2 more like it: see `ipvsagent status`")


@pytest.mark.parametrize("character", ["x", "\u00e4", "\U0001f600", "\udcff"])
def test_a_note_is_cut_at_what_the_api_takes(character):
    event = said(finding(FindingKind.INVALID_OBJECT, "Service shop/cart", character * 2000))
    assert NOTE_LIMIT - 6 <= len(event.note.encode()) <= NOTE_LIMIT and event.note.endswith("...")


def test_names_of_events_are_no_longer_than_the_api_takes():
    event = said(finding(FindingKind.INVALID_OBJECT, f"Service shop/{'a' * 253}"))
    assert len(event.name) <= 253


def test_the_document_names_object_and_reporter():
    event = said(finding(FindingKind.INVALID_ANNOTATION, "Service shop/cart", "no", "metadata.annotations"))
    document = document_of(event, "some-uid", HERE, "2030-01-31T12:00:00.000000Z")
    assert document["regarding"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "shop",
        "name": "cart",
        "uid": "some-uid",
    }
    assert document["metadata"]["namespace"] == "shop" and document["note"] == "metadata.annotations: no"
    assert (document["reportingController"], document["reportingInstance"]) == ("ipvsagent.io/ipvsagent", HERE)
    node = document_of(said(finding(FindingKind.FALLBACK, "backend")), "", HERE, "2030-01-31T12:00:00.000000Z")
    assert node["metadata"]["namespace"] == "default"
    assert node["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": HERE, "uid": HERE}
