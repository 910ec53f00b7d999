"""The API as a source, against servers on this machine that answer well and badly."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time

import pytest

from ipvsagent.api.credentials import CredentialSource
from ipvsagent.api.transport import ApiTransport
from ipvsagent.errors import SourceError, StartError
from ipvsagent.sources import follow, kubernetes, watch
from ipvsagent.sources.kubernetes import ApiSource
from tests.support.api_documents import bookmark, endpoint_slice, line, node, service, status
from tests.support.following import Following
from tests.support.scripted_server import ScriptedServer


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Pauses as long as a test can bear."""
    monkeypatch.setattr(follow, "_backoff", lambda state: 0.05)
    monkeypatch.setattr(kubernetes, "LOOK_EVERY", 0.05)


@pytest.fixture
def server():
    made = ScriptedServer()
    made.objects = {"services": [service()], "endpointslices": [endpoint_slice()], "nodes": [node()]}
    yield made
    made.close()


@pytest.fixture
def kubeconfig(tmp_path, server):
    path = tmp_path / "kubeconfig"
    path.write_text(
        "current-context: a\n"
        "contexts: [{name: a, context: {cluster: c, user: u}}]\n"
        f'clusters: [{{name: c, cluster: {{server: "{server.url}"}}}}]\n'
        "users: [{name: u, user: {token: secret}}]\n"
    )
    return path


def source_at(kubeconfig, **options) -> ApiSource:
    transport = ApiTransport(CredentialSource(str(kubeconfig)), {}, time.monotonic)
    return ApiSource(transport, lambda: transport.server, **options)


@pytest.fixture
def following(kubeconfig):
    made = []

    def start(server=None, **options):
        """server: replaces the address that the source reports as the server's."""
        source = source_at(kubeconfig, **options)
        if server:
            source._server = lambda: server
        made.append(Following(source))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_everything_is_listed_and_then_followed(server, following):
    seen = following()
    seen.until(lambda: seen.synced)
    assert seen.names == ["node-1", "web", "web-x"]
    seen.until(lambda: len(server.watches) == 3)
    watch = next(asked for asked in server.watches if asked.plural == "endpointslices")
    watch.send(line("MODIFIED", endpoint_slice(version=101, addresses=("10.1.0.2", "10.1.0.3"))))
    seen.until(lambda: any(len(getattr(o, "endpoints", ())) == 2 for o in seen.objects.values()))
    watch.send(line("DELETED", endpoint_slice(version=102)))
    seen.until(lambda: seen.names == ["node-1", "web"])
    assert len(server.asked) == 3


def test_who_asks_and_for_what(server, following):
    seen = following()
    seen.until(lambda: seen.synced)
    assert {asked.authorization for asked in server.asked} == {"Bearer secret"}
    assert all(asked.headers["User-Agent"].startswith("ipvsagent/") for asked in server.asked)
    (services,) = server.of("services")
    assert services.query["labelSelector"] == "!service.kubernetes.io/service-proxy-name"
    assert services.query["fieldSelector"] == "spec.clusterIP!=None"
    (slices,) = server.of("endpointslices")
    assert slices.query["labelSelector"] == "!service.kubernetes.io/headless"


def test_nothing_is_synced_before_all_kinds_are_listed(server, following):
    gate = threading.Event()

    def late(asked):
        gate.wait(10)
        server.good(asked)

    server.script["nodes"] = [late]
    seen = following()
    seen.until(lambda: "web" in seen.names and "web-x" in seen.names)
    assert not seen.synced
    gate.set()
    seen.until(lambda: seen.synced)


def test_a_server_without_streamed_lists(server, following):
    refused = status(422, "Invalid", "sendInitialEvents is forbidden for watch unless the WatchList feature gate is on")
    for plural in server.objects:
        server.script[plural] = [lambda asked: asked.refuse(refused)]
    seen = following()
    seen.until(lambda: seen.synced and len(server.watches) == 3)
    assert [asked.query.get("resourceVersion") for asked in server.of("nodes")] == [None, "0", "100"]
    assert "api" not in seen.found or not seen.found["api"]


