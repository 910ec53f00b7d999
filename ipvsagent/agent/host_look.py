"""Looks at the host: limits, schedulers, kernel settings, and whatever else on this node Services depend on."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ipvsagent.agent.reconfiguration import Reconfiguration
from ipvsagent.agent.recorder import Recorder
from ipvsagent.backends.backend import Backend
from ipvsagent.kernel import host
from ipvsagent.pipeline import Pipeline
from ipvsagent.reconcile.report import Report

log = logging.getLogger("ipvsagent")


class HostLook:
    """Repairs settings that were changed, and attempts again what the host could not provide before."""

    def __init__(
        self,
        backend: Backend,
        pipeline: Pipeline,
        reconfiguration: Reconfiguration,
        recorder: Recorder,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._pipeline = pipeline
        self._reconfiguration = reconfiguration
        self._recorder = recorder
        self._clock = clock

    def look(self, report: Report) -> None:
        """Look once. Settings come last, as reading the host's interfaces may fail. Raises KernelError."""
        if self._backend.unset_limits:
            self._backend.set_limits()
        self._pipeline.retry_missing_schedulers()
        self._recorder.record([("limits", self._backend.unset_limits), *self._reconfiguration.retry(self._clock())])
        families = {server_id.family for server_id in self._pipeline.desired}
        self._recorder.record(
            [("ledger", self._backend.ledger_findings()), ("host", tuple(host.host_findings(families)))]
        )
        findings, changed = self._backend.keep_settings(self._clock())
        report.findings.append(("settings", tuple(findings)))
        if changed:
            self._recorder.drift["sysctl"] += len(changed)
            log.warning("repaired drift (sysctl): %s", ", ".join(changed))
