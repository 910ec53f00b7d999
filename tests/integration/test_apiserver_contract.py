"""What clients may expect of an API server. Held by the double, and by a real one where a kubeconfig is named:

    IPVSAGENT_TEST_KUBECONFIG=FILE .venv/bin/python -m pytest tests/integration/test_apiserver_contract.py

The user in it must be allowed everything in a namespace that the suite makes, and to read Nodes. `make test-apiserver`
does so with a server made from Kubernetes' own library.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.api_client import MERGE, STRATEGIC, ApiClient, shown
from tests.support.api_namespace import REAL, Place, endpoint_slice, service


def names(thing: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in thing["items"]]


@pytest.mark.only_where(REAL in os.environ)
def test_a_real_api_server_is_held_to_it() -> None:
    """Every case of the double is one of the real server's then."""
    assert ApiClient(Path(os.environ[REAL])).get("/version").code == 200


class TestList:
    def test_items_are_in_order_and_do_not_say_their_kind(self, place: Place) -> None:
        for name in ("c", "a", "b"):
            place.add(name)
        listed = place.api.get(place.services).thing
        assert (listed["kind"], listed["apiVersion"]) == ("ServiceList", "v1")
        assert names(listed) == ["a", "b", "c"]
        assert all("kind" not in item and "apiVersion" not in item for item in listed["items"])
        newest = max(int(item["metadata"]["resourceVersion"]) for item in listed["items"])
        assert int(listed["metadata"]["resourceVersion"]) >= newest

    def test_all_namespaces(self, place: Place) -> None:
        place.add("a")
        everywhere = place.api.get("/api/v1/services").thing["items"]
        assert [i["metadata"]["name"] for i in everywhere if i["metadata"]["namespace"] == place.namespace] == ["a"]

    def test_pages_are_of_one_moment(self, place: Place) -> None:
        for name in ("a", "b", "c", "d", "e"):
            place.add(name)
        first = place.api.get(place.services, limit=2).thing
        assert names(first) == ["a", "b"] and first["metadata"]["remainingItemCount"] == 3
        place.add("bb")
        assert place.api.call("DELETE", f"{place.services}/c").code == 200
        second = place.api.get(place.services, limit=2, **{"continue": first["metadata"]["continue"]}).thing
        third = place.api.get(place.services, limit=2, **{"continue": second["metadata"]["continue"]}).thing
        assert (names(second), names(third)) == (["c", "d"], ["e"])
        assert {p["metadata"]["resourceVersion"] for p in (second, third)} == {first["metadata"]["resourceVersion"]}
        assert "continue" not in third["metadata"] and "remainingItemCount" not in third["metadata"]

    def test_a_continue_token_that_never_was(self, place: Place) -> None:
        reply = place.api.get(place.services, limit=2, **{"continue": "nonsense"})
        assert (reply.code, reply.thing["reason"]) == (400, "BadRequest")

    def test_exact_version(self, place: Place) -> None:
        place.add("a")
        version = place.version()
        place.add("b")
        exact = {"resourceVersion": version, "resourceVersionMatch": "Exact"}
        listed = place.api.get(place.services, **exact).thing
        assert names(listed) == ["a"] and listed["metadata"]["resourceVersion"] == version
        cached = place.api.get(place.services, resourceVersion=version).thing
        assert sorted(names(cached)) == ["a", "b"], "caches of older servers have no order"

    def test_version_still_to_come(self, place: Place) -> None:
        reply = place.api.get(place.services, resourceVersion=str(int(place.version()) + 1_000_000))
        assert (reply.code, reply.thing["reason"]) == (504, "Timeout")
        assert reply.thing["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
        assert reply.thing["details"]["retryAfterSeconds"] == 1

    @pytest.mark.parametrize(
        "query",
        [
            {"resourceVersionMatch": "Exact"},
            {"resourceVersionMatch": "Exact", "resourceVersion": "0"},
            {"resourceVersionMatch": "Newest", "resourceVersion": "1"},
            {"sendInitialEvents": "true"},
            {"sendInitialEvents": "true", "watch": "1"},
            {"resourceVersionMatch": "NotOlderThan", "resourceVersion": "1", "watch": "1"},
            {"resourceVersionMatch": "Exact", "sendInitialEvents": "true", "watch": "1"},
        ],
    )
    def test_options_that_do_not_fit(self, place: Place, query: dict[str, str]) -> None:
        reply = place.api.get(place.services, **query)
        assert (reply.code, reply.thing["reason"]) == (422, "Invalid"), reply.text

    def test_get(self, place: Place) -> None:
        made = place.add("a")
        assert place.api.get(f"{place.services}/a").thing == made
        reply = place.api.get(f"{place.services}/b")
        assert (reply.code, reply.thing["kind"], reply.thing["reason"]) == (404, "Status", "NotFound")
        assert reply.thing["message"] == 'services "b" not found'

    def test_wrong_token(self, kubeconfig: Path) -> None:
        reply = ApiClient(kubeconfig, token="of-bad-news").get("/api/v1/services")
        assert (reply.code, reply.thing["kind"], reply.thing["reason"]) == (401, "Status", "Unauthorized")

    def test_no_such_resource(self, place: Place) -> None:
        assert place.api.get("/api/v1/nonsense").code == 404
        assert place.api.get("/apis/example.invalid/v1/things").code == 404


class TestSelectors:
    @pytest.mark.parametrize(
        ("selector", "chosen"),
        [
            ("app=x", ["a"]),
            ("app==x,tier", ["a"]),
            ("app!=x", ["b", "c"]),
            ("!app", ["c"]),
            ("!app,!tier", ["c"]),
            ("app in (x, y),app notin (y)", ["a"]),
            ("!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name", ["a", "c"]),
        ],
    )
    def test_labels(self, place: Place, selector: str, chosen: list[str]) -> None:
        place.add("a", {"app": "x", "tier": "1"})
        place.add("b", {"app": "y", "service.kubernetes.io/headless": ""})
        place.add("c")
        assert names(place.api.get(place.services, labelSelector=selector).thing) == chosen

    @pytest.mark.parametrize(
        ("selector", "chosen"),
        [
            ("metadata.name=a", ["a"]),
            ("metadata.name!=a", ["b"]),
            ("spec.clusterIP!=None", ["a"]),
            ("spec.clusterIP=None,metadata.name=b", ["b"]),
        ],
    )
    def test_fields(self, place: Place, selector: str, chosen: list[str]) -> None:
        place.add("a")
        place.add("b", clusterIP="None")
        assert names(place.api.get(place.services, fieldSelector=selector).thing) == chosen

    @pytest.mark.parametrize("query", [{"fieldSelector": "spec.nonsense=1"}, {"labelSelector": "a b"}])
    def test_selectors_that_are_none(self, place: Place, query: dict[str, str]) -> None:
        reply = place.api.get(place.services, **query)
        assert (reply.code, reply.thing["reason"]) == (400, "BadRequest")

    def test_leaving_is_deleted_and_entering_is_added(self, place: Place) -> None:
        place.add("a", {"app": "x"})
        query = {"labelSelector": "app=x", "resourceVersion": place.version()}
        with place.api.watch(place.services, **query) as events:
            changed = place.api.patch(f"{place.services}/a", {"metadata": {"labels": {"app": "y"}}}).thing
            left = next(events)
            assert shown(left) == ("DELETED", "a")
            # The content that was selected last, with the version of the change.
            assert left["object"]["metadata"]["labels"] == {"app": "x"}
            assert left["object"]["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]
            place.api.patch(f"{place.services}/a", {"metadata": {"annotations": {"unseen": "1"}}})
            place.api.patch(f"{place.services}/a", {"metadata": {"labels": {"app": "x"}}})
            assert events.take(1) == [("ADDED", "a")]


class TestWatch:
    def test_changes_in_order(self, place: Place) -> None:
        with place.api.watch(place.services, resourceVersion=place.version()) as events:
            place.add("a")
            place.api.patch(f"{place.services}/a", {"metadata": {"labels": {"new": "1"}}})
            place.api.call("DELETE", f"{place.services}/a")
            seen = [next(events) for _ in range(3)]
        assert [shown(event) for event in seen] == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
        assert all((e["object"]["kind"], e["object"]["apiVersion"]) == ("Service", "v1") for e in seen)
        versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in seen]
        assert versions == sorted(set(versions))

    def test_goes_on_from_a_version(self, place: Place) -> None:
        place.add("a")
        version = place.add("b")["metadata"]["resourceVersion"]
        place.add("c")
        with place.api.watch(place.services, resourceVersion=version) as events:
            assert events.take(1) == [("ADDED", "c")]

    @pytest.mark.parametrize("version", ["", "0"])
    def test_without_a_version_begins_with_what_is_there(self, place: Place, version: str) -> None:
        place.add("a")
        place.add("b")
        with place.api.watch(place.services, resourceVersion=version) as events:
            assert sorted(events.take(2)) == [("ADDED", "a"), ("ADDED", "b")]
            place.add("c")
            assert events.take(1) == [("ADDED", "c")]

    @pytest.mark.parametrize("version", ["", "0", "now"])
    def test_initial_events(self, place: Place, version: str) -> None:
        place.add("a")
        place.add("b")
        version = place.version() if version == "now" else version
        query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
        with place.api.watch(place.services, resourceVersion=version, **query) as events:
            assert sorted(events.take(2)) == [("ADDED", "a"), ("ADDED", "b")]
            end = next(events)
            assert end["type"] == "BOOKMARK" and end["object"]["kind"] == "Service"
            assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
            place.add("c")
            added = next(events)
        assert shown(added) == ("ADDED", "c")
        assert int(added["object"]["metadata"]["resourceVersion"]) > int(end["object"]["metadata"]["resourceVersion"])

    def test_initial_events_of_a_version_still_to_come(self, place: Place) -> None:
        query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
        later = str(int(place.version()) + 1_000_000)
        with place.api.watch(place.services, resourceVersion=later, **query) as events:
            error = next(events)
        assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 504, "Timeout")

    def test_an_old_version_is_an_error_in_the_stream(self, place: Place) -> None:
        place.add("a")
        with place.api.watch(place.services, resourceVersion="1") as events:
            assert events.code == 200
            error = next(events)
        assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")

    def test_ends_in_time_with_a_bookmark(self, place: Place) -> None:
        query = {"timeoutSeconds": 3, "allowWatchBookmarks": "true"}
        with place.api.watch(place.services, resourceVersion=place.version(), **query) as events:
            place.add("a")
            kinds = [event["type"] for event in events]
        # Two seconds before the end; a second one where the first came in the part of a second before that.
        assert kinds in (["ADDED", "BOOKMARK"], ["ADDED", "BOOKMARK", "BOOKMARK"])

    @pytest.mark.parametrize("value", ["0", "false", "False"])
    def test_what_is_no_watch(self, place: Place, value: str) -> None:
        assert place.api.get(place.services, watch=value).thing["kind"] == "ServiceList"

    def test_one_object_by_name(self, place: Place) -> None:
        query = {"fieldSelector": "metadata.name=a", "resourceVersion": place.version()}
        with place.api.watch(place.services, **query) as events:
            place.add("b")
            place.add("a")
            assert events.take(1) == [("ADDED", "a")]

    def test_other_kinds_are_not_seen(self, place: Place) -> None:
        with place.api.watch(place.slices, resourceVersion=place.version()) as events:
            place.add("a")
            assert place.api.call("POST", place.slices, endpoint_slice("a", "10.1.1.1")).code == 201
            while (event := next(events))["object"]["endpoints"] is None:
                pass
        assert event["object"]["apiVersion"] == "discovery.k8s.io/v1"