@pytest.mark.parametrize("fault", ["reset", "cut", "garbage", "500", "410", "end"])
def test_comes_back_after(server, following, fault):
    def faulty(asked):
        asked.begin()
        asked.send(*(line("ADDED", each) for each in server.objects["services"]), bookmark(100, end=True))
        if fault == "garbage":
            asked.send(b"{]\n")
        elif fault == "410":
            asked.send(line("ERROR", status(410, "Expired", "too old resource version")))
        elif fault == "end":
            asked.end()
            return
        elif fault == "cut":
            asked.handler.wfile.write(b"50\r\n{")
            asked.handler.close_connection = True
            return
        elif fault == "500":
            server.script["services"] += [lambda asked: asked.refuse(status(500, "InternalError"))]
        asked.reset()

    server.script["services"] = [faulty]
    seen = following()
    seen.until(lambda: seen.synced)
    server.objects["services"].append(service("more", 101, "10.96.0.11"))
    server.objects["services"].pop(0)
    if fault in ("reset", "cut", "500", "end"):
        seen.until(lambda: len([a for a in server.watches if a.plural == "services"]) == 1)
        watch = next(a for a in server.watches if a.plural == "services")
        assert watch.query["resourceVersion"] == "100" and not watch.streams
        watch.send(line("DELETED", service(version=102)), line("ADDED", service("more", 103, "10.96.0.11")))
    seen.until(lambda: seen.names == ["more", "node-1", "web-x"])
    assert len(server.of("services")) <= 4


def test_an_empty_list_is_asked_for_again_and_takes_nothing_away(server, following, monkeypatch):
    monkeypatch.setattr(watch, "EMPTY_AGAIN", 0.5)
    other = service("other", 101, address="10.96.0.11")

    def good(asked):
        asked.begin()
        asked.send(line("ADDED", service()), bookmark(100, end=True), line("ERROR", status(410, "Expired")))

    def empty(asked):
        asked.begin()
        asked.send(bookmark(100, end=True), line("ADDED", other))
        asked.hang()

    server.script["services"] = [good, empty, empty]
    seen = following()
    seen.until(lambda: seen.synced and "lists no Service" in seen.says)
    server.objects["services"] = [other]
    seen.until(lambda: len(server.of("services")) == 3)
    assert "web" in seen.names and "other" in seen.names and "--allow-empty" in seen.says
    seen.until(lambda: "web" not in seen.names and "other" in seen.names)
    assert "lists no Service" not in seen.says and len(server.of("services")) == 4


def test_what_a_lost_server_means_is_said_and_taken_back(server, following):
    seen = following()
    seen.until(lambda: seen.synced and len(server.watches) == 3)
    forbidden = status(403, "Forbidden", 'nodes is forbidden: User "x" cannot watch resource "nodes"')
    server.script["nodes"] = [lambda asked: asked.refuse(forbidden) for _ in range(3)]
    next(asked for asked in server.watches if asked.plural == "nodes").reset()
    server.closing.set()
    seen.until(lambda: seen.found.get("api"))
    assert f"API server {server.url}: nodes cannot be read since 2" in seen.says
    assert "allow our user to list and watch nodes" in seen.says
    assert "what was known before stays in use" in seen.says
    assert seen.names == ["node-1", "web", "web-x"]


def test_load_once(server, kubeconfig):
    server.objects["services"].append({"metadata": {"name": "bad", "namespace": "shop"}, "spec": {"ports": 3}})
    changes, findings = source_at(kubeconfig).load_once()
    assert sorted(item.key.name for item in changes.upserts) == ["node-1", "web", "web-x"]
    assert changes.synced and changes.blind and changes.blind.services
    assert [str(f) for f in findings] == ["Service shop/bad spec.ports: must be a list, not a whole number"]


def test_load_once_gives_up(server, kubeconfig, monkeypatch):
    monkeypatch.setattr(kubernetes, "PATIENCE", 0.3)
    server.script["services"] = [lambda asked: asked.refuse(status(401, "Unauthorized")) for _ in range(1000)]
    with pytest.raises(
        SourceError, match=r"services cannot be read since .*: 401 Unauthorized; it does not accept our"
    ):
        source_at(kubeconfig).load_once()


def test_the_cluster_ip_is_no_way_to_the_api(server, following):
    document = service("kubernetes", address="127.0.0.1")
    document["metadata"]["namespace"] = "default"
    # An address that no Service has in truth: what is compared is the server's with that of the Service.
    document["spec"]["clusterIP"] = "10.96.0.1"
    server.objects["services"] = [document]
    seen = following("https://10.96.0.1:443")
    seen.until(lambda: seen.error)
    assert isinstance(seen.error, StartError) and "--master" in str(seen.error)


