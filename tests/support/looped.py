"""Runs the agent's own loop on the tables that a test gives it, with a clock that only the test moves."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ipvsagent.address import Family
from ipvsagent.agent.loop import Loop
from ipvsagent.backends.ipvs import IpvsBackend
from ipvsagent.backends.kernel_handles import IpvsHandles, SavedSettings
from ipvsagent.config import Config, PortRange
from ipvsagent.findings import Finding
from ipvsagent.kernel.sysctls import RaisedSysctls, Setting
from ipvsagent.monitoring.server import Server
from ipvsagent.monitoring.vitals import Vitals
from ipvsagent.pipeline import Origins
from ipvsagent.sources.inbox import Inbox
from ipvsagent.sources.view import SourceView
from ipvsagent.status.snapshot import Snapshot
from ipvsagent.status.socket import Query
from tests.support.interrupted import Calls, Interrupted

MOST_TURNS = 40  # in one second of the clock: more would be a loop that does not wait


class NothingReserved:
    """Stands for the reserved ports: those of the machine that runs the tests stay as they are."""

    def holds(self, wanted: PortRange) -> bool:
        return True

    def reserve(self, wanted: PortRange) -> tuple[Finding, ...]:
        return ()


def handles(kernel: Any, config: Config, calls: Calls) -> IpvsHandles:
    """The tables of `kernel`, fake or real, with trouble at their calls."""

    def interrupted(table: Any) -> Any:
        return Interrupted(table, calls)

    nothing: Any = NothingReserved()
    raised, localhost = (RaisedSysctls(config.state_dir / name) for name in ("raised", "localhost"))
    return IpvsHandles(
        addresses=interrupted(kernel.addresses),
        routes=None,  # type: ignore[arg-type]
        ownership=kernel.ownership,
        ipvs=interrupted(kernel.ipvs),
        sets=interrupted(kernel.sets),
        saved=SavedSettings(raised, localhost, nothing),
        translations=interrupted(kernel.translations),
    )


class TestedNode(IpvsBackend):
    """A backend with the tables of `kernel`, fake or real, whose calls can be interrupted."""

    __test__ = False

    def __init__(self, kernel: Any, config: Config, calls: Calls) -> None:
        super().__init__(config, handles(kernel, config, calls))
        self.missing_schedulers: set[str] = set()
        self.settings_error: Exception | None = None

    def scheduler_works(self, name: str) -> bool:
        return name not in self.missing_schedulers

    def settings(self) -> list[Setting]:
        """Return no setting: those of the machine that runs the tests stay as they are."""
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
    """An inbox where waiting moves the clock and takes no time."""

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
    """A new agent on the tables of `kernel`. The node is read and prepared before any call is interrupted."""

    def __init__(self, kernel: Any, state_dir: Path, calls: Calls, drain_timeout: float = 5.0) -> None:
        kernel.restart()
        config = Config(node_name="here", state_dir=state_dir, drain_timeout=drain_timeout, scheduler="rr")
        kernel.addresses.refresh()
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
