"""Health, as kubelet and load balancers ask for it: real sockets, a clock of the test's own."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Hashable, Iterator, Sequence
from queue import SimpleQueue

import pytest

from ipvsagent.address import Address, Family
from ipvsagent.cluster.objects import Node, ServiceKey
from ipvsagent.config import Config
from ipvsagent.findings import Severity
from ipvsagent.monitoring import listeners as listeners_module
from ipvsagent.monitoring.health import Health
from ipvsagent.monitoring.listeners import Fault, ListenAddress, Listeners, Response
from ipvsagent.monitoring.server import Server
from ipvsagent.monitoring.service_health import ServiceHealth
from ipvsagent.monitoring.supervisor import Supervisor
from ipvsagent.policy.health_checks import HealthCheck
from ipvsagent.sources.inbox import Findings
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(30.0, (Family.IPV4, Family.IPV6), clock=clock, wall=lambda: clock.now + 1e9)


def told(response: Response) -> tuple[int, dict[str, object]]:
    return response.status, json.loads(response.body)


def test_before_the_first_sync_with_nothing_waiting(health: Health) -> None:
    assert health.livez().status == 200
    status, body = told(health.healthz())
    assert (status, body["nodeEligible"], body["healthy"]) == (503, False, False)


def test_a_node_that_was_seen_and_stays(health: Health) -> None:
    health.set_node(Node(name="a"))
    status, body = told(health.healthz())
    assert status == 200
    assert body == {
        "lastUpdated": "2001-09-09T02:03:20Z",
        "currentTime": "2001-09-09T02:03:20Z",
        "nodeEligible": True,
        "healthy": True,
        "status": {
            "IPv4": {"lastUpdated": "2001-09-09T02:03:20Z", "healthy": True},
            "IPv6": {"lastUpdated": "2001-09-09T02:03:20Z", "healthy": True},
        },
    }
    assert "nodeEligible" not in told(health.livez())[1]


def test_a_node_that_leaves_is_alive_but_gets_no_new_traffic(health: Health) -> None:
    health.set_node(Node(name="a", leaving=True))
    assert (health.healthz().status, health.livez().status) == (503, 200)
    health.set_node(None)
    assert (health.healthz().status, health.livez().status) == (503, 200)


def test_what_waits_for_two_sync_periods(health: Health, clock: Clock) -> None:
    health.set_node(Node(name="a"))
    health.mark_synced()
    health.mark_waiting()
    clock.now += 30
    health.mark_waiting()  # still the same wait
    clock.now += 29.9
    assert health.healthz().status == 200
    clock.now += 0.1
    status, body = told(health.livez())
    assert status == 503 and body["lastUpdated"] == "2001-09-09T02:03:20Z" and body["healthy"] is False
    family = {"lastUpdated": "2001-09-09T02:03:20Z", "healthy": False}
    assert body["status"] == {"IPv4": family, "IPv6": family}
    assert health.healthz().status == 503
    health.mark_synced()
    assert (health.healthz().status, health.livez().status) == (200, 200)


def test_a_loop_that_hangs(health: Health, clock: Clock) -> None:
    health.heartbeat()
    health.mark_synced()
    clock.now += 60
    assert health.livez().status == 503
    health.heartbeat()
    assert health.livez().status == 200


@pytest.fixture
def faults() -> SimpleQueue[Sequence[Fault]]:
    return SimpleQueue()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, faults: SimpleQueue[Sequence[Fault]]) -> Iterator[Listeners]:
    monkeypatch.setattr(listeners_module, "RETRY_AFTER", 0.2)
    listeners = Listeners(faults.put)
    listeners.start()
    yield listeners
    listeners.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(port: int, path: str = "/", method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path)
    response = connection.getresponse()
    return response.status, response.read(), dict(response.getheaders())


def eventually(port: int) -> tuple[int, bytes, dict[str, str]]:
    deadline = time.monotonic() + 5
    while True:
        try:
            return get(port)
        except ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def refused_within(port: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            get(port)
        except ConnectionResetError:
            continue  # it had been accepted before the listener closed
        except ConnectionRefusedError:
            return True
    return False


def echo(key: Hashable, path: str, accept: str) -> Response:
    return Response(200, f"{key} {path}".encode(), headers=(("X-Test", "yes"),))


def test_listeners_answer_by_key_and_close_when_no_longer_wanted(served: Listeners) -> None:
    first, second = free_port(), free_port()
    served.want("g", {"one": ListenAddress("127.0.0.1", first), "two": ListenAddress("127.0.0.1", second)}, echo)
    eventually(first)
    assert get(first, "/x?y=1")[:2] == (200, b"one /x")
    assert get(second, "/z")[:2] == (200, b"two /z")
    status, body, headers = get(first, "/x", "HEAD")
    assert (status, body, headers["X-Test"], headers["Content-Length"]) == (200, b"", "yes", "6")
    served.want("other", {}, echo)
    assert get(first)[0] == 200
    served.want("g", {"two": ListenAddress("127.0.0.1", second)}, echo)
    assert refused_within(first, 5)
    assert get(second)[0] == 200


def test_an_address_in_use_is_tried_again_until_it_is_free(
    served: Listeners, faults: SimpleQueue[Sequence[Fault]]
) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = int(holder.getsockname()[1])
        served.want("g", {"one": ListenAddress("127.0.0.1", port)}, echo)
        (fault,) = faults.get(timeout=5)
        assert fault == Fault("g", "one", ListenAddress("127.0.0.1", port), "Address already in use", in_use=True)
    assert eventually(port)[0] == 200
    assert faults.get(timeout=5) == []
    assert faults.empty()


@pytest.mark.parametrize(
    ("port", "in_use", "severity"),
    [(10256, True, Severity.ERROR), (10256, False, Severity.WARNING), (8080, True, Severity.WARNING)],
)
def test_a_port_of_kube_proxy_in_use_names_it(port: int, in_use: bool, severity: Severity) -> None:
    said: list[object] = []
    server = Server(Config(), "ipvs", (), said.append)
    server._report_faults([Fault("agent", "health", ListenAddress("0.0.0.0", port), "it says so", in_use)])
    (message,) = said
    assert isinstance(message, Findings)
    (finding,) = message.findings
    assert finding.severity is severity and finding.subject == f"0.0.0.0:{port}"
    assert ("delete daemonset kube-proxy" in finding.reason) is (severity is Severity.ERROR)


def test_one_client_that_says_nothing_holds_up_nobody(served: Listeners) -> None:
    port = free_port()
    served.want("g", {"one": ListenAddress("127.0.0.1", port)}, echo)
    eventually(port)
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    began = time.monotonic()
    assert get(port)[0] == 200
    assert time.monotonic() - began < 5
    for client in idle:
        client.close()


def test_slow_clients_make_room_for_new_ones(served: Listeners) -> None:
    port = free_port()
    served.want("g", {"one": ListenAddress("127.0.0.1", port)}, echo)
    eventually(port)
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(listeners_module.REQUESTS_AT_ONCE)]
    for client in slow:
        client.sendall(b"GET / HTTP/1.0\r\nX: ")
    for _ in range(3):
        assert get(port)[0] == 200
    slow[0].settimeout(5)
    assert slow[0].recv(1) == b"", "the oldest went"
    slow[-1].settimeout(5)
    slow[-1].sendall(b"y\r\n\r\n")
    assert slow[-1].recv(100).startswith(b"HTTP/1.0 200")
    for client in slow:
        client.close()


def test_a_client_that_drips_is_cut_off(served: Listeners, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners_module, "REQUEST_WITHIN", 0.5)
    port = free_port()
    served.want("g", {"one": ListenAddress("127.0.0.1", port)}, echo)
    eventually(port)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.0\r\nX: ")
        client.settimeout(0.1)
        deadline = time.monotonic() + 5
        while True:
            assert time.monotonic() < deadline, "each byte won more time"
            try:
                client.sendall(b"y")
                if not client.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break


def test_threads_that_cannot_be_started_take_no_places(served: Listeners, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    served.want("g", {"one": ListenAddress("127.0.0.1", port)}, echo)
    eventually(port)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(listeners_module.REQUESTS_AT_ONCE):
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                get(port)
    (server,) = (server for _, server in served._open.values())
    assert not server._requests
    assert get(port)[0] == 200


def test_what_systemd_is_told(tmp_path: object) -> None:
    clock = Clock()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{tmp_path}/notify")
        systemd.settimeout(5)
        supervisor = Supervisor({"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "20000000"}, clock)
        supervisor.ready()
        supervisor.heartbeat()
        supervisor.heartbeat()  # too early to say it again
        supervisor.status("in sync")
        supervisor.status("in sync")
        clock.now += 5
        supervisor.heartbeat()
        supervisor.stopping()
        said = [systemd.recv(1000) for _ in range(5)]
    assert said == [b"READY=1", b"WATCHDOG=1", b"STATUS=in sync", b"WATCHDOG=1", b"STOPPING=1"]
    assert Supervisor({}).watchdog is None
    assert Supervisor({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).watchdog is None


def test_nobody_listens_for_what_we_tell() -> None:
    Supervisor({}).ready()
    Supervisor({"NOTIFY_SOCKET": "/nowhere/at/all"}).ready()


def test_health_checks_of_services(served: Listeners, health: Health, clock: Clock) -> None:
    """Each family for itself, any path, and no opinion of a Node that leaves."""
    port = free_port()
    key = ServiceKey("shop", "web")
    services = ServiceHealth(served, health)
    services.serve({key: HealthCheck(key, port, {Family.IPV4: 2, Family.IPV6: 0})}, None)
    status, body, headers = eventually(port)
    assert (status, headers["X-Load-Balancing-Endpoint-Weight"], headers["X-Content-Type-Options"]) == (
        200,
        "2",
        "nosniff",
    )
    assert json.loads(body) == {
        "service": {"namespace": "shop", "name": "web"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    health.set_node(Node(name="a", leaving=True))
    assert get(port, "/whatever")[0] == 200
    health.mark_waiting()
    clock.now += 60
    assert get(port)[0] == 503
    health.mark_synced()
    services.serve({key: HealthCheck(key, port, {Family.IPV4: 0})}, (Address("127.0.0.1"),))
    deadline = time.monotonic() + 5
    while eventually(port)[0] != 503:  # another address: closed, and opened again
        assert time.monotonic() < deadline
    services.serve({}, None)
    assert refused_within(port, 5)


def test_health_checks_where_node_ports_are_restricted(
    served: Listeners, health: Health, faults: SimpleQueue[Sequence[Fault]]
) -> None:
    """There, and on load balancer addresses, which need not be the node's yet: that is no fault."""
    port = free_port()
    key = ServiceKey("shop", "web")
    families = {Family.IPV4: 1, Family.IPV6: 1}
    to_come = Address("192.0.2.77"), Address("2001:db8::77")
    services = ServiceHealth(served, health)
    services.serve({key: HealthCheck(key, port, families, to_come)}, ())
    services.serve({key: HealthCheck(key, port, families, to_come)}, (Address("127.0.0.1"),))
    assert eventually(port)[0] == 200
    assert {(place.host, place.port) for place, _ in served._open.values()} == {
        ("127.0.0.1", port),
        *((address, port) for address in to_come),
    }
    services.serve({key: HealthCheck(key, port, families, (Address("127.0.0.1"),))}, ())
    services.serve({}, None)
    assert refused_within(port, 5)
    assert faults.empty()


def test_an_address_that_is_not_there_is_a_fault_elsewhere(
    served: Listeners, faults: SimpleQueue[Sequence[Fault]]
) -> None:
    served.want("g", {"one": ListenAddress("192.0.2.77", free_port())}, echo)
    (fault,) = faults.get(timeout=5)
    assert fault.why == "Cannot assign requested address"
