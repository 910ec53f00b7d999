"""SIGKILL at any moment, under traffic, while everything changes: nothing steady is lost, and nothing is left over.

Fifty agents die one after the other, half of them while they start, the others while they follow a change. What a start
then writes must be exactly what `plan` says is left to do. Changes and moments come from a seed, which a failure names;
set IPVSAGENT_KILL_SEED to have them again, as far as the timing of a machine allows.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass

import pytest

from integration.lab import Load, Server, Target
from integration.lab.ipvs import virtual_servers
from ipvsagent.backends.assembly import pipeline_for
from ipvsagent.backends.ipvs import IpvsBackend
from ipvsagent.config import Config
from ipvsagent.rows import Op
from ipvsagent.sources.manifests import ManifestSource
from tests.support.agent_processes import IN_SYNC, Agents, Process
from tests.support.cluster_documents import (
    DNS,
    HTTP,
    OTHER_NODE,
    THIS_NODE,
    Document,
    endpoint,
    endpoint_slice,
    service,
)
from tests.support.proxied_node import NAME, PODS, A, B, C, D, ProxiedNode

pytestmark = pytest.mark.kernel

KILLS = 50
RATE = 30.0
STEADY, MIXED = "10.96.9.1", "10.96.9.2"
# A target port of its own: balanced to the same one, two connections of a client that has the same port for both, as
# it may towards different addresses, are one to the pod.
ALT = {"alt": ("TCP", 80, 8081)}


class Cluster:
    """Objects that change by dice. Two Services have traffic: `steady` never changes; of `mixed` the endpoints A and B
    never do, while C and D are taken out and put back. Many others are there or not, with anything."""

    OTHERS = 60

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._others: dict[int, list[Document]] = {}
        self._mixed = [endpoint(A), endpoint(B)]
        for n in range(0, self.OTHERS, 2):
            self._others[n] = self._other(n)

    def change(self) -> None:
        dice = self._dice
        for n in dice.sample(range(self.OTHERS), 24):
            if dice.random() < 0.3:
                self._others.pop(n, None)
            else:
                self._others[n] = self._other(n)
        # Never cut off: what terminates stays listed until it is ready again.
        more = [endpoint(a, dice.choice(["ready", "terminating", "unready"])) for a in (C, D)]
        self._mixed = [endpoint(A), endpoint(B), *more]

    def documents(self) -> list[Document]:
        documents = [service("steady", STEADY), endpoint_slice("steady", [A, B])]
        documents += [service("mixed", MIXED, ALT), endpoint_slice("mixed", self._mixed, ALT)]
        for n in sorted(self._others):
            documents += self._others[n]
        return documents

    def _other(self, n: int) -> list[Document]:
        dice = self._dice
        ports = dice.choice([HTTP, DNS, {**HTTP, **DNS}])
        annotations = dice.choice([{}, {"scheduler": "wrr", "weights": f"{A}=3,*=1"}, {"scheduler": "mh"}])
        affinity = dice.choice([0, 0, 60])
        endpoints = [
            endpoint(address, dice.choice(["ready", "ready", "terminating"]), dice.choice([THIS_NODE, OTHER_NODE]))
            for address in dice.sample(PODS, dice.randint(0, len(PODS)))
        ]
        # Some share an address, which only the last of them may take away.
        address = f"10.96.8.{n // 3}"
        mine = {name: (protocol, port + n % 3, target) for name, (protocol, port, target) in ports.items()}
        local_at = dice.choice(["", f"10.96.7.{n}"])
        made = service(f"other-{n}", address, mine, annotations=annotations, affinity=affinity, local_at=local_at)
        return [made, endpoint_slice(f"other-{n}", endpoints, mine)]


@dataclass
class Tally:
    """What came of the kills. half_done: for each that was hit while it wrote, how much it left to do."""

    compared: int = 0
    half_done: tuple[int, ...] = ()


def left_to_do(place: ProxiedNode, agents: Agents) -> list[Op]:
    """What `ipvsagent plan` prints, without its process."""
    config = Config(sources=(agents.source,), node_name=THIS_NODE, state_dir=agents.state_dir)
    ops: list[Op] = []
    with place.node.entered():
        node = IpvsBackend.open(config)
        pipeline = pipeline_for(config, node.recorder(ops), window=0, scheduler_works=node.scheduler_works)
        pipeline.set_node_addresses(node.addresses.node_addresses())
        changes, findings = ManifestSource(config.sources).load_once()
        assert not findings
        pipeline.apply_changes(changes, 0.0)
        pipeline.start(0.0)
        node.ipvs.close()
        node.addresses.close()
    return ops


def weights(place: ProxiedNode) -> dict[str, dict[str, int]]:
    return {
        virtual: {real: server.weight for real, server in reals.items()}
        for virtual, reals in virtual_servers(place.node).items()
    }


def test_fifty_kills(place: ProxiedNode, agents: Agents) -> None:
    place.servers.add(place.lab, [Server(NAME[address], address, 8081) for address in PODS])
    seed = int(os.environ.get("IPVSAGENT_KILL_SEED") or random.SystemRandom().randrange(1 << 32))
    dice = random.Random(seed)
    cluster = Cluster(dice)
    agents.wants(*cluster.documents())
    began = time.monotonic()
    agent = agents.in_sync()
    usual = time.monotonic() - began
    load = Load(place.client, [Target(STEADY, 80), Target(MIXED, 80)], rate=RATE)
    try:
        with place.held(STEADY, 4) as conversations:
            servers = [each.ask().server for each in conversations]
            tally = kill_again_and_again(place, agents, cluster, dice, agent, usual)
            outcomes = [each.ask() for each in conversations]
            assert [outcome.server for outcome in outcomes] == servers, f"seed {seed}: {outcomes}"
    finally:
        report = load.stop()
    print(f"seed {seed}: {tally}; {report}")
    assert len(report.answered) > 10 * KILLS, f"seed {seed}: {report}"
    assert not report.lost, f"seed {seed}: {report}: {[str(outcome.target) for outcome in report.lost]}"
    assert len(tally.half_done) >= 5, f"seed {seed}: too few kills hit a write for this to be a test: {tally}"
    # And in the end the commands say that all is repaired, and a start from nothing comes to the same.
    assert agents.in_sync().stop() == 0
    planned = agents.end_of("plan")
    assert (planned.wait(), planned.output) == (0, ""), f"seed {seed}: {planned.output}"
    held = {line for line in place.saved() if not line.endswith(" -w 0")}
    place.node.run("ipvsadm", "-C")
    assert agents.end_of("run", "--once").wait() == 0
    assert held == place.saved(), f"seed {seed}"


def kill_again_and_again(
    place: ProxiedNode, agents: Agents, cluster: Cluster, dice: random.Random, agent: Process, usual: float
) -> Tally:
    """By turns: an agent is killed while it follows a change; the next while it starts on that and more changes; and
    the one after must find exactly what `plan` finds, and goes on. usual: seconds of a start."""
    tally = Tally()
    for number in range(KILLS):
        before = weights(place)
        cluster.change()
        agents.wants(*cluster.documents())
        if number % 2:
            agent = agents.start("run")
        if number % 4 < 2:
            time.sleep(dice.uniform(0, 1.3 * usual))
        else:
            # Soon after its first write, when there are more to come.
            deadline = time.monotonic() + 1.3 * usual
            while weights(place) == before and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(dice.uniform(0, 0.02))
        agent.kill()
        left = left_to_do(place, agents)
        if left and weights(place) != before:
            tally.half_done += (len(left),)
        if number % 2:
            agent = agents.start("run")
            written = int(agent.says(IN_SYNC)[1])
            assert written == len(left), f"kill {number}: {len(left)} were left to do, the start wrote {written}"
            tally.compared += 1
    agent.kill()
    return tally
