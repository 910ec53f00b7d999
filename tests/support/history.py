"""Runs one history of a cluster and its node through the agent's own loop, on the fake or the real kernel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.cluster.objects import (
    EVERYTHING_KNOWN,
    BlindSpots,
    Changes,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    LoadBalancerIngress,
    Node,
    Object,
    ObjectKey,
    Service,
    ServicePort,
)
from ipvsagent.errors import KernelError
from ipvsagent.findings import Finding
from ipvsagent.kernel.fake.kernel import Killed
from ipvsagent.kernel.monitor import AddressChange
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import AddressRow, RealServerRow, Row, VirtualServerRow
from tests.support.interrupted import Calls
from tests.support.looped import Looped

FOREIGN = VirtualServerId(Protocol.TCP, Address("203.0.113.5"), 80)
THEIRS: tuple[Row, ...] = (
    VirtualServerRow(FOREIGN, "wlc", 0, 0),
    RealServerRow(FOREIGN, Address("203.0.113.9"), 80),
)
TCP, UDP = ServicePort("http", Protocol.TCP, 80), ServicePort("dns", Protocol.UDP, 53)
SETTLED_AFTER = 25.0  # more than a drain's timeout, and than a retry waits after so few failures
Messages = Sequence[object]


def service(name: str, *addresses: str, ports: tuple[ServicePort, ...] = (TCP,), created: int = 1) -> Service:
    return Service(namespace="ns", name=name, created=created, cluster_ips=tuple(map(Address, addresses)), ports=ports)


def piece(name: str, *pods: str, unready: tuple[str, ...] = ()) -> EndpointSlice:
    return EndpointSlice(
        namespace="ns",
        name=f"{name}-x",
        service=name,
        family=Family.IPV4,
        ports=(EndpointPort("http", Protocol.TCP, 8080), EndpointPort("dns", Protocol.UDP, 5353)),
        endpoints=tuple(Endpoint(Address(pod), ready=pod not in unready) for pod in pods),
    )


def removal(item: Object) -> Changes:
    return Changes(removals=(item.key,))


def put(*items: Object) -> Changes:
    return Changes(upserts=items)


A = service("a", "10.96.0.1", "fd00::1", ports=(TCP, UDP))
B = service("b", "10.96.0.2")
C = service("c", "10.96.0.3")
A_PODS = piece("a", "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.96.0.2")
B_PODS = piece("b", "10.1.0.4", "10.1.0.5", unready=("10.1.0.5",))
C_PODS = piece("c", "10.1.0.6", "10.96.0.2")
# For clients on the node, first by its cluster IP and then by a hidden port of that.
L = replace(
    service("l", "10.96.0.4"),
    type="LoadBalancer",
    external_local=True,
    ingress=(LoadBalancerIngress(Address("192.0.2.4")),),
)
L_BOTH = replace(L, internal_local=True)
L_PODS = replace(
    piece("l", "10.1.0.9"),
    endpoints=(Endpoint(Address("10.1.0.9"), node="here"), Endpoint(Address("10.1.1.9"), node="other")),
)
HERE = Node(name="here", addresses=(Address("172.16.0.1"),))
# What happens, and how many seconds pass after it. Words are methods of `HistoryRun`.
HISTORY: list[tuple[float, Changes | str]] = [
    (1.5, Changes(upserts=(A, A_PODS, B, B_PODS, HERE), synced=True)),
    (0.3, put(C, C_PODS, L, L_PODS)),
    (0.5, put(replace(A_PODS, endpoints=A_PODS.endpoints[1:]))),
    (0.3, put(piece("b", "10.1.0.5", "10.1.0.7"))),
    (0.3, removal(C)),
    (0.3, put(L_BOTH)),
    (1.5, put(service("older", "10.96.0.2", ports=(TCP, UDP), created=0), piece("older", "10.1.0.8"))),
    (1.5, "servers_flushed"),
    (0.3, put(C)),
    (1.5, "restarted_half_blind"),
    (0.3, removal(C)),
    (0.3, "sees_again"),
    (0.3, put(C)),
    (1.2, "sets_flushed"),
    (1.0, "addresses_unbound"),
    (1.5, "address_appears"),
    (0.5, put(service("a", "10.96.0.1", ports=(UDP,)))),
    (0.5, removal(B)),
]


class HistoryRun:
    """Feeds the history to an agent. One that dies is followed by a new one, which is given all objects again."""

    def __init__(self, kernel: Any, directory: Path, calls: Calls) -> None:
        self.kernel = kernel
        self.calls = calls
        self.objects: dict[ObjectKey, Object] = {}
        self.blind = EVERYTHING_KNOWN
        self._directory = directory
        kernel.put(*THEIRS)
        self.agent = self._opened(calls)

    def play(self) -> None:
        for seconds, event in HISTORY:
            if isinstance(event, Changes):
                self._record(event)
                self._run(seconds, event)
            else:
                self._run(seconds, *getattr(self, event)())

    def settle(self) -> None:
        self._run(SETTLED_AFTER, *self._monitored())

    # What other programs do to the kernel

    def servers_flushed(self) -> Messages:
        rows = self.kernel.snapshot() - set(THEIRS)
        self.kernel.drop(*(row for row in rows if isinstance(row, VirtualServerRow)))
        return []

    def sets_flushed(self) -> Messages:
        self.kernel.drop(*self.kernel.set_members)
        return []

    def addresses_unbound(self) -> Messages:
        self.kernel.drop(*(AddressRow(address) for address in self.kernel.bound))
        return self._monitored()

    def address_appears(self) -> Messages:
        """Add the address of C to another interface of this node; the agent must not bind it any more."""
        address = C.cluster_ips[0]
        self.kernel.add_node_address(address)
        return [AddressChange("eth0", address, True)]

    def _monitored(self) -> Messages:
        """Return what the address monitor would report of our interface."""
        wanted = {
            address for item in self.objects.values() if isinstance(item, Service) for address in item.cluster_ips
        }
        bound = self.kernel.bound
        return [AddressChange("kube-ipvs0", address, address in bound) for address in sorted(wanted | bound)]

    # Restarts

    def restarted_half_blind(self) -> Messages:
        """Restart while most of the input cannot be read."""
        self.blind = BlindSpots(anything=True, services=True)
        self._begin(self._opened(self.calls))
        return [Changes(upserts=(A, A_PODS, HERE), synced=True, blind=self.blind)]

    def sees_again(self) -> Messages:
        self.blind = EVERYTHING_KNOWN
        return [Changes(upserts=tuple(self.objects.values()), blind=self.blind)]

    def restarted(self) -> Looped:
        agent = self._opened(Calls())
        self._begin(agent)
        agent.run(1.5, Changes(upserts=tuple(self.objects.values()), synced=True, blind=self.blind))
        return agent

    def _opened(self, calls: Calls) -> Looped:
        """Open an agent; one that fails at its start is started again, as its supervisor does."""
        while True:
            try:
                return Looped(self.kernel, self._directory, calls)
            except (KernelError, Killed):
                assert calls.struck

    def _begin(self, agent: Looped) -> None:
        agent.inbox.now = self.agent.inbox.now + 1.0
        self.agent = agent

    def _run(self, seconds: float, *messages: object) -> None:
        try:
            self.agent.run(seconds, *messages)
        except Killed:
            self.restarted()

    def _record(self, event: Changes) -> None:
        for key in event.removals:
            self.objects.pop(key, None)
        self.objects.update({item.key: item for item in event.upserts})


def run_history(kernel: Any, directory: Path, calls: Calls) -> HistoryRun:
    directory.mkdir(exist_ok=True)
    run = HistoryRun(kernel, directory, calls)
    run.play()
    return run


def end_of(kernel: Any, directory: Path, calls: Calls) -> tuple[frozenset[Row], tuple[Finding, ...]]:
    """Return the kernel's rows and the findings at the end, when all is in sync and nothing is left to do."""
    run = run_history(kernel, directory, calls)
    calls.begin = None
    run.settle()
    held = kernel.snapshot()
    assert set(THEIRS) <= held
    written = run.agent.snapshot().ops_written
    run.agent.run(10.0)
    after = run.agent.snapshot()
    assert after.ops_written == written, "the agent writes again and again"
    assert after.in_sync and not after.totals.suspect
    restarted = run.restarted().snapshot()
    assert restarted.start_writes == 0 and restarted.findings == after.findings
    return held, after.findings
