"""What the double does beyond the contract: faults, restarts, lost history, credentials that change."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from integration.apiserver import (
    Access,
    ApiServer,
    Break,
    Certificates,
    Duplicate,
    ErrorEvent,
    Fault,
    Garbage,
    NoBookmarks,
    NoWatchList,
    Refuse,
    Reorder,
    Slow,
    Store,
    read_script,
)
from tests.support.api_client import ApiClient, Reply, Stream, shown
from tests.support.api_server import CERTIFICATES, api_server

SERVICES = "/api/v1/namespaces/default/services"
INITIAL = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
BROKEN = urllib3.exceptions.ProtocolError


def service(name: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "labels": labels or {}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {}}


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest) -> Iterator[ApiServer]:
    certificates = CERTIFICATES if request.param == "https" else None
    with api_server(certificates=certificates, bookmark_interval=0.05) as server:
        yield server


@pytest.fixture
def api(server: ApiServer, tmp_path: Path) -> ApiClient:
    return ApiClient(server.write_kubeconfig(tmp_path / "kubeconfig"))


def rest(stream: Stream) -> list[tuple[str, str]]:
    return [shown(event) for event in stream]


def is_reset(error: Exception, server: ApiServer, otherwise: bool = True) -> bool:
    """otherwise: what is said for TLS, where OpenSSL tells a reset and an end apart no more."""
    return otherwise if server.certificates else "reset by peer" in str(error)


def until_it_is_up(api: ApiClient, path: str) -> Reply:
    deadline = time.monotonic() + 5
    while True:
        try:
            return api.get(path)
        except urllib3.exceptions.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


class TestFaults:
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            (Refuse(code=401), "Unauthorized"),
            (Refuse(code=403), "Forbidden"),
            (Refuse(code=410), "Expired"),
            (Refuse(code=429, retry_after=7), "TooManyRequests"),
            (Refuse(code=500), "InternalError"),
            (Refuse(code=503, reason="Nap", message="asleep"), "Nap"),
        ],
    )
    def test_refusals(self, server: ApiServer, api: ApiClient, fault: Refuse, reason: str) -> None:
        server.faults.add(fault)
        reply = api.get(SERVICES)
        assert (reply.code, reply.thing["code"], reply.thing["reason"]) == (fault.code, fault.code, reason)
        assert reply.headers.get("Retry-After") == (str(fault.retry_after) if fault.retry_after else None)
        assert api.get(SERVICES).code == 200

    def test_a_refused_write_is_not_done(self, server: ApiServer, api: ApiClient) -> None:
        server.faults.add(Refuse(code=500))
        assert api.call("POST", SERVICES, service("a")).code == 500
        assert api.get(f"{SERVICES}/a").code == 404

    def test_a_page_that_is_no_status(self, server: ApiServer, api: ApiClient) -> None:
        server.faults.add(Refuse(code=502, body="<html>Bad Gateway</html>"))
        reply = api.get(SERVICES)
        assert (reply.code, reply.text, reply.thing) == (502, b"<html>Bad Gateway</html>", None)

    def test_which_requests(self, server: ApiServer, api: ApiClient) -> None:
        server.faults.add(Refuse(code=500, verb="list", resource="services", skip=1, times=2))
        assert api.get("/api/v1/nodes").code == 200
        assert [api.get(SERVICES).code for _ in range(4)] == [200, 500, 500, 200]
        server.faults.add(Refuse(code=503, times=None))
        assert [api.get(path).code for path in (SERVICES, "/api/v1/nodes", SERVICES)] == [503] * 3
        server.faults.clear()
        assert api.get(SERVICES).code == 200

    @pytest.mark.parametrize("how", ["reset", "close"])
    def test_no_answer(self, server: ApiServer, api: ApiClient, how: Any) -> None:
        server.faults.add(Break(how=how))
        with pytest.raises(BROKEN) as broken:
            api.get(SERVICES)
        assert is_reset(broken.value, server, how == "reset") is (how == "reset")

    @pytest.mark.parametrize("how", ["reset", "close", "cut-chunk"])
    @pytest.mark.parametrize("after", [0, 2])
    def test_streams_that_break(self, server: ApiServer, api: ApiClient, how: Any, after: int) -> None:
        for name in "abc":
            server.put(service(name))
        server.faults.add(Break(how=how, after_events=after, verb="watch"))
        with api.watch(SERVICES, resourceVersion="0") as events:
            assert events.take(after) == [("ADDED", name) for name in "abc"[:after]]
            with pytest.raises(BROKEN) as broken:
                next(events)
            assert is_reset(broken.value, server, how == "reset") is (how == "reset")

    def test_a_stream_that_ends_too_soon(self, server: ApiServer, api: ApiClient) -> None:
        server.put(service("a"))
        server.put(service("b"))
        server.faults.add(Break(how="end", after_events=1))
        with api.watch(SERVICES, resourceVersion="0") as events:
            assert rest(events) == [("ADDED", "a")]

    def test_a_list_that_is_cut(self, server: ApiServer, api: ApiClient) -> None:
        server.put(service("a"))
        server.faults.add(Break(how="close", after_events=0, verb="list"))
        with pytest.raises(BROKEN):
            api.get(SERVICES)

    def test_silence_ends_with_the_server(self, server: ApiServer, api: ApiClient) -> None:
        server.faults.add(Break(how="hang", after_events=0))
        with api.watch(SERVICES, resourceVersion="0") as events:
            server.put(service("a"))
            time.sleep(0.1)
            server.stop()
            with pytest.raises(BROKEN):
                next(events)

    def test_slow(self, server: ApiServer, api: ApiClient) -> None:
        server.put(service("a"))
        server.faults.add(Slow(bytes=100, seconds=0.01))
        began = time.monotonic()
        assert [i["metadata"]["name"] for i in api.get(SERVICES).thing["items"]] == ["a"]
        assert time.monotonic() - began > 0.02

    def test_garbage(self, server: ApiServer, api: ApiClient) -> None:
        server.put(service("a"))
        server.faults.add(Garbage(text="}{", after_events=1))
        with api.watch(SERVICES, resourceVersion="0") as events:
            assert events.take(1) == [("ADDED", "a")]
            with pytest.raises(json.JSONDecodeError):
                next(events)
            server.put(service("b"))
            assert events.take(1) == [("ADDED", "b")]

    def test_error_event(self, server: ApiServer, api: ApiClient) -> None:
        server.faults.add(ErrorEvent(code=500, reason="InternalError", message="no"))
        with api.watch(SERVICES, resourceVersion="0") as events:
            assert [(e["type"], e["object"]["code"], e["object"]["message"]) for e in events] == [("ERROR", 500, "no")]

    def test_duplicates_and_disorder(self, server: ApiServer, api: ApiClient) -> None:
        version = server.store.version
        for name in "abcd":
            server.put(service(name))
        server.faults.add(Duplicate())
        with api.watch(SERVICES, resourceVersion=version) as events:
            assert events.take(4) == [("ADDED", "a"), ("ADDED", "a"), ("ADDED", "b"), ("ADDED", "b")]
        server.faults.add(Reorder())
        with api.watch(SERVICES, resourceVersion=version) as events:
            assert events.take(4) == [("ADDED", "b"), ("ADDED", "a"), ("ADDED", "d"), ("ADDED", "c")]

    def test_no_bookmarks(self, server: ApiServer, api: ApiClient) -> None:
        server.put(service("a"))
        server.faults.add(NoBookmarks())
        with api.watch(SERVICES, timeoutSeconds=1, **INITIAL) as events:
            assert rest(events) == [("ADDED", "a")]

    def test_no_watch_list(self, server: ApiServer, api: ApiClient) -> None:
        server.put(service("a"))
        server.faults.add(NoWatchList(how="refused"), NoWatchList(how="ignored", skip=1))
        with api.watch(SERVICES, **INITIAL) as events:
            assert events.code == 422
        with api.watch(SERVICES, timeoutSeconds=1, **INITIAL) as events:
            assert rest(events) == [("ADDED", "a")]

    def test_as_data(self) -> None:
        text = b"""[
            {"fault": "status", "code": 429, "retry_after": 1, "verb": "watch", "times": null},
            {"fault": "break", "how": "cut-chunk", "after_events": 3, "resource": "endpointslices", "skip": 1},
            {"fault": "slow"}, {"fault": "reorder"}, {"fault": "watch-list", "how": "ignored"}]"""
        expected: list[Fault] = [
            Refuse(code=429, retry_after=1, verb="watch", times=None),
            Break(how="cut-chunk", after_events=3, resource="endpointslices", skip=1),
            Slow(),
            Reorder(),
            NoWatchList(how="ignored"),
        ]
        assert read_script(text) == expected
        with pytest.raises(ValueError, match="unknown field `cod`"):
            read_script(b'[{"fault": "status", "cod": 1}]')


class TestHistory:
    def test_forgotten_versions(self, server: ApiServer, api: ApiClient) -> None:
        for name in "abc":
            server.put(service(name))
        first = api.get(SERVICES, limit=1).thing["metadata"]
        server.put(service("d"))
        server.store.compact()
        expired = api.get(SERVICES, limit=1, **{"continue": first["continue"]})
        assert (expired.code, expired.thing["reason"]) == (410, "Expired")
        # The rest can be had all the same, as it is now.
        proceed = expired.thing["metadata"]["continue"]
        assert [i["metadata"]["name"] for i in api.get(SERVICES, **{"continue": proceed}).thing["items"]] == list("bcd")
        exact = {"resourceVersion": first["resourceVersion"], "resourceVersionMatch": "Exact"}
        assert api.get(SERVICES, **exact).code == 410
        with api.watch(SERVICES, resourceVersion=first["resourceVersion"]) as events:
            error = next(events)["object"]
            assert (error["code"], error["reason"]) == (410, "Expired")
            assert rest(events) == []

    def test_the_log_is_bounded(self) -> None:
        server = ApiServer(Store(history=10))
        began = server.store.version
        for number in range(50):
            server.put(service("a", {"n": str(number)}))
        assert server.store.compacted > began
        assert 10 <= len(server.store.changes_after(0)) <= 20

    def test_a_restart_keeps_history_or_loses_it(self, server: ApiServer, api: ApiClient) -> None:
        version = server.store.version
        server.put(service("a"))
        with api.watch(SERVICES, resourceVersion=version) as events:
            assert events.take(1) == [("ADDED", "a")]
            server.disconnect()
            with pytest.raises(BROKEN) as broken:
                next(events)
            assert is_reset(broken.value, server)
        with api.watch(SERVICES, resourceVersion=version) as events:
            assert events.take(1) == [("ADDED", "a")]
            server.restart()
            with pytest.raises(BROKEN):
                next(events)
        with api.watch(SERVICES, resourceVersion=version) as events:
            assert events.take(1) == [("ADDED", "a")]
        server.restart(history="lost")
        with api.watch(SERVICES, resourceVersion=version) as events:
            assert next(events)["object"]["code"] == 410

    def test_the_counter_goes_backwards(self, server: ApiServer, api: ApiClient) -> None:
        """As when etcd is restored: a watch from a version that was never is silent until the counter is there."""
        server.put(service("a"))
        backup = server.store.snapshot()
        server.put(service("b"))
        server.store.advance(2)
        version = server.store.version
        server.stop()
        server.store.restore(backup)
        server.start()
        assert [i["metadata"]["name"] for i in api.get(SERVICES).thing["items"]] == ["a"]
        with api.watch(SERVICES, resourceVersion=version, allowWatchBookmarks="true") as events:
            for number in range(4):
                server.put(service("c", {"n": str(number)}))
            seen = next(events)
        assert int(seen["object"]["metadata"]["resourceVersion"]) == version + 1

    def test_bookmarks_tell_of_what_others_did(self, server: ApiServer, api: ApiClient) -> None:
        with api.watch(SERVICES, resourceVersion=server.store.version, allowWatchBookmarks="true") as events:
            server.store.advance(5)
            seen = next(events)
        assert seen["type"] == "BOOKMARK"
        assert seen["object"]["metadata"]["resourceVersion"] == str(server.store.version)
        assert seen["object"]["spec"] == {} and seen["object"]["status"] == {"loadBalancer": {}}


class TestCredentials:
    @pytest.fixture
    def server(self) -> Iterator[ApiServer]:
        access = Access({"old": "system:node:node-1"}, required=True)
        with ApiServer(certificates=CERTIFICATES, access=access) as server:
            yield server

    def test_tokens_change(self, server: ApiServer, tmp_path: Path) -> None:
        kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig")
        codes = []
        for tokens in (["old"], ["old", "new"], ["new"]):
            server.access.tokens = dict.fromkeys(tokens, "system:node:node-1")
            codes.append([ApiClient(kubeconfig, token=token).get(SERVICES).code for token in ("old", "new")])
        assert codes == [[200, 401], [200, 200], [401, 200]]
        assert [entry.user for entry in server.requests][:2] == ["system:node:node-1", ""]

    def test_client_certificates(self, server: ApiServer, tmp_path: Path) -> None:
        CERTIFICATES.write(tmp_path, "system:node:node-2")
        user = {"client-certificate": str(tmp_path / "client.crt"), "client-key": str(tmp_path / "client.key")}
        assert ApiClient(server.write_kubeconfig(tmp_path / "with", user)).get(SERVICES).code == 200
        assert server.requests[-1].user == "system:node:node-2"
        assert ApiClient(server.write_kubeconfig(tmp_path / "without", {})).get(SERVICES).code == 401
        Certificates().write(tmp_path, "somebody")
        with pytest.raises(urllib3.exceptions.HTTPError):
            ApiClient(server.write_kubeconfig(tmp_path / "forged", user)).get(SERVICES)

    def test_the_control_path_is_not_for_everybody(self, server: ApiServer, tmp_path: Path) -> None:
        kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig")
        assert ApiClient(kubeconfig, token="wrong").get("/double/faults").code == 401


class TestControl:
    def test_faults(self, api: ApiClient) -> None:
        assert api.get("/double/faults").thing == []
        fault = {"fault": "status", "code": 500, "verb": "list"}
        assert api.call("POST", "/double/faults", [fault]).code == 200
        assert api.get("/double/faults").thing[0]["code"] == 500
        assert [api.get(SERVICES).code for _ in range(2)] == [500, 200]
        assert api.call("PUT", "/double/faults", [{"fault": "nonsense"}]).code == 400

    def test_the_rest(self, server: ApiServer, api: ApiClient) -> None:
        version = server.store.version
        assert api.call("POST", "/double/advance", {"versions": 10}).code == 200
        assert server.store.version == version + 10
        assert api.call("POST", "/double/compact").code == 200
        assert server.store.compacted == version + 10
        with api.watch(SERVICES, resourceVersion=str(version + 10)) as events:
            assert api.call("POST", "/double/restart", {"history": "lost"}).code == 200
            with pytest.raises(BROKEN):
                next(events)
        asked = until_it_is_up(api, "/double/requests").thing
        assert [entry["verb"] for entry in asked if entry["verb"]] == ["watch"]


def test_large_answers_are_compressed_for_those_who_ask(server: ApiServer, api: ApiClient) -> None:
    for number in range(1000):
        server.put(service(f"service-{number}", {"filling": "x" * 63, "more": "y" * 63}))
    plain = api.get(SERVICES)
    assert "Content-Encoding" not in plain.headers and len(plain.thing["items"]) == 1000
    packed = api.call("GET", SERVICES, headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip" and packed.text == plain.text


def test_a_client_that_left_is_noticed(server: ApiServer, api: ApiClient) -> None:
    with api.watch(SERVICES, resourceVersion="0"):
        assert server.watching == 1
    deadline = time.monotonic() + 5
    while server.watching and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.watching == 0
