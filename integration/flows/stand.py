"""One network, one agent on its node, and every case of the table that runs there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path

from integration.apiserver import Access, ApiServer, Certificates
from integration.flows import network
from integration.flows.neighbours import NEIGHBOURS, Site, install
from integration.flows.neighbours.bans import ban
from integration.flows.neighbours.calico import put_calico_first
from integration.flows.table import Case, StandRow, Table
from integration.flows.verdict import Result, judge
from integration.lab import Failure, Lab, LabError, Namespace, Outcome, Question, Servers, ask
from integration.nursery import Child, nursery
from integration.waiting import wait_until

START_LIMIT = 60.0
HOLDS_AFTER = 2.0  # a denial that somebody appends behind rules of the agent
CALICO_REFRESHES = 0.5  # Felix does so each 90 s
POLL = 0.02
IN_SYNC = re.compile(r" in sync: ")

# An answer takes as long as the guest is slow; silence is believed after less.
ANSWER_LIMIT, SILENCE = 4.0, 1.5
# Refusals are timed, so few are under way at once.
ANSWERS_AT_ONCE, REFUSALS_AT_ONCE = 24, 3

# Set by the stand, and looked for behind the agent's rules: bits that are somebody else's. The upper ones are the mark
# by which agents up to 0.1.0 named the virtual server for this node's own clients of TCP port 80 of e-split.
FOREIGN = "0x400a0"
_MARK_OF_OLD = (int.from_bytes(hashlib.blake2s(b"flows/e-split:tcp", digest_size=8).digest()) % 2047 + 1) << 20

# What every firewall that drops lets in, and ssh. Neither Services nor anything of theirs.
_DROPS = """*filter
:INPUT DROP
:FORWARD DROP
:OUTPUT {output}
-A INPUT -i lo -j ACCEPT
-A OUTPUT -o lo -j ACCEPT
-A INPUT -p tcp --dport 22 -j ACCEPT
-A OUTPUT -p tcp --sport 22 -j ACCEPT
{neighbours}COMMIT
"""
_NEIGHBOURS = "".join(
    f"-A {chain} -p ipv6-icmp --icmpv6-type {kind} -j ACCEPT\n"
    for chain in ("INPUT", "OUTPUT")
    for kind in (133, 134, 135, 136)
)
_MARKS = """*raw
-A PREROUTING -j MARK --set-xmark {mark}
-A OUTPUT -j MARK --set-xmark {mark}
COMMIT
"""
_MARKED = {"marks": f"{FOREIGN}/{FOREIGN}", "marks of old": f"{_MARK_OF_OLD:#x}/{_MARK_OF_OLD:#x}"}
# What the agent says would let traffic of Services through.
_REMEDY = re.compile(r"`(ip6?tables -I \S+ \d+ -j IPVSAGENT-\S+)`")
# Counts what leaves by a device, behind all of netfilter: with the right bits in its mark, and without. Reports of
# multicast groups are the kernel's own: Linux 6.1 sends some with a mark as soon as a link is up.
_COUNT = """qdisc add dev {device} clsact
filter add dev {device} egress protocol ip prio 1 u32 match mark {bits} {mask} action pass
filter add dev {device} egress protocol ipv6 prio 2 u32 match mark {bits} {mask} action pass
filter add dev {device} egress protocol ip prio 3 u32 match u32 0 0 action pass
filter add dev {device} egress protocol ipv6 prio 4 u32 match ip6 dst ff00::/8 action pass
filter add dev {device} egress protocol ipv6 prio 5 u32 match u32 0 0 action pass
"""
# By what a stand's host has: bits and mask of what is right, and what it means if they are not.
_RIGHT = {
    "marks": (FOREIGN, FOREIGN, "lost another program's mark"),
    "unmarked": ("0", "0xffffbfff", "have a mark"),
}
_COUNTED = re.compile(r"pref (\d+) u32 .* success (\d+)\)")
_DEVICES = ("eth0", "pod0", "pod1")
_TOOLS = {4: "iptables", 6: "ip6tables"}


def sees_marks() -> bool:
    """Whether this kernel can count packets by their marks, behind all of netfilter."""
    with contextlib.closing(Namespace("marks")) as namespace:
        namespace.ip(["link add mark0 type veth peer name mark1"])
        try:
            namespace.run("tc", "-batch", "-", stdin=_COUNT.format(device="mark0", bits=FOREIGN, mask=FOREIGN))
        except LabError:
            return False
    return True


class Through(Enum):
    FILES = "files"
    API = "api"


class Stand:
    """A network with one agent, built on entry and removed on exit. through: where the agent reads Services."""

    def __init__(self, row: StandRow, table: Table, through: Through = Through.FILES) -> None:
        self.row = row
        self._backend = table.backend
        self._through = through
        self.log = ""
        self._table = table
        self._counts = row.host == "marks" or (row.host == "unmarked" and sees_marks())
        used = {case.service for case in table.cases if case.stand == row.name}
        self._services = [service for service in table.services if service.name in used]
        self._node_addresses = network.node_addresses(bridged=row.bridged)
        self._neighbours = [word.strip() for word in row.host.split("+")]
        self._has_policies = "calico" in self._neighbours

    def __enter__(self) -> Stand:
        self._directory = tempfile.TemporaryDirectory(prefix="flows-")
        self._agent: Agent | None = None
        self._api: ApiServer | None = None
        self._lab = Lab(network.topology(bridged=self.row.bridged, policies=self._has_policies))
        self._servers = Servers()
        try:
            self._servers.add(self._lab, network.servers(policies=self._has_policies))
            self._servers.add(self._lab, network.host_servers(), at=self._lab.node)
            self._prepare_host()
            for word in self._neighbours:
                if word in NEIGHBOURS:
                    install(word, self._site())
            self._serve_dns()
            directory = Path(self._directory.name)
            words = ["--backend", self._backend, *self._source(directory)]
            self._agent = Agent(self._lab.node, directory, words, self.row)
            self._await_listeners()
            self._change_host()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._agent:
            self._agent.close()
            self.log = self._agent.log
        if self._api:
            self._api.stop()
        self._servers.close()
        self._lab.close()
        self._directory.cleanup()

    @property
    def node(self) -> Namespace:
        return self._lab.node

    @contextlib.contextmanager
    def agent_halted(self) -> Iterator[None]:
        """Halts the agent, so that it repairs nothing."""
        assert self._agent
        self._agent.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._agent.signal(signal.SIGCONT)

    def results(self, cases: Sequence[Case]) -> list[Result]:
        """Asks the cases, and returns the results in their order."""
        with self._calico_refreshed():
            return self._results(cases)

    def _results(self, cases: Sequence[Case]) -> list[Result]:
        found: dict[Case, Result] = {}
        refused = [case for case in cases if case.answer == "refused"]
        quiet = [case for case in cases if case.answer in ("silence", "closed")]
        answered = [case for case in cases if case not in set(refused) | set(quiet)]
        for group, at_once, limit in (
            (answered, ANSWERS_AT_ONCE, ANSWER_LIMIT),
            (refused, REFUSALS_AT_ONCE, SILENCE),
            (quiet, len(quiet), SILENCE),
        ):
            found |= {r.case: r for r in self._asked(group, at_once, limit)}
        return [found[case] for case in cases]

    def faults_of_the_host(self) -> list[str]:
        """Returns what the agent did wrong to other programs, or does not know of them."""
        faults = self._faults_of_check()
        return [*faults, *self._faults_of_marks()] if self._counts else faults

    def _faults_of_check(self) -> list[str]:
        """Returns how the neighbours that `ipvsagent check` names differ from the table's."""
        if not self.row.check:
            return []
        words = ["-m", "ipvsagent", "check", "-o", "json", "--backend", self._backend]
        # 1: something keeps an agent from working here, as the other agent does.
        answer = self._lab.node.run("sh", "-c", f"{sys.executable} {' '.join(words)} || test $? = 1")
        names = {check["name"].removeprefix("neighbour ") for check in json.loads(answer)["neighbours"]}
        if names == self.row.check:
            return []
        return [f"check names {', '.join(sorted(names)) or 'nobody'}, not {', '.join(sorted(self.row.check))}"]

    def _faults_of_marks(self) -> list[str]:
        *_, fault = _RIGHT[self.row.host]
        faults = []
        seen = 0
        for device in _DEVICES:
            listing = self._lab.node.run("tc", "-s", "filter", "show", "dev", device, "egress")
            passed = {int(priority): int(count) for priority, count in _COUNTED.findall(listing)}
            for family, right, wrong in (("IPv4", passed[1], passed[3]), ("IPv6", passed[2], passed[5])):
                seen += right
                if wrong:
                    faults.append(f"{device} {family}: {wrong} packets {fault}, {right} are right")
        return faults if seen else ["no packet had a mark that is right"]

    def _asked(self, cases: Sequence[Case], at_once: int, limit: float) -> list[Result]:
        clients = [network.client_of(case) for case in cases]
        questions = [
            Question(self._namespace(client.machine), network.target(case, self._table), client.address)
            for case, client in zip(cases, clients, strict=True)
        ]
        outcomes: list[Outcome] = ask(questions, concurrency=at_once, timeout=limit)
        return [
            judge(case, outcome, client.address, self._node_addresses)
            for case, client, outcome in zip(cases, clients, outcomes, strict=True)
        ]

    def _await_listeners(self) -> None:
        """Waits for the health check listeners, which another thread opens a moment after the agent is in sync."""
        questions = [Question(self._lab.node, target) for target in network.health_checks(self._services)]

        def listening() -> bool:
            return all(outcome.failure is not Failure.REFUSED for outcome in ask(questions))

        wait_until(listening, limit=ANSWER_LIMIT, pause=POLL)

    def _source(self, directory: Path) -> list[str]:
        """Returns the agent's options for its source."""
        documents = network.documents(self._services)
        if self._through is Through.FILES:
            objects = directory / "objects"
            objects.mkdir()
            (objects / "flows.json").write_text(documents)
            return ["--source", str(objects)]
        self._api = ApiServer(certificates=Certificates(), access=Access({"flows": network.THIS_NODE}, required=True))
        self._api.put(json.loads(documents))
        with self._lab.node.entered():
            self._api.start()
        return ["--kubeconfig", str(self._api.write_kubeconfig(directory / "kubeconfig"))]

    def _namespace(self, machine: str) -> Namespace:
        return self._lab.at(network.ADDRESSES[machine][0])

    def _prepare_host(self) -> None:
        node = self._lab.node
        if self._backend == "iptables":
            # Addresses of Services are nowhere here, so the node must have some way there: every node's default route.
            node.ip(f"route del unreachable {own}" for own in network.SERVICE_NETWORKS)
        if self.row.bridged:
            # As a bridge CNI with hairpinMode and every distribution of Kubernetes set them.
            node.set_kernel({"net/bridge/bridge-nf-call-iptables": "1", "net/bridge/bridge-nf-call-ip6tables": "1"})
            node.ip(f"link set pod{number} type bridge_slave hairpin on" for number in range(2))
        for version, tool in _TOOLS.items():
            if self.row.host.startswith("drops"):
                output = "DROP" if "drops all" in self._neighbours else "ACCEPT"
                rules = _DROPS.format(output=output, neighbours=_NEIGHBOURS if version == 6 else "")
                node.run(f"{tool}-restore", "--noflush", stdin=rules)
            elif mark := _MARKED.get(self.row.host):
                node.run(f"{tool}-restore", "--noflush", stdin=_MARKS.format(mark=mark))
        if self._counts:
            bits, mask, _ = _RIGHT[self.row.host]
            counts = [_COUNT.format(device=device, bits=bits, mask=mask) for device in _DEVICES]
            node.run("tc", "-batch", "-", stdin="".join(counts))

    def _site(self) -> Site:
        """Returns what neighbours need to know. The pod with host ports is pod-b; the stranger is banned."""
        addresses = network.ADDRESSES
        dns, *_ = network.caches(self._services)
        return Site(
            self._lab.node,
            addresses["node"],
            self._lab.pods["pod-b"],
            addresses["pod-b"],
            dns=tuple(dns),
            clients=addresses["stranger"],
            docker_bridge="pod1",
            services=tuple(network.service_addresses(self._services)),
        )

    def _serve_dns(self) -> None:
        """Starts caches on the cluster IP of DNS, on both nodes."""
        if "node-local-dns" not in self._neighbours:
            return
        addresses, here, there = network.caches(self._services)
        other = self._lab.machines[network.OTHER_NODE]
        other.ip(f"address add {address} dev lo{' nodad' if ':' in address else ''}" for address in addresses)
        self._servers.add(self._lab, here, at=self._lab.node)
        self._servers.add(self._lab, there, at=other)

    def _change_host(self) -> None:
        """Does what others do while the agent runs: bans a pod of the other node, or applies the agent's remedy."""
        node, banned = self._lab.node, network.ADDRESSES["pod-s"]
        if "banned" in self._neighbours:
            ban(node, banned)
        if "denies later" in self._neighbours:
            for address in banned:
                node.run("ip6tables" if ":" in address else "iptables", "-A", "INPUT", "-s", address, "-j", "DROP")
            time.sleep(HOLDS_AFTER)
        if "firewalld eth0" in self._neighbours:
            assert self._agent
            commands = dict.fromkeys(_REMEDY.findall(self._agent.log))
            if not commands:
                raise LabError("the agent named no command that lets Service traffic through")
            for command in commands:
                node.run(*command.split())

    @contextlib.contextmanager
    def _calico_refreshed(self) -> Iterator[None]:
        """Moves Calico's jumps to the front again and again, as Calico does, if the stand has it."""
        if not self._has_policies:
            yield
            return
        over = threading.Event()

        def refresh() -> None:
            while not over.wait(CALICO_REFRESHES):
                put_calico_first(self._lab.node)

        with ThreadPoolExecutor(1) as threads:
            refreshing = threads.submit(refresh)
            try:
                yield
            finally:
                over.set()
                refreshing.result()


