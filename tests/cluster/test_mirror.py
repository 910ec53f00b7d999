"""What an API server was last heard to hold: only differences come out, and no mishap takes anything away."""

from __future__ import annotations

import json

import pytest

from ipvsagent.cluster.decode import decode_json
from ipvsagent.cluster.manifest_set import Update
from ipvsagent.cluster.mirror import Mirror
from ipvsagent.cluster.objects import BlindSpots, Changes, ObjectKey, ServiceKey
from tests.support.api_documents import endpoint_slice, node, service


def decoded(kind, document):
    return decode_json(kind, json.dumps(document).encode())


def services(*names, **spec):
    return [decoded("Service", service(name, **spec)) for name in names]


def slices(*names, of="web"):
    return [decoded("EndpointSlice", endpoint_slice(name, of=of)) for name in names]


def broken(kind, document, field):
    return decoded(kind, {**document, field: 3})


def said(update):
    """(names put, names removed)."""
    return [i.key.name for i in update.changes.upserts], [k.name for k in update.changes.removals]


def key(kind, name):
    return ObjectKey(kind, "shop", name)


def texts(update):
    return [str(finding) for found in update.findings.values() for finding in found]


def test_a_new_list_says_only_what_differs():
    mirror = Mirror()
    mirror.replace("Service", services("a", "b", "c"))
    update = mirror.take()
    assert said(update) == (["a", "b", "c"], []) and update.changes.blind == BlindSpots()
    mirror.replace("Service", [*services("a"), *services("b", ports=[{"port": 81}]), *services("d")])
    update = mirror.take()
    assert said(update) == (["b", "d"], ["c"]) and update.changes.blind is None and not update.findings
    mirror.replace("Service", [*services("a"), *services("b", ports=[{"port": 81}]), *services("d")])
    assert mirror.take().is_empty


def test_kinds_are_lists_of_their_own():
    mirror = Mirror()
    mirror.replace("Service", services("a"))
    mirror.replace("Node", [decoded("Node", node("n"))])
    mirror.replace("EndpointSlice", slices("a-1"))
    assert said(mirror.take()) == (["a", "n", "a-1"], [])
    mirror.replace("Node", [])
    mirror.replace("Service", services("b"))
    assert said(mirror.take()) == (["b"], ["a"]), "what is wrong with one kind does not hold another"


def test_a_heartbeat_is_no_change():
    mirror = Mirror()
    beating = node("n")
    mirror.put(decoded("Node", {**beating, "status": {"conditions": [{"lastHeartbeatTime": "1"}]}}))
    mirror.take()
    assert not mirror.put(decoded("Node", {**beating, "status": {"conditions": [{"lastHeartbeatTime": "2"}]}}))
    assert mirror.take().is_empty


def test_gone_and_back_between_two_looks_is_nothing():
    mirror = Mirror()
    mirror.replace("Service", services("a", "b"))
    mirror.take()
    mirror.delete(key("Service", "a"))
    mirror.put(services("a")[0])
    assert mirror.take().is_empty
    mirror.put(services("c")[0])
    mirror.delete(key("Service", "c"))
    assert said(mirror.take())[0] == []


def test_a_broken_object_stays_at_its_last_accepted_version():
    mirror = Mirror()
    mirror.replace("Service", services("a", "b"))
    mirror.take()
    mirror.put(broken("Service", service("a"), "spec"))
    update = mirror.take()
    assert said(update) == ([], []) and update.changes.blind is None
    assert texts(update) == [
        "Service shop/a spec: must be a mapping, not a whole number; its last accepted version stays in use"
    ]
    mirror.put(services("a")[0])
    assert mirror.take().findings == {"Service shop/a": ()}
    mirror.put(broken("Service", service("a"), "spec"))
    mirror.delete(key("Service", "a"))
    update = mirror.take()
    assert said(update) == ([], ["a"]) and not texts(update)


def test_an_unknown_broken_object_is_what_the_agent_is_blind_to():
    mirror = Mirror()
    mirror.replace("Service", [*services("a"), broken("Service", service("b"), "spec")])
    mirror.replace(
        "EndpointSlice", [*slices("a-1"), broken("EndpointSlice", endpoint_slice("b-1", of="b"), "endpoints")]
    )
    assert mirror.take().changes.blind == BlindSpots(services=True, endpoints=frozenset({ServiceKey("shop", "b")}))
    mirror.put(services("b")[0])
    assert mirror.take().changes.blind == BlindSpots(endpoints=frozenset({ServiceKey("shop", "b")}))
    mirror.delete(key("EndpointSlice", "b-1"))
    assert mirror.take().changes.blind == BlindSpots()


def test_endpoints_that_moved_into_a_broken_slice_are_not_lost():
    mirror = Mirror()
    mirror.replace("EndpointSlice", [*slices("web-1"), *slices("other-1", of="other")])
    mirror.take()
    mirror.put(broken("EndpointSlice", endpoint_slice("web-2"), "endpoints"))
    mirror.delete(key("EndpointSlice", "web-1"))
    mirror.delete(key("EndpointSlice", "other-1"))
    update = mirror.take()
    assert said(update) == ([], ["other-1"])
    assert any("EndpointSlice shop/web-1: is gone, but kept" in text for text in texts(update))
    assert mirror.take().is_empty
    mirror.put(slices("web-2")[0])
    update = mirror.take()
    assert said(update) == (["web-2"], ["web-1"]) and update.findings["held"] == ()