def test_lists_that_never_come_are_told_and_asked_for_ever_more_seldom(server, following, monkeypatch):
    """However long each took: a server that says 200 and then nothing."""
    attempts = []
    monkeypatch.setattr(follow, "_backoff", lambda state: attempts.append(state.attempt_number) or 0.01)
    monkeypatch.setattr(follow, "STEADY", 0.1)

    def silent(asked):
        asked.begin()
        time.sleep(0.2)
        asked.reset()

    server.script["nodes"] = [silent for _ in range(4)]
    seen = following()
    seen.until(lambda: "nodes cannot be read since 2" in seen.says)
    seen.until(lambda: len(attempts) >= 3)
    assert attempts[:3] == [1, 2, 3]


def test_load_once_says_what_it_waits_for(server, kubeconfig, monkeypatch, caplog):
    monkeypatch.setattr(kubernetes, "PATIENCE", 0.5)
    monkeypatch.setattr(kubernetes, "SILENCE", 0.2)
    server.close()
    with pytest.raises(SourceError):
        source_at(kubeconfig).load_once()
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert re.fullmatch(r"API server http://\S+: .*Connection refused; trying again", said)


def test_what_is_asked_is_said_at_once(server, kubeconfig, following, caplog):
    caplog.set_level("INFO")
    server.script["nodes"] = [dripping]
    said = r"asking API server .* for services, endpointslices, nodes, until it answers"
    following().until(lambda: re.search(said, caplog.text))


def test_load_once_has_an_end(server, kubeconfig, monkeypatch):
    monkeypatch.setattr(kubernetes, "LOAD_LIMIT", 0.5)
    server.script["nodes"] = [lambda asked: (asked.begin(), asked.hang())]
    with pytest.raises(SourceError, match=r"API server http.*: no complete list of nodes within 0 s"):
        source_at(kubeconfig).load_once()


def dripping(asked):
    with contextlib.suppress(OSError):
        asked.handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not asked.server.closing.wait(0.02):
            asked.handler.wfile.write(b"x")
    asked.handler.close_connection = True


def test_a_head_that_comes_byte_by_byte_is_given_up(server, following, monkeypatch):
    monkeypatch.setattr(follow, "ANSWER_LIMIT", 1.0)
    server.script["nodes"] = [dripping, dripping]
    seen = following()
    seen.until(lambda: "no answer within 1 s" in seen.says)
    seen.until(lambda: seen.synced)


def test_a_handshake_that_does_not_end_is_given_up(tmp_path, kubeconfig, following, monkeypatch):
    monkeypatch.setattr(follow, "ANSWER_LIMIT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kubeconfig.write_text(
            re.sub(r"http://[\d.:]+", f"https://127.0.0.1:{silent.getsockname()[1]}", kubeconfig.read_text())
        )
        seen = following()
        seen.until(lambda: "no answer within 0 s" in seen.says)


def test_stopping_does_not_wait_for_a_head(server, following):
    server.script["nodes"] = [dripping]
    seen = following()
    seen.until(lambda: server.of("nodes"))
    time.sleep(0.1)
    threads = [each for each in threading.enumerate() if each.name == "follow Node"]
    seen.close()
    for each in threads:
        each.join(2)
    assert not any(each.is_alive() for each in threads)


def test_an_answer_whose_connection_closes_with_it_has_limits_too(server, following, monkeypatch):
    monkeypatch.setattr(watch, "LIST_SILENCE", 0.4)

    def closing(asked):
        asked.handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        asked.hang()

    server.script["nodes"] = [closing, closing]
    seen = following()
    seen.until(lambda: "silent" in seen.says or "timed out" in seen.says)
    seen.until(lambda: seen.synced)


def test_an_ask_that_hangs_is_told(server, following, monkeypatch):
    monkeypatch.setattr(follow, "QUIET_LIMIT", 1.0)
    monkeypatch.setattr(follow, "ANSWER_LIMIT", 0.9)
    release = threading.Event()
    real = ApiTransport._ready
    monkeypatch.setattr(ApiTransport, "_ready", lambda self: release.wait(20) and real(self))
    seen = following()
    seen.until(lambda: "cannot be read since" in seen.says and "no answer since 2" in seen.says)
    monkeypatch.setattr(follow, "ANSWER_LIMIT", 40.0)  # it counts from when it began to hang
    release.set()
    seen.until(lambda: seen.synced and not seen.says)
    assert len(server.of("nodes")) == 1, "what hung was no connection, so none is cut"