class Agent:
    """`ipvsagent run` as an operator runs it. The constructor waits until it is in sync."""

    def __init__(self, namespace: Namespace, directory: Path, source: Sequence[str], row: StandRow) -> None:
        words = ["run", *source, "--state-dir", str(directory / "state")]
        words += ["--hostname-override", network.THIS_NODE, "--allow-external-ips", network.EXTERNAL_IPS]
        meaning = {"PODS": network.CLUSTER_CIDRS, "SERVICES": network.SERVICE_CIDRS}
        words += [meaning.get(word, word) for word in row.agent]
        stem = directory / "agent"
        self._process = Child(nursery().start(words, namespace.path, stem), stem)
        self._wait()

    @property
    def log(self) -> str:
        return self._process.log

    def signal(self, number: signal.Signals) -> None:
        self._process.send(number)

    def close(self) -> None:
        self._process.close()

    def _wait(self) -> None:
        if not wait_until(self._is_in_sync, limit=START_LIMIT, pause=POLL):
            self.close()
            raise LabError(f"the agent is not in sync after {START_LIMIT:.0f} s:\n{self.log}")

    def _is_in_sync(self) -> bool:
        alive = self._process.alive  # before the log, whose last line may be the one
        if IN_SYNC.search(self.log):
            return True
        if not alive:
            raise LabError(f"the agent ended by itself, exit status {self._process.status()}:\n{self.log}")
        return False
