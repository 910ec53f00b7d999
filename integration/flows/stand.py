"""One network, one agent on its node, and every case of the table that runs there."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path

from integration.apiserver import Access, ApiServer, Certificates
from integration.flows import network
from integration.flows.table import Case, StandRow, Table
from integration.flows.verdict import Result, judge
from integration.lab import Failure, Lab, LabError, Namespace, Outcome, Question, Servers, ask
from integration.nursery import Child, nursery
from ipvsagent.config import Config

START_LIMIT = 60.0
POLL = 0.02
IN_SYNC = re.compile(r" in sync: ")

# An answer takes as long as the guest is slow; silence is believed after less.
ANSWER_LIMIT, SILENCE = 4.0, 1.5
# Refusals are timed, so few are under way at once.
ANSWERS_AT_ONCE, REFUSALS_AT_ONCE = 24, 3

# Set by the stand, and looked for behind the agent's rules: bits that are somebody else's.
FOREIGN = "0x400a0"

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
# As Calico's chain cali-PREROUTING does.
_SCRATCH = """*raw
-A PREROUTING -i pod+ -j MARK --set-xmark 0x40000/0x40000
COMMIT
"""
_MARKS = f"""*raw
-A PREROUTING -j MARK --set-xmark {FOREIGN}/{FOREIGN}
-A OUTPUT -j MARK --set-xmark {FOREIGN}/{FOREIGN}
COMMIT
"""
# Counts what leaves by a device, behind all of netfilter: with the right bits in its mark, and without.
_COUNT = """qdisc add dev {device} clsact
filter add dev {device} egress protocol ip prio 1 u32 match mark {bits} {mask} action pass
filter add dev {device} egress protocol ipv6 prio 2 u32 match mark {bits} {mask} action pass
filter add dev {device} egress protocol ip prio 3 u32 match u32 0 0 action pass
filter add dev {device} egress protocol ipv6 prio 4 u32 match u32 0 0 action pass
"""
# By what a stand's host has: bits and mask of what is right, and what it means if they are not.
_RIGHT = {
    "marks": (FOREIGN, FOREIGN, "lost another program's mark"),
    "unmarked": ("0", f"{Config().node_marks:#x}", "have a mark of ours"),
}
_COUNTED = re.compile(r"pref (\d+) u32 .* success (\d+)\)")
_DEVICES = ("eth0", "pod0", "pod1")
_TOOLS = {4: "iptables", 6: "ip6tables"}


def sees_marks() -> bool:
    """Whether the kernel that we run on can count packets by their marks, behind all of netfilter."""
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
    """Built when entered; leaving it takes everything away. through: where the agent reads Services from."""

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

    def __enter__(self) -> Stand:
        self._folder = tempfile.TemporaryDirectory(prefix="flows-")
        self._agent: Agent | None = None
        self._api: ApiServer | None = None
        self._lab = Lab(network.topology(bridged=self.row.bridged))
        self._servers = Servers()
        try:
            self._servers.add(self._lab, network.servers())
            self._servers.add(self._lab, network.host_servers(), at=self._lab.node)
            self._prepare_host()
            folder = Path(self._folder.name)
            words = ["--backend", self._backend, *self._source(folder)]
            self._agent = Agent(self._lab.node, folder, words, self.row)
            self._await_listeners()
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
        self._folder.cleanup()

    @property
    def node(self) -> Namespace:
        return self._lab.node

    @contextlib.contextmanager
    def agent_halted(self) -> Iterator[None]:
        """It repairs nothing meanwhile."""
        assert self._agent
        self._agent.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._agent.signal(signal.SIGCONT)

    def results(self, cases: Sequence[Case]) -> list[Result]:
        """In the order of the cases."""
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
        """What the agent did to what is not its own."""
        if not self._counts:
            return []
        *_, fault = _RIGHT[self.row.host]
        faults = []
        seen = 0
        for device in _DEVICES:
            listing = self._lab.node.run("tc", "-s", "filter", "show", "dev", device, "egress")
            passed = {int(priority): int(count) for priority, count in _COUNTED.findall(listing)}
            for family, right, wrong in (("IPv4", passed[1], passed[3]), ("IPv6", passed[2], passed[4])):
                seen += right
                if wrong:
                    faults.append(f"{device} {family}: {wrong} packets {fault}, {right} are right")
        return faults if seen else ["no packet had a mark that is right"]

    def _asked(self, cases: Sequence[Case], at_once: int, limit: float) -> list[Result]:
        places = [network.place(case) for case in cases]
        questions = [
            Question(self._namespace(place.machine), network.target(case, self._table), place.address)
            for case, place in zip(cases, places, strict=True)
        ]
        outcomes: list[Outcome] = ask(questions, concurrency=at_once, timeout=limit)
        return [
            judge(case, outcome, place.address, self._node_addresses)
            for case, place, outcome in zip(cases, places, outcomes, strict=True)
        ]

    def _await_listeners(self) -> None:
        """Another thread of the agent opens them, a moment after the agent says that it is in sync."""
        questions = [Question(self._lab.node, target) for target in network.health_checks(self._services)]
        deadline = time.monotonic() + ANSWER_LIMIT
        while any(o.failure is Failure.REFUSED for o in ask(questions)) and time.monotonic() < deadline:
            time.sleep(POLL)

    def _source(self, folder: Path) -> list[str]:
        """Options of the agent."""
        documents = network.documents(self._services)
        if self._through is Through.FILES:
            objects = folder / "objects"
            objects.mkdir()
            (objects / "flows.json").write_text(documents)
            return ["--source", str(objects)]
        self._api = ApiServer(certificates=Certificates(), access=Access({"flows": network.THIS_NODE}, required=True))
        self._api.put(json.loads(documents))
        with self._lab.node.entered():
            self._api.start()
        return ["--kubeconfig", str(self._api.write_kubeconfig(folder / "kubeconfig"))]

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
                output = "DROP" if self.row.host == "drops all" else "ACCEPT"
                rules = _DROPS.format(output=output, neighbours=_NEIGHBOURS if version == 6 else "")
                node.run(f"{tool}-restore", "--noflush", stdin=rules)
            elif self.row.host in ("marks", "scratch"):
                node.run(f"{tool}-restore", "--noflush", stdin=_MARKS if self.row.host == "marks" else _SCRATCH)
        if self._counts:
            bits, mask, _ = _RIGHT[self.row.host]
            counts = [_COUNT.format(device=device, bits=bits, mask=mask) for device in _DEVICES]
            node.run("tc", "-batch", "-", stdin="".join(counts))


class Agent:
    """`ipvsagent run` as an operator has it. Constructed when it says that it is in sync."""

    def __init__(self, namespace: Namespace, folder: Path, source: Sequence[str], row: StandRow) -> None:
        words = ["run", *source, "--state-dir", str(folder / "state")]
        words += ["--hostname-override", network.THIS_NODE, "--allow-external-ips", network.EXTERNAL_IPS]
        meaning = {"PODS": network.CLUSTER_CIDRS, "SERVICES": network.SERVICE_CIDRS}
        words += [meaning.get(word, word) for word in row.agent]
        stem = folder / "agent"
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
        deadline = time.monotonic() + START_LIMIT
        while True:
            alive = self._process.alive
            if IN_SYNC.search(self.log):
                return
            if not alive:
                raise LabError(f"the agent ended by itself, exit status {self._process.status()}:\n{self.log}")
            if time.monotonic() > deadline:
                self.close()
                raise LabError(f"the agent is not in sync after {START_LIMIT:.0f} s:\n{self.log}")
            time.sleep(POLL)
