"""The agent as a process on the kernel of this machine, in a namespace, as if it had no IPVS: what it tells the API.

It needs root, not ip_vs."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.apiserver import Access, ApiServer, Certificates
from integration.apiserver.resources import NEW_EVENTS
from integration.lab import Namespace
from tests.support.cluster_documents import THIS_NODE, endpoint_slice, node, service

CHECKOUT = Path(__file__).resolve().parents[2]
NO_IPVS = """
import sys
from ipvsagent.kernel import host
def absent(*, load):
    raise host.IpvsAbsent("the kernel has no IPVS", "Load it on the host with `modprobe ip_vs`")
host.require_ip_vs = absent
host.ip_vs_presence = lambda: host.IpvsPresence.ABSENT
from ipvsagent.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def place() -> Iterator[Namespace]:
    if os.geteuid() != 0:
        pytest.fail("network namespaces need root: run these tests as root (`sudo make test-native`)", pytrace=False)
    made = Namespace("node")
    made.run("ip", "link", "set", "lo", "up")
    yield made
    made.close()


@pytest.fixture
def server(place) -> Iterator[ApiServer]:
    made = ApiServer(certificates=Certificates(), access=Access({"one": "system:node:node-1"}, required=True))
    for each in (node(), service("good", "10.96.0.10"), endpoint_slice("good", ["10.244.1.1"])):
        made.put(each)
    made.put(service("cart", "10.96.0.11", annotations={"weights": "nonsense"}))
    with place.entered():
        made.start()
    yield made
    made.stop()
    assert not made.breakdowns


@pytest.fixture
def start(place, server, tmp_path) -> Iterator[Any]:
    kubeconfig = server.write_kubeconfig(tmp_path / "kubeconfig")
    made: list[subprocess.Popen[bytes]] = []

    def run(*words: str) -> subprocess.Popen[bytes]:
        given = ["run", "--kubeconfig", str(kubeconfig), "--state-dir", str(tmp_path / "state")]
        given += ["--hostname-override", THIS_NODE, "--oom-score-adj", "0", *words]
        with place.entered(), (tmp_path / "log").open("ab") as log:
            made.append(subprocess.Popen([sys.executable, "-c", NO_IPVS, *given], stderr=log, cwd=CHECKOUT))
        return made[-1]

    yield run
    for process in made:
        process.kill()
        process.wait()


def events(server: ApiServer) -> dict[str, dict[str, Any]]:
    things = [record.decoded() for record in server.store.records(NEW_EVENTS)]
    return {f"{each['regarding']['kind']} {each['regarding']['name']} {each['reason']}": each for each in things}


def waits_for(condition, tmp_path, patience: float = 30.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.05)


def test_fallback_and_a_bad_annotation_are_events(place, server, start, tmp_path):
    agent = start()
    waits_for(lambda: len(events(server)) >= 3, tmp_path)
    found = events(server)
    assert found.keys() == {"Node node-1 Starting", "Node node-1 Fallback", "Service cart InvalidAnnotation"}
    fallback = found["Node node-1 Fallback"]
    assert (fallback["type"], fallback["metadata"]["namespace"]) == ("Warning", "default")
    assert "no IPVS" in fallback["note"] and "modprobe ip_vs" in fallback["note"]
    assert "ipvsagent.io/weights" in found["Service cart InvalidAnnotation"]["note"]
    with place.entered():
        connection = http.client.HTTPConnection("127.0.0.1", 10256, timeout=5)
        connection.request("GET", "/livez")
        (said,) = json.load(connection.getresponse())["fallback"]
        connection.close()
    assert "no IPVS" in said and "modprobe ip_vs" in said
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(10) == 0, "the thread that writes Events holds nobody up"


def test_no_events_where_they_are_switched_off(server, start, tmp_path):
    start("--events", "false")
    waits_for(lambda: " in sync: " in (tmp_path / "log").read_text(), tmp_path)
    assert not events(server) and not [each for each in server.requests if each.resource == "events"]


def test_an_agent_that_cannot_go_on_says_so_before_it_ends(place, server, start, tmp_path):
    taken = place.socket(socket.AF_INET, socket.SOCK_STREAM)
    taken.bind(("0.0.0.0", 10256))
    taken.listen()
    agent = start("--bind-address-hard-fail", "true")
    assert agent.wait(30) == 1, (tmp_path / "log").read_text()
    taken.close()
    note = events(server)["Node node-1 NodeProblem"]["note"]
    assert "ipvsagent: it cannot continue: cannot listen on 0.0.0.0:10256" in note
