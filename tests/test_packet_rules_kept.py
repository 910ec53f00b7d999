"""The packet rules are kept by the loop or by a thread, as the backend says, and never by both."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ipvsagent.agent.packet_rules import OTHER_BACKEND, RULES, PacketRules, RulesRepaired
from ipvsagent.errors import KernelError
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.sources.inbox import Findings

WRONG = Finding(FindingKind.HOST, RULES, "something is in the way")


class Filter:
    """A packet filter whose rules another program changes before each look; it ends the thread after `looks`."""

    description = "a test"

    def __init__(self, stop: threading.Event, looks: int = 1, *, broken: bool = False) -> None:
        self.wake = threading.Event()
        self.wake.set()
        self._stop = stop
        self._looks = looks
        self._broken = broken
        self.pending_applied = 0

    def on_failure(self, record: object) -> None: ...

    def counts(self) -> dict[str, int]:
        return {}

    def install(self) -> int:
        return 0

    def apply_pending(self) -> None:
        self.pending_applied += 1

    def repair(self) -> int:
        self._looks -= 1
        self.wake.set()
        if not self._looks:
            self._stop.set()
        if self._broken:
            raise KernelError(16, "it was refused")
        return 2

    def findings(self) -> list[Finding]:
        return [WRONG]


class World:
    def __init__(self, *, in_loop: bool, **of_filter: Any) -> None:
        self.stop = threading.Event()
        self.filter = Filter(self.stop, **of_filter)
        self.messages: list[object] = []
        self.threads: list[Callable[[], None]] = []
        backend: Any = SimpleNamespace(
            rules_in_loop=in_loop, packet_filter=lambda: self.filter, retire_others=lambda now, rules: ()
        )
        metrics: Any = SimpleNamespace(record_failure=None, counts=None)
        self.rules = PacketRules(
            backend,
            metrics,
            lambda: True,
            lambda name, work: self.threads.append(work),
            self.messages.append,
            self.stop,
        )
        assert self.rules.look(0.0) == [], "there is nothing to look at before rules are installed"
        assert self.rules.install() == [WRONG]
        for _ in range(2):
            self.rules.after_programming()


def test_the_loop_keeps_rules_that_are_virtual_servers() -> None:
    world = World(in_loop=True)
    assert not world.threads
    assert world.rules.look(1.0) == [(RULES, (WRONG,)), (OTHER_BACKEND, ())]
    assert world.messages == [RulesRepaired(2)]


def test_a_thread_keeps_other_rules_and_reports_what_is_new() -> None:
    world = World(in_loop=False, looks=3)
    assert world.rules.look(1.0) == [] and world.filter.pending_applied == 1
    (work,) = world.threads
    work()
    assert world.messages.count(RulesRepaired(2)) == 3
    findings = [message for message in world.messages if isinstance(message, Findings)]
    assert findings == [Findings(RULES, (WRONG,)), Findings(OTHER_BACKEND, ())]


@pytest.mark.parametrize("looks", [1, 3])
def test_a_failed_look_of_the_thread_is_reported_once(looks: int) -> None:
    world = World(in_loop=False, looks=looks, broken=True)
    world.threads[0]()
    (message,) = world.messages
    assert isinstance(message, Findings) and message.origin == RULES
    assert "it was refused" in message.findings[0].reason and message.findings[0].reason.endswith("; tried again")