class TestWrites:
    def test_create_twice(self, place: Place) -> None:
        place.add("a")
        reply = place.api.call("POST", place.services, service("a"))
        assert (reply.code, reply.thing["reason"]) == (409, "AlreadyExists")
        assert reply.thing["message"] == 'services "a" already exists'

    def test_a_service_is_completed(self, place: Place) -> None:
        spec = place.add("a", type="NodePort", sessionAffinity="ClientIP")["spec"]
        assert spec["clusterIPs"] == [spec["clusterIP"]] and spec["ipFamilyPolicy"] == "SingleStack"
        assert len(spec["ipFamilies"]) == 1
        port = spec["ports"][0]
        assert (port["protocol"], port["targetPort"]) == ("TCP", 80) and 30000 <= port["nodePort"] <= 32767
        assert (spec["internalTrafficPolicy"], spec["externalTrafficPolicy"]) == ("Cluster", "Cluster")
        assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}

    def test_metadata(self, place: Place) -> None:
        made = place.add("a")["metadata"]
        assert made["uid"] and made["creationTimestamp"] and made["namespace"] == place.namespace
        again = place.api.patch(f"{place.services}/a", {"metadata": {"labels": {"x": "1"}}}).thing["metadata"]
        assert (again["uid"], again["creationTimestamp"]) == (made["uid"], made["creationTimestamp"])

    def test_generated_name(self, place: Place) -> None:
        thing = service("a")
        thing["metadata"] = {"generateName": "a-"}
        made = [place.api.call("POST", place.services, thing).thing["metadata"]["name"] for _ in range(2)]
        assert len(set(made)) == 2 and all(name.startswith("a-") and len(name) == 7 for name in made)

    @pytest.mark.parametrize("namespace", ["", "another"])
    def test_namespaces_that_do_not_fit(self, place: Place, namespace: str) -> None:
        thing = service("a")
        if namespace:
            thing["metadata"]["namespace"] = namespace
            assert place.api.call("POST", place.services, thing).code == 400
        else:
            reply = place.api.call("POST", "/api/v1/namespaces/ipvsagent-nowhere/services", thing)
            assert (reply.code, reply.thing["reason"]) == (404, "NotFound")

    @pytest.mark.parametrize(
        "body",
        [b"", b"{nonsense", [], {"kind": "Node"}, {"spec": {"ports": "80"}}, {"metadata": {"labels": {"a": 1}}}],
    )
    def test_what_is_no_service(self, place: Place, body: object) -> None:
        if isinstance(body, dict):
            body = {**service("a"), **body}
        reply = place.api.call("POST", place.services, body)
        assert (reply.code, reply.thing["reason"]) == (400, "BadRequest"), reply.text

    def test_a_dry_run_changes_nothing(self, place: Place) -> None:
        made = place.add("a")
        dry, labels = {"dryRun": "All"}, {"metadata": {"labels": {"x": "1"}}}
        assert place.api.call("POST", place.services, service("b"), **dry).code == 201
        assert place.api.patch(f"{place.services}/a", labels, **dry).thing["metadata"]["labels"] == {"x": "1"}
        assert place.api.call("PUT", f"{place.services}/a", made, **dry).code == 200
        assert place.api.call("DELETE", f"{place.services}/a", **dry).code == 200
        assert place.api.call("POST", place.services, service("b"), dryRun="Some").code == 422
        assert names(place.api.get(place.services).thing) == ["a"]
        assert place.api.get(f"{place.services}/a").thing == made

    def test_replace(self, place: Place) -> None:
        made = place.add("a")
        stale = json.loads(json.dumps(made))
        made["metadata"]["labels"] = {"new": "1"}
        replaced = place.api.call("PUT", f"{place.services}/a", made)
        assert replaced.code == 200 and replaced.thing["metadata"]["labels"] == {"new": "1"}
        reply = place.api.call("PUT", f"{place.services}/a", stale)
        assert (reply.code, reply.thing["reason"]) == (409, "Conflict")
        del made["metadata"]["name"]
        assert place.api.call("PUT", f"{place.services}/a", made).code == 400
        assert reply.thing["message"].startswith('Operation cannot be fulfilled on services "a": ')

    def test_what_stays_the_same_has_no_new_version(self, place: Place) -> None:
        made = place.api.call("POST", place.slices, endpoint_slice("a", "10.1.1.1")).thing
        again = place.api.call("PUT", f"{place.slices}/a", made)
        assert again.code == 200
        assert again.thing["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]

    def test_a_slice_counts_its_generations(self, place: Place) -> None:
        made = place.api.call("POST", place.slices, endpoint_slice("a", "10.1.1.1")).thing
        made["endpoints"].append({"addresses": ["10.1.1.2"]})
        replaced = place.api.call("PUT", f"{place.slices}/a", made).thing
        assert (made["metadata"]["generation"], replaced["metadata"]["generation"]) == (1, 2)

    def test_patches(self, place: Place) -> None:
        place.add("a", {"old": "1"}, ports=[{"name": "x", "port": 80}, {"name": "y", "port": 81}])
        path = f"{place.services}/a"
        merged = place.api.patch(path, {"metadata": {"labels": {"old": None, "new": "1"}}}).thing
        assert merged["metadata"]["labels"] == {"new": "1"}
        strategic = {"spec": {"ports": [{"port": 81, "targetPort": 9}]}}
        ports = place.api.patch(path, strategic, STRATEGIC).thing["spec"]["ports"]
        assert [(port["port"], port["targetPort"], port["name"]) for port in ports] == [(80, 80, "x"), (81, 9, "y")]
        listed = [{"op": "replace", "path": "/spec/ports/0/targetPort", "value": 7}]
        ports = place.api.patch(path, listed, "application/json-patch+json").thing["spec"]["ports"]
        assert [port["targetPort"] for port in ports] == [7, 9]

    @pytest.mark.parametrize(
        ("patch", "kind"),
        [
            (b"{nonsense", MERGE),
            ([], MERGE),
            ({}, "application/json-patch+json"),
            ([{"op": "invent", "path": "/metadata/labels"}], "application/json-patch+json"),
        ],
    )
    def test_what_is_no_patch(self, place: Place, patch: object, kind: str) -> None:
        place.add("a")
        assert place.api.patch(f"{place.services}/a", patch, kind).code == 400
        assert place.api.patch(f"{place.services}/a", {}, "application/json").code == 415
        test = [{"op": "test", "path": "/metadata/name", "value": "b"}]
        assert place.api.patch(f"{place.services}/a", test, "application/json-patch+json").code == 422

    def test_a_patch_can_name_the_version_it_is_for(self, place: Place) -> None:
        made = place.add("a")
        patch = {"metadata": {"labels": {"x": "1"}, "resourceVersion": made["metadata"]["resourceVersion"]}}
        assert place.api.patch(f"{place.services}/a", patch).code == 200
        patch["metadata"]["labels"] = {"x": "2"}
        assert place.api.patch(f"{place.services}/a", patch).code == 409

    def test_status_is_a_part_of_its_own(self, place: Place) -> None:
        place.add("a", type="LoadBalancer")
        status = {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
        place.api.patch(f"{place.services}/a", {**status, "metadata": {"labels": {"x": "1"}}})
        assert "ingress" not in place.api.get(f"{place.services}/a").thing["status"]["loadBalancer"]
        place.api.patch(f"{place.services}/a/status", status)
        thing = place.api.get(f"{place.services}/a").thing
        assert thing["status"]["loadBalancer"]["ingress"][0]["ip"] == "192.0.2.1"
        assert thing["metadata"]["labels"] == {"x": "1"}

    def test_delete(self, place: Place) -> None:
        made = place.add("a")
        path = f"{place.services}/a"
        wrong = {"preconditions": {"uid": "somebody-else"}}
        assert place.api.call("DELETE", path, wrong).code == 409
        assert place.api.call("DELETE", path, b"{nonsense").code == 400
        assert place.api.call("DELETE", path, {"preconditions": {"uid": made["metadata"]["uid"]}}).code == 200
        assert place.api.call("DELETE", path).code == 404

    def test_finalizers_hold_what_is_deleted(self, place: Place) -> None:
        place.add("a")
        path = f"{place.services}/a"
        place.api.patch(path, {"metadata": {"finalizers": ["example.invalid/hold"]}})
        version = place.version()
        assert place.api.call("DELETE", path).code == 200
        assert place.api.get(path).thing["metadata"]["deletionTimestamp"]
        with place.api.watch(place.services, resourceVersion=version) as events:
            place.api.patch(path, {"metadata": {"finalizers": None}})
            assert events.take(2) == [("MODIFIED", "a"), ("DELETED", "a")]
        assert place.api.get(path).code == 404

    @pytest.mark.parametrize("group", ["", "events.k8s.io"])
    def test_events_are_posted_and_counted_up(self, place: Place, group: str) -> None:
        about = {"kind": "Service", "namespace": place.namespace, "name": "a", "apiVersion": "v1"}
        event: dict[str, Any] = {"metadata": {"name": "a.1"}, "reason": "Tested", "type": "Normal"}
        if group:
            path = f"/apis/{group}/v1/namespaces/{place.namespace}/events"
            event |= {"regarding": about, "note": "text", "action": "Test", "eventTime": "2026-01-31T12:00:00.000000Z"}
            event |= {"reportingController": "ipvsagent.io/test", "reportingInstance": "node-1"}
            more = {"series": {"count": 2, "lastObservedTime": "2026-01-31T12:01:00.000000Z"}}
        else:
            path = f"/api/v1/namespaces/{place.namespace}/events"
            event |= {"involvedObject": about, "message": "text", "count": 1, "source": {"component": "ipvsagent"}}
            more = {"count": 2}
        made = place.api.call("POST", path, event)
        assert made.code == 201, made.text
        patched = place.api.patch(f"{path}/a.1", more)
        assert patched.code == 200, patched.text
        assert {key: patched.thing[key] for key in more} == more


def a_whole_event(place: Place, name: str) -> dict[str, Any]:
    """About the Service of that name, with all that must be there."""
    return {
        "metadata": {"name": f"{name}.1"},
        "regarding": {"apiVersion": "v1", "kind": "Service", "namespace": place.namespace, "name": name},
        "type": "Warning",
        "reason": "Test",
        "note": "text",
        "action": "Test",
        "eventTime": "2026-01-31T12:00:00.000000Z",
        "reportingController": "ipvsagent.io/test",
        "reportingInstance": "node-1",
    }


@pytest.mark.parametrize("when", ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00.5Z", "yesterday"])
def test_times_of_events_have_microseconds(place: Place, when: str) -> None:
    path = f"/apis/events.k8s.io/v1/namespaces/{place.namespace}/events"
    event = a_whole_event(place, "c")
    assert place.api.call("POST", path, {**event, "eventTime": when}).code == 400
    assert place.api.call("POST", path, event).code == 201
    assert place.api.patch(f"{path}/c.1", {"series": {"count": 2, "lastObservedTime": when}}).code in (400, 422)


def test_events_are_validated_and_never_say_something_else(place: Place) -> None:
    path = f"/apis/events.k8s.io/v1/namespaces/{place.namespace}/events"
    event = a_whole_event(place, "b")
    for field in ("eventTime", "action", "reportingController", "reportingInstance", "reason", "type"):
        lacking = {key: value for key, value in event.items() if key != field}
        assert place.api.call("POST", path, lacking).code == 422, field
    bad = ({"note": "x" * 1025}, {"regarding": {"kind": "Node", "name": "a"}}, {"reportingController": "a/b/c"})
    for wrong in bad:
        assert place.api.call("POST", path, {**event, **wrong}).code == 422, wrong
    assert place.api.call("POST", path, event).code == 201
    assert place.api.call("POST", path, event).code == 409
    for change in ({"note": "another"}, {"reason": "Other"}, {"series": {"count": 1}}):
        assert place.api.patch(f"{path}/b.1", change).code == 422, change


def test_continue_tokens_are_opaque_but_whole(place: Place) -> None:
    """A client hands them back in a query: they must survive that."""
    for name in ("a", "b"):
        place.add(name)
    token = place.api.get(place.services, limit=1).thing["metadata"]["continue"]
    assert base64.urlsafe_b64decode(token + "==") and not set(token) & set("+/=&?")


def test_nodes_can_be_read(place: Place) -> None:
    listed = place.api.get("/api/v1/nodes").thing
    assert listed["kind"] == "NodeList" and listed["items"]
    name = listed["items"][0]["metadata"]["name"]
    with place.api.watch("/api/v1/nodes", fieldSelector=f"metadata.name={name}") as events:
        assert events.take(1) == [("ADDED", name)]
