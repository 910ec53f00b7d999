"""One history of a cluster and its node, run through the agent's own loop, with trouble at every call to the kernel in
turn: it must end with the kernel as it is wanted, nothing left to say, and nothing left to do.

Runs on the fake kernel at every call; tests/kernel/test_laws_on_kernel.py runs some of it on the real one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.agent import host_look, loop
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
from ipvsagent.kernel.fake.kernel import FakeKernel, Killed
from ipvsagent.kernel.monitor import AddressChange
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import AddressRow, RealServerRow, Row, VirtualServerRow
from tests.interrupted import Calls, Trouble
from tests.looped import Looped

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
# What happens, and how many seconds pass after it. Words are methods of `Story`.
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


class Story:
    """The history, told to an agent; one that dies is followed by a new one, which is told all that is known."""

    def __init__(self, kernel: Any, folder: Path, calls: Calls) -> None:
        self.kernel = kernel
        self.calls = calls
        self.objects: dict[ObjectKey, Object] = {}
        self.blind = EVERYTHING_KNOWN
        self._folder = folder
        kernel.put(*THEIRS)
        self.agent = self._opened(calls)

    def tell(self) -> None:
        for seconds, event in HISTORY:
            if isinstance(event, Changes):
                self._note(event)
                self._run(seconds, event)
            else:
                self._run(seconds, *getattr(self, event)())

    def settle(self) -> None:
        self._run(SETTLED_AFTER, *self._monitored())

    # What somebody else does to the kernel

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
        """On another interface of this node: the address of C, which must not be bound any more."""
        address = C.cluster_ips[0]
        self.kernel.add_node_address(address)
        return [AddressChange("eth0", address, True)]

    def _monitored(self) -> Messages:
        """What the address monitor would tell of our interface."""
        wanted = {
            address for item in self.objects.values() if isinstance(item, Service) for address in item.cluster_ips
        }
        bound = self.kernel.bound
        return [AddressChange("kube-ipvs0", address, address in bound) for address in sorted(wanted | bound)]

    # Restarts

    def restarted_half_blind(self) -> Messages:
        """Most of its input cannot be read."""
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
        """One that cannot even begin ends with an error, and its supervisor starts it again."""
        while True:
            try:
                return Looped(self.kernel, self._folder, calls)
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

    def _note(self, event: Changes) -> None:
        for key in event.removals:
            self.objects.pop(key, None)
        self.objects.update({item.key: item for item in event.upserts})


def told(kernel: Any, folder: Path, calls: Calls) -> Story:
    folder.mkdir(exist_ok=True)
    story = Story(kernel, folder, calls)
    story.tell()
    return story


def end_of(kernel: Any, folder: Path, calls: Calls) -> tuple[frozenset[Row], tuple[Finding, ...]]:
    """What the kernel holds in the end, and what is found wrong. Also: all is in sync, and nothing is left to do."""
    story = told(kernel, folder, calls)
    calls.begin = None
    story.settle()
    held = kernel.snapshot()
    assert set(THEIRS) <= held
    written = story.agent.snapshot().ops_written
    story.agent.run(10.0)
    after = story.agent.snapshot()
    assert after.ops_written == written, "somebody writes for ever"
    assert after.in_sync and not after.totals.suspect
    restarted = story.restarted().snapshot()
    assert restarted.start_writes == 0 and restarted.findings == after.findings
    return held, after.findings


@pytest.fixture(autouse=True)
def no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What sysctls this machine has is not in question; nobody reads a hundred logs, and garbage may stay a while."""
    monkeypatch.setattr(loop, "gc", SimpleNamespace(collect=lambda: 0, freeze=lambda: None))
    monkeypatch.setattr(logging.getLogger("ipvsagent"), "disabled", True)
    monkeypatch.setattr(host_look.host, "host_findings", lambda families: ())


def calls_of_the_history(tmp_path: Path) -> int:
    calls = Calls()
    told(FakeKernel(), tmp_path / "counted", calls)
    return calls.made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[frozenset[Row], tuple[Finding, ...]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_look.host, "host_findings", lambda families: ())
        yield end_of(FakeKernel(), tmp_path_factory.mktemp("undisturbed"), Calls())


@pytest.mark.parametrize(
    ("trouble", "many"),
    [*((trouble, 1) for trouble in Trouble), *((trouble, 5) for trouble in Trouble if not trouble.kills)],
    ids=lambda value: value.name.lower() if isinstance(value, Trouble) else str(value),
)
def test_trouble_at_any_call_is_overcome(
    trouble: Trouble, many: int, tmp_path: Path, undisturbed: tuple[frozenset[Row], tuple[Finding, ...]]
) -> None:
    count = calls_of_the_history(tmp_path)
    assert count > 60
    struck: set[str] = set()
    # Every call meets every other kind of trouble; all of them at once would take minutes.
    for begin in range(list(Trouble).index(trouble) % 2, count, 2 if many == 1 else 6):
        calls = Calls(begin, trouble, many)
        try:
            assert end_of(FakeKernel(), tmp_path / f"{begin}", calls) == undisturbed
        except Exception as error:
            error.add_note(f"trouble at call {begin}: {', '.join(calls.struck)}")
            raise
        struck.update(calls.struck)
    assert {"read", "write"} <= struck
