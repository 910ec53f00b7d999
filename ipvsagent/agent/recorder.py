"""Records what work on the kernel results in: findings, drift, and kernel tables that cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from ipvsagent.agent.log import log_drift, record_and_log
from ipvsagent.errors import KernelError, StartError
from ipvsagent.findings import Finding, FindingBook, FindingKind, Severity
from ipvsagent.model import VirtualServer
from ipvsagent.monitoring.vitals import Vitals
from ipvsagent.pipeline import Origins
from ipvsagent.reconcile.report import Report


class Recorder:
    """Does work on the kernel, and records and logs what is found and repaired."""

    def __init__(self, vitals: Vitals, udp_changed: Callable[[Sequence[VirtualServer]], None]) -> None:
        """udp_changed: is called with UDP virtual servers whose real servers have changed; must not block."""
        self._vitals = vitals
        self._udp_changed = udp_changed
        self._failing: set[str] = set()
        self.findings = FindingBook()
        self.drift: Counter[str] = Counter()
        """Differences repaired since the start, by kind."""

    @property
    def failing(self) -> bool:
        """Return whether some work failed when it was last attempted."""
        return bool(self._failing)

    def record(self, origins: Origins) -> None:
        self._vitals.found(*record_and_log(self.findings, origins))

    def attempt(self, name: str, work: Callable[[Report], object]) -> Report | None:
        """Do some work on the kernel. Return None if a table as a whole could not be read or created: that becomes a
        finding, and what the work reported until then is recorded all the same."""
        report = Report()
        trouble: tuple[Finding, ...] = ()
        try:
            work(report)
        except (KernelError, StartError) as error:
            trouble = (Finding(FindingKind.HOST, "kernel", str(error), severity=Severity.ERROR),)
            self._failing.add(name)
        else:
            self._failing.discard(name)
        self.record([*report.findings, (("tables", name), trouble)])
        self.drift.update(drift.kind for drift in report.drift)
        log_drift(report.drift)
        self._udp_changed(report.udp)
        return None if trouble else report
