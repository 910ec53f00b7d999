"""Keeps the packet rules of a running agent: the loop installs them, then the loop or a thread keeps them.

Which of the two is the backend's choice: where virtual servers are packet rules themselves, the loop, which writes
both; otherwise a thread, because iptables may have to wait for other programs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from msgspec import Struct

from ipvsagent.backends.backend import Backend
from ipvsagent.config import Config
from ipvsagent.errors import KernelError, StartError
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.monitoring.rule_metrics import RuleMetrics
from ipvsagent.packet_filter.rule_keeper import RuleKeeper
from ipvsagent.pipeline import Origins
from ipvsagent.sources.inbox import Findings

log = logging.getLogger("ipvsagent")

LOOK_EVERY = 1.0
"""Seconds between two looks of the thread at the rules."""
RULES, OTHER_BACKEND = "packet rules", "other backend"
"""The origins of the findings that a look reports."""


class RulesRepaired(Struct, frozen=True):
    """Reports that another program changed our packet rules, and that they have been repaired."""

    differences: int


class PacketRules:
    """Installs the packet rules of a backend and keeps them as they should be."""

    def __init__(
        self,
        backend: Backend,
        metrics: RuleMetrics,
        is_serving: Callable[[], bool],
        start_thread: Callable[[str, Callable[[], None]], None],
        put: Callable[[object], None],
        stop: threading.Event,
    ) -> None:
        """is_serving: whether Services are served yet; called from the thread that keeps the rules. put: sends a
        message to the loop."""
        self._backend = backend
        self._in_loop = backend.rules_in_loop
        self._metrics = metrics
        self._is_serving = is_serving
        self._start_thread = start_thread
        self._put = put
        self._stop = stop
        self._keeper: RuleKeeper | None = None
        self._thread_started = False

    def install(self) -> Sequence[Finding]:
        """Install the rules and return what is wrong with them. The loop calls this until it succeeds once, before it
        programs any virtual server. Raises KernelError and StartError."""
        rules = self._backend.packet_filter()
        rules.on_failure(self._metrics.record_failure)
        self._metrics.counts = rules.counts
        try:
            rules.install()
        except (KernelError, StartError):
            rules.close()
            raise
        log.info("packet rules: %s", rules.description)
        self._keeper = RuleKeeper(rules, self._is_serving, self._backend.retire_others)
        return rules.findings()

    def after_programming(self) -> None:
        """Write what the first programming of virtual servers added to the rules, then leave them to the thread.

        Does nothing when that is done, and where the loop keeps the rules. Raises KernelError and StartError.
        """
        keeper = self._keeper
        if keeper is None or self._thread_started or self._in_loop:
            return
        self._thread_started = True
        try:
            keeper.rules.apply_pending()
        finally:
            self._start_thread("rules", lambda: self._keep(keeper))

    def look(self, now: float) -> Origins:
        """Keep the rules if that is the loop's part, and return what is wrong with them. The loop calls this once a
        second. Raises KernelError and StartError."""
        return self._look(self._keeper, now) if self._keeper and self._in_loop else []

    def configure(self, config: Config) -> None:
        if self._keeper:
            self._keeper.rules.configure(config)

    def _look(self, keeper: RuleKeeper, now: float) -> Origins:
        look = keeper.look(now)
        if look.repaired:
            self._put(RulesRepaired(look.repaired))
        return [(RULES, look.rules), (OTHER_BACKEND, look.others)]

    def _keep(self, keeper: RuleKeeper) -> None:
        """Keep the rules in a thread of their own, which alone waits for the lock of iptables."""
        reported: dict[object, tuple[Finding, ...]] = {}
        while not self._stop.is_set():
            keeper.rules.wake.wait(LOOK_EVERY)
            keeper.rules.wake.clear()
            try:
                found = self._look(keeper, time.monotonic())
            except (KernelError, StartError) as error:
                failure = Finding(FindingKind.HOST, RULES, f"{error}; tried again", severity=Severity.ERROR)
                found = [(RULES, (failure,))]
            for origin, findings in found:
                if findings != reported.get(origin):
                    reported[origin] = findings
                    self._put(Findings(str(origin), findings))