def test_a_held_object_that_comes_back_is_no_longer_held():
    mirror = Mirror()
    mirror.replace("EndpointSlice", slices("web-1"))
    mirror.put(broken("EndpointSlice", endpoint_slice("web-2"), "endpoints"))
    mirror.delete(key("EndpointSlice", "web-1"))
    mirror.take()
    mirror.put(slices("web-1")[0])
    mirror.delete(key("EndpointSlice", "web-2"))
    update = mirror.take()
    assert said(update) == ([], []) and update.changes.blind == BlindSpots()


def test_an_empty_list_is_a_mistake():
    mirror = Mirror()
    mirror.replace("Service", services("a", "b"))
    mirror.replace("EndpointSlice", slices("a-1"))
    mirror.take()
    mirror.replace("Service", [])
    update = mirror.take()
    assert said(update) == ([], []) and update.changes.blind == BlindSpots(anything=True)
    assert "the API server: it lists no Service, but every cluster has some" in texts(update)[0]
    mirror.replace("Service", services("b"))
    update = mirror.take()
    assert said(update) == ([], ["a"]) and update.changes.blind == BlindSpots() and not texts(update)


@pytest.mark.parametrize("event", ["accepted", "rejected"])
def test_an_event_does_not_say_that_an_empty_list_was_right(event):
    mirror = Mirror()
    mirror.replace("Service", services("a", "b"))
    mirror.take()
    mirror.replace("Service", [])
    mirror.take()
    mirror.put(services("c")[0] if event == "accepted" else broken("Service", service("c"), "spec"))
    update = mirror.take()
    assert said(update) == (["c"] if event == "accepted" else [], [])
    assert not texts(update) or "lists no Service" not in texts(update)[0], "that was said, and is still true"
    mirror.replace("Service", [])
    assert said(mirror.take()) == ([], []), "a list that stays empty stays suspect"
    mirror.replace("Service", services("a", "c"))
    update = mirror.take()
    assert said(update)[1] == ["b"] and update.findings["empty Service"] == ()


def test_nodes_that_were_known_are_not_lost_to_an_empty_list():
    mirror = Mirror()
    mirror.replace("Node", [])
    assert mirror.take() == Update(Changes(blind=BlindSpots()), {}), "a first list may be empty"
    mirror.put(decoded("Node", node("n")))
    mirror.put(decoded("Node", node("m")))
    mirror.take()
    for _ in range(2):
        mirror.replace("Node", [])
        update = mirror.take()
        assert said(update) == ([], []) and update.changes.blind is None
    mirror.replace("Node", [])
    assert mirror.take().is_empty
    mirror.replace("Node", [decoded("Node", node("m"))])
    assert said(mirror.take()) == ([], ["n"])
    mirror.delete(ObjectKey("Node", "", "m"))
    mirror.replace("Node", [])
    assert said(mirror.take()) == ([], ["m"]), "each was deleted by name"


def test_what_is_to_be_done_about_an_empty_list_is_said():
    mirror = Mirror()
    mirror.replace("Node", [decoded("Node", node("n"))])
    mirror.take()
    mirror.replace("Node", [])
    (text,) = texts(mirror.take())
    assert "it lists no Node, but every cluster has some" in text and "--allow-empty" in text


def test_an_empty_list_is_believed_if_told_to():
    mirror = Mirror(allow_empty=True)
    mirror.replace("Service", services("a"))
    mirror.take()
    mirror.replace("Service", [])
    assert said(mirror.take()) == ([], ["a"])


def test_the_last_object_may_be_deleted_by_name():
    mirror = Mirror()
    mirror.replace("Service", services("a"))
    mirror.delete(key("Service", "a"))
    assert said(mirror.take())[1] == ["a"]


def test_a_list_with_a_nameless_object_removes_nothing():
    mirror = Mirror()
    mirror.replace("Service", services("a", "b"))
    mirror.take()
    nameless = {"metadata": {}, "spec": {"clusterIP": "10.0.0.1"}}
    mirror.replace("Service", [*services("a"), decoded("Service", nameless)])
    update = mirror.take()
    assert said(update) == ([], []) and update.changes.blind == BlindSpots(anything=True)
    (text,) = [text for text in texts(update) if "without a usable name" in text]
    assert text.endswith("until this is fixed, no Service that vanishes is removed: it may be this one")
    mirror.replace("Service", services("a"))
    assert said(mirror.take()) == ([], ["b"])


def test_an_ignored_object_is_not_there():
    mirror = Mirror()
    mirror.replace("EndpointSlice", slices("a-1", "a-2"))
    mirror.take()
    mirror.put(decoded("EndpointSlice", {**endpoint_slice("a-1"), "addressType": "FQDN"}))
    assert said(mirror.take()) == ([], ["a-1"])


def test_a_part_that_is_left_out_is_named_until_it_is_mended():
    mirror = Mirror()
    mirror.put(services("a", externalIPs=["nonsense"])[0])
    assert len(texts(mirror.take())) == 1
    mirror.put(services("a")[0])
    assert mirror.take().findings == {"Service shop/a": ()}
