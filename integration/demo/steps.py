"""The demo's steps, in order. Each does what an operator would do, and claims what must follow."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from integration.demo.agent import Agent, AgentError
from integration.demo.backends import Backend, Programmed
from integration.demo.cluster import CLIENT_POD, THIS_NODE, Cluster, ServicePort
from integration.demo.spread import COLUMNS, PER_ENDPOINT, Spread, give, measure, per_endpoint, row
from integration.demo.stage import Stage
from integration.lab import Lab, Load, Namespace, Report, Server, Servers, Target, send_requests
from integration.lab.load import Conversation
from integration.waiting import wait_until

START_LIMIT = 40.0
CHANGE_LIMIT = 10.0
POLL = 0.02
RATE = 80.0
DRAINED = "online-boutique/cartservice:grpc"
INTERFACE = "kube-ipvs0"

T = TypeVar("T")


class Demo:
    """The state that the steps share. Closing it stops the agent, the servers and the lab, in that order."""

    def __init__(self, stage: Stage, directory: Path, backend: Backend, *, seconds: float, show_all: bool) -> None:
        self._stage = stage
        self._backend = backend
        self._seconds = seconds
        self._show_all = show_all
        source = directory / "objects"
        source.mkdir()
        self.cluster = Cluster(source, localhost=backend.localhost)
        self._directory = directory
        self._requests = 0
        self._lost = 0
        self._first_answer = ""
        self._restart_writes: int | None = None
        self.lab: Lab | None = None
        self.agent: Agent | None = None
        self.servers: Servers | None = None

    def run(self) -> None:
        self.build()
        self.start()
        self.spread()
        self.inspect()
        self.drain()
        self.crash()
        self.remove()

    def figures(self) -> str:
        """The verdict's: what was sent and lost, and the two times and counts that operators ask for first."""
        figures = [f"{self._requests:,} requests, {self._lost} lost"]
        if self._first_answer:
            figures.append(f"default/kubernetes answered {self._first_answer} after the start")
        if self._restart_writes is not None:
            figures.append(f"restart with {self._restart_writes} writes")
        return "; ".join(figures)

    def close(self) -> None:
        for part in (self.agent, self.servers, self.lab):
            if part is not None:
                part.close()

    def build(self) -> None:
        """(a)"""
        stage, cluster = self._stage, self.cluster
        stage.headline("A shop on three nodes")
        began = time.monotonic()
        topology = cluster.topology()
        self.lab = Lab(topology)
        self._backend.prepare(self.lab)
        self.servers = Servers()
        listed = cluster.servers()
        self.servers.add(self.lab, listed)
        seconds = time.monotonic() - began
        pods = sum(len(machine.pods) for machine in topology.machines) - 1
        stage.say(
            f"{len(cluster.services)} Services, {len(cluster.slices)} EndpointSlices, {len(topology.machines)} "
            f"machines, {pods} pods; this node is {THIS_NODE}. Built in {seconds:.1f} s."
        )
        reachable = send_requests(self._node, [Target(s.address, s.port, s.protocol) for s in listed], len(listed))
        expected = {server.name for server in listed}
        stage.claim(
            "every endpoint answers at its own address",
            not reachable.lost and set(reachable.spread) == expected,
            f"{reachable} ({len(listed)} servers, TCP and UDP)",
        )

    def start(self) -> None:
        """(b)"""
        stage = self._stage
        options = "".join(f" {word}" for word in self._backend.options)
        stage.headline(f"ipvsagent run --source {self.cluster.directory} --hostname-override {THIS_NODE}{options}")
        self._backend.introduce(stage)
        api = self.cluster.service_port("default/kubernetes:https")
        self.agent = Agent(self._node, self.cluster.directory, self._directory, self._backend.options)
        # In short: until something is programmed nobody answers, and what is asked then says nothing.
        load = Load(self._pod, api.cluster_ip, rate=RATE, timeout=0.3)
        try:
            self.agent.start()
            with stage.live("waiting until it is in sync"):
                start = self.agent.wait_in_sync(START_LIMIT)
                answered = _until(lambda: load.so_far().answered)
        finally:
            load.stop()
        stage.say(
            f"process started to in sync: {start.seconds:.2f} s ({start.writes} writes to the kernel). "
            "Starting Python is most of it."
        )
        if answered:
            self._first_answer = f"{answered[0].begun + answered[0].seconds - self.agent.began:.2f} s"
        figures = f"first answer {self._first_answer} after the start" if answered else "no answer"
        stage.claim("default/kubernetes answers a pod", bool(answered), figures)

    def spread(self) -> None:
        """(c)"""
        stage = self._stage
        stage.headline("Requests from a pod, from the node itself, and from outside")
        ports = self.cluster.service_ports()
        spreads: list[Spread] = []
        total = Report(())
        with stage.live("requests") as progress:
            for port in ports:
                clients = (self._pod, self._node, self._outside)
                spreads.append(measure(port, clients, at_random=self._backend.at_random))
                total += spreads[-1].total
                progress(str(total))
        self._count(total)
        stage.table(COLUMNS, [row(spread) for spread in spreads])
        slow = f"median {total.latency(0.5) * 1000:.0f} ms, 99 of 100 within {total.latency(0.99) * 1000:.0f} ms"
        stage.claim("every request is answered", not total.lost, f"{total}; {slow}")
        wrong = [f"{s.port.name} by {', '.join(s.strangers)}" for s in spreads if s.strangers]
        stage.claim("by an endpoint of its Service", not wrong, "; ".join(wrong))
        uneven = [spread.port.name for spread in spreads if not spread.is_even]
        what = "in even shares, as far as chance goes" if self._backend.at_random else "in even shares"
        share = f"{3 * per_endpoint(self._backend.at_random)} for each endpoint, {give(self._backend.at_random)}"
        stage.claim(what, not uneven, ", ".join(uneven) or share)
        others = [target for port in ports for target in port.others]
        outside = send_requests(self._outside, others, 10 * len(others))
        self._count(outside)
        stage.claim(
            "load balancer address and node port answer outside",
            not outside.lost,
            f"{', '.join(map(str, others))}: {outside}",
        )
        if at_home := [target for port in ports for target in port.at_home]:
            inside = send_requests(self._node, at_home, 10 * len(at_home))
            self._count(inside)
            stage.claim("node port answers the node at 127.0.0.1", not inside.lost, str(inside))

    def inspect(self) -> None:
        """(d)"""
        stage, agent = self._stage, self._agent
        stage.headline("ipvsagent status")
        stage.quote(agent.status().splitlines(), None if self._show_all else 22)
        self._backend.compare_status(stage, self._node, agent)
        programmed = self._programmed
        targets = [(port, target) for port in self.cluster.service_ports() for target in port.targets]
        different = [
            str(target)
            for port, target in targets
            if set(programmed.get(str(target), {})) != {f"{s.address}:{s.port}" for s in port.endpoints}
        ]
        stage.claim(
            "as the objects say, and nothing else",
            not different and len(programmed) == len(targets),
            ", ".join(different) or f"{len(targets)} addresses of {len(self.cluster.service_ports())} Service ports",
        )

    def drain(self) -> None:
        """(e)"""
        stage = self._stage
        port = self.cluster.service_port(DRAINED)
        leaving = next(s for s in port.endpoints if s.name not in self._lab.pods)  # one on another node
        stage.headline(f"A pod of {port.service} goes: {leaving.name}")
        name, place = str(port.cluster_ip), f"{leaving.address}:{leaving.port}"
        conversation = self._converse_with(leaving, port)
        load = Load(self._pod, port.cluster_ip, rate=RATE)
        try:
            began = time.monotonic()
            self.cluster.set_conditions(leaving, ready=False, terminating=True)
            drained = wait_until(
                lambda: self._weight(name, place) == self._backend.drained_weight, limit=CHANGE_LIMIT, pause=POLL
            )
            noticed = time.monotonic()
            what = f"{self._backend.drained} {noticed - began:.2f} s after the file was written"
            stage.claim("not ready and terminating: no new connections", drained, what if drained else "not so")
            later = wait_until(
                lambda: len(load.so_far().since(noticed).outcomes) >= 3 * PER_ENDPOINT, limit=CHANGE_LIMIT, pause=POLL
            )
            new = load.so_far().since(noticed)
            stage.claim(
                "new ones go elsewhere",
                bool(later) and leaving.name not in new.spread,
                ", ".join(f"{server} {count}" for server, count in sorted(new.spread.items())),
            )
            asked = [conversation.ask() for _ in range(10)]
            going_on = all(outcome.server == leaving.name for outcome in asked)
            stage.claim(self._backend.goes_on, going_on, f"10 more requests on it: {Report(tuple(asked))}")
            conversation.close()
            began = time.monotonic()
            self.cluster.remove(leaving)
            if self._backend.drained_weight is not None:  # else it is out already
                gone = _until(lambda: place not in self._programmed.get(name, {}))
                figures = f"after {time.monotonic() - began:.2f} s" if gone else "not so"
                stage.claim("out of its slice, out of the kernel", bool(gone), figures)
            with stage.live("load") as progress:
                _watch(load, 0.5, progress)
        finally:
            conversation.close()
            report = load.stop()
        self._count(report)
        stage.claim("no request lost meanwhile", not report.lost, f"{report} ({RATE:.0f} a second)")

    def crash(self) -> None:
        """(f)"""
        stage, agent = self._stage, self._agent
        stage.headline("kill -9 under load, and a new start")
        targets = [port.cluster_ip for port in self.cluster.service_ports()]
        before = self._programmed
        load = Load(self._pod, targets, rate=RATE)
        try:
            with stage.live("load") as progress:
                _watch(load, self._seconds / 3, progress)
                killed = time.monotonic()
                agent.kill()
                stage.say("killed; nobody looks after the node now")
                _watch(load, self._seconds / 3, progress)
                away = load.so_far().since(killed)
                agent.start()
                start = agent.wait_in_sync(START_LIMIT)
                _watch(load, self._seconds / 3, progress)
        finally:
            report = load.stop()
        self._count(report)
        self._restart_writes = start.writes
        stage.say(f"in sync again {start.seconds:.2f} s after the new start")
        stage.claim("without an agent Services go on", bool(away.outcomes) and not away.lost, str(away))
        stage.claim("the new one finds everything in place", start.writes == 0, f"{start.writes} writes")
        document = agent.status_document()["agent"] or {}
        drift = sum(document.get("drift", {}).values())
        ops = document.get("ops_written")
        stage.claim("and has written nothing since", ops == 0 and not drift, f"{ops} writes, {drift} rows repaired")
        stage.claim("the kernel holds what it held", self._programmed == before, f"{len(before)} {self._backend.rows}")
        stage.claim("no request lost", not report.lost, f"{report} ({RATE:.0f} a second)")

    def remove(self) -> None:
        """(g)"""
        stage, agent = self._stage, self._agent
        stage.headline("Stop, then ipvsagent cleanup --yes")
        status = agent.stop()
        ports = self.cluster.service_ports()
        after = send_requests(self._pod, [port.cluster_ip for port in ports], 2 * len(ports))
        self._count(after)
        stage.claim("SIGTERM ends it and leaves Services working", status == 0 and not after.lost, str(after))
        stage.quote(agent.cleanup().splitlines())
        left = self._programmed
        stage.claim(self._backend.none_left, not left, ", ".join(sorted(left)[:5]))
        links = self._node.run("ip", "-brief", "link", "show")
        stage.claim(f"no interface {INTERFACE}", INTERFACE not in links)
        rules = self._packet_rules_and_sets()
        stage.claim("no packet rule, no set", not rules, ", ".join(rules[:5]))
        refused = send_requests(self._pod, ports[0].cluster_ip, 3, timeout=0.3)
        stage.claim("and nobody answers any more", len(refused.lost) == 3, str(refused))

    def _packet_rules_and_sets(self) -> list[str]:
        """Of the node. The lab makes none, so whatever is there is the agent's."""
        listings = (["iptables-save"], ["ip6tables-save"], ["ipset", "save"])
        there = [argv for argv in listings if shutil.which(argv[0])]  # what is not there, nobody has used
        lines = [line for argv in there for line in self._node.run(*argv).splitlines()]
        return [line for line in lines if line.startswith(("-A", "create"))]

    def _converse_with(self, server: Server, port: ServicePort) -> Conversation:
        """A long connection that landed on a certain endpoint."""
        for _ in range(10 * len(port.endpoints)):
            try:
                conversation = Conversation(self._pod, port.cluster_ip)
            except OSError as error:
                raise AgentError(f"no connection to {port.name}: {error}") from error
            if conversation.ask().server == server.name:
                return conversation
            conversation.close()
        raise AgentError(f"of many connections to {port.name} none reached {server.name}")

    def _weight(self, name: str, place: str) -> int | None:
        return self._programmed.get(name, {}).get(place)

    def _count(self, report: Report) -> None:
        self._requests += len(report.outcomes)
        self._lost += len(report.lost)

    @property
    def _lab(self) -> Lab:
        assert self.lab is not None
        return self.lab

    @property
    def _node(self) -> Namespace:
        return self._lab.node

    @property
    def _pod(self) -> Namespace:
        """A pod that is nobody's endpoint: one that reaches itself through a Service needs masquerade."""
        return self._lab.pods[CLIENT_POD.name]

    @property
    def _outside(self) -> Namespace:
        return self._lab.client

    @property
    def _agent(self) -> Agent:
        assert self.agent is not None
        return self.agent

    @property
    def _programmed(self) -> Programmed:
        return self._backend.programmed(self._node)


def _until(look: Callable[[], T]) -> T:
    return wait_until(look, limit=CHANGE_LIMIT, pause=POLL)


def _watch(load: Load, seconds: float, progress: Callable[[str], None]) -> None:
    """Waits while the load goes on, and shows its progress."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        progress(str(load.so_far()))
        time.sleep(max(0.0, min(0.1, end - time.monotonic())))
