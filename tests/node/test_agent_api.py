"""The agent as a process that follows an API server, on a kernel: what is programmed while the server comes, goes,
talks nonsense and turns us away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from integration.apiserver import Access, ApiServer, Certificates, Garbage, Refuse
from tests.support.agent_processes import IN_SYNC, Agents, Process
from tests.support.cluster_documents import endpoint_slice, node, service
from tests.support.proxied_node import A, B, C, ProxiedNode, eventually

pytestmark = pytest.mark.kernel


class Cluster:
    """An API server in the node's network, and a kubeconfig whose token is in a file."""

    def __init__(self, place: ProxiedNode, folder) -> None:
        self._place = place
        self.access = Access({"one": "system:node:node-1"}, required=True)
        self.server = ApiServer(certificates=Certificates(), access=self.access)
        self.server.put(node())
        self.address = place.free_address()
        self.server.put(service("web", self.address))
        self.slice(A, B)
        self.up()
        self.token = folder / "token"
        self.token.write_text("one\n")
        self.kubeconfig = self.server.write_kubeconfig(folder / "kubeconfig", {"tokenFile": str(self.token)})

    def up(self) -> None:
        with self._place.node.entered():
            self.server.start()

    def slice(self, *addresses: str) -> None:
        self.server.put(endpoint_slice("web", addresses))

    def pods(self) -> str:
        return "".join(sorted(self._place.weights(self.address)))


@pytest.fixture
def cluster(place, tmp_path) -> Iterator[Cluster]:
    made = Cluster(place, tmp_path)
    yield made
    made.server.stop()


@pytest.fixture
def words(cluster) -> list[str]:
    return ["run", "--kubeconfig", str(cluster.kubeconfig)]


def status(agents: Agents) -> dict[str, Any]:
    return json.loads(agents.end_of("status", "-o", "json").output)["agent"]


def settled(agents: Agents, process: Process) -> int:
    """How many rows were written since the agent started, when there is nothing left to do."""
    assert process.alive
    return eventually(lambda: (found := status(agents))["in_sync"] and found)["ops_written"]


@pytest.mark.parametrize("late", ["services", "endpointslices", "nodes"])
def test_nothing_is_programmed_before_everything_is_listed(place, agents, cluster, words, late):
    cluster.server.faults.add(Refuse(code=503, resource=late, times=None))
    agent = agents.start(*words)
    agent.says(rf"{late} cannot be read since .*: 503.*nothing is programmed yet")
    assert cluster.pods() == "" and "kube-ipvs0" not in place.node.run("ip", "-o", "address")
    cluster.server.faults.clear()
    agent.says(IN_SYNC)
    assert cluster.pods() == "AB"
    agent.says(r"resolved: API server")


def test_a_lost_server_changes_nothing_and_after_it_only_differences_are_written(place, agents, cluster, words):
    agent = agents.in_sync(*words[1:])
    before = settled(agents, agent)
    cluster.server.stop()
    agent.says(r"API server https://127\.0\.0\.1:\d+: .* cannot be read since .* what was known before stays in use")
    assert "NOT connected" in agents.end_of("status").output
    assert set(place.answers(cluster.address, 2)) == {"A", "B"}
    cluster.slice(A, B, C)
    cluster.up()
    eventually(lambda: cluster.pods() == "ABC", 40)
    assert settled(agents, agent) == before + 1, "one real server is one row"


def test_nonsense_and_a_new_token(agents, cluster, words):
    agent = agents.in_sync(*words[1:])
    before = settled(agents, agent)
    cluster.server.faults.add(Garbage(times=2, resource="endpointslices"))
    cluster.access.tokens = {"two": "system:node:node-1"}
    cluster.token.write_text("two\n")
    cluster.server.disconnect()
    cluster.slice(A, B, C)
    eventually(lambda: cluster.pods() == "ABC", 40)
    assert settled(agents, agent) == before + 1
    assert "401" not in agent.log, "the new token was read when the old one was not accepted"
