"""The agent's own loop on tables that a test gives it, with a clock that only the test moves on."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ipvsagent.address import Family
from ipvsagent.agent.loop import Loop
from ipvsagent.backends.ipvs import IpvsBackend
from ipvsagent.config import Config, PortRange
from ipvsagent.findings import Finding
from ipvsagent.kernel.arp import Raised
from ipvsagent.kernel.sysctls import Setting, Sysctls
from ipvsagent.monitoring.server import Server
from ipvsagent.monitoring.vitals import Vitals
from ipvsagent.pipeline import Origins
from ipvsagent.sources.inbox import Inbox
from ipvsagent.sources.view import SourceView
from ipvsagent.status.snapshot import Snapshot
from ipvsagent.status.socket import Query
from tests.interrupted import Calls, Interrupted

MOST_TURNS = 40  # in one second of the clock: more would be a loop that does not wait


class NothingReserved:
    """Ports of the machine that runs the tests stay as they are."""

    def holds(self, wanted: PortRange) -> bool:
        return True

    def reserve(self, wanted: PortRange) -> tuple[Finding, ...]:
        return ()


class TestedNode(IpvsBackend):
    """A node whose tables are those of `kernel`, fake or real, with trouble at its calls."""

    __test__ = False

    def __init__(self, kernel: Any, config: Config, calls: Calls) -> None:
        self.config = config
        self.addresses: Any = Interrupted(kernel.addresses, calls)
        self.ownership = kernel.ownership
        self.ipvs: Any = Interrupted(kernel.ipvs, calls)
        self.sets: Any = Interrupted(kernel.sets, calls)
        self.translations: Any = Interrupted(kernel.translations, calls)
        self._filter = None
        self.ledger_path = config.state_dir / "ledger"
        self.unset_limits = ()
        self._timeouts_set = (0, 0, 0)
        self.routes: Any = None
        self.missing_schedulers: set[str] = set()
        self.settings_error: Exception | None = None
        self.raised = Raised(config.state_dir / "raised")
        self.localhost = Raised(config.state_dir / "localhost")
        self.reserved: Any = NothingReserved()
        self._sysctls = Sysctls()

    def scheduler_works(self, name: str) -> bool:
        return name not in self.missing_schedulers

    def settings(self) -> list[Setting]:
        """None: those of the machine that runs the tests stay as they are."""
        if self.settings_error:
            raise self.settings_error
        return []


class KernelRules:
    """The packet rules are those of the kernel that a test has."""

    def __init__(self, kernel: Any) -> None:
        self.after_programming = kernel.keep_rules

    def install(self) -> tuple[Finding, ...]:
        return ()

    def look(self, now: float) -> Origins:
        return []


class _Waits(Inbox):
    """Waiting takes no time."""

    now = 1000.0

    @property
    def pending(self) -> bool:
        return not self._queue.empty()

    def take(self, timeout: float | None) -> list[object]:
        messages = super().take(0)
        if not messages:
            self.now += 1.0 if timeout is None else timeout
        return messages


class Looped:
    """A new agent. `kernel` has the tables; opening reads and prepares the node before any trouble begins."""

    def __init__(self, kernel: Any, state_dir: Path, calls: Calls, drain_timeout: float = 5.0) -> None:
        kernel.restart()
        config = Config(node_name="here", state_dir=state_dir, drain_timeout=drain_timeout, scheduler="rr")
        list(kernel.addresses.read(None))
        kernel.addresses.ensure_interface()
        self._kernel = kernel
        self.inbox = _Waits()
        self.node = TestedNode(kernel, config, calls)
        vitals = Vitals(Server(config, "ipvs", tuple(Family), self.inbox.put), {})
        self.loop = Loop(
            config,
            self.node,
            self.inbox,
            vitals,
            KernelRules(kernel),
            configure=lambda config: None,
            source_view=lambda: SourceView("a test", True),
            udp_changed=lambda servers: None,
            clock=lambda: self.inbox.now,
        )

    def run(self, seconds: float, *messages: object) -> None:
        end = self.inbox.now + seconds
        for message in messages:
            self.inbox.put(message)
        turns = 0
        while self.inbox.now < end or self.inbox.pending:
            self.loop.turn()
            self._kernel.keep_rules()
            turns += 1
            assert turns < MOST_TURNS * (seconds + 1), "the loop does not wait"

    def snapshot(self) -> Snapshot:
        answer: SimpleQueue[Snapshot] = SimpleQueue()
        self.run(0.0, Query(answer))
        return answer.get_nowait()
