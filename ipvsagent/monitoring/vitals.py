"""Reports the state of the loop to everything that watches it: health, metrics, Events, and systemd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ipvsagent.cluster.objects import Changes
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.monitoring.server import Server
from ipvsagent.monitoring.supervisor import Supervisor
from ipvsagent.pipeline import Pipeline

BEAT_EVERY = 5.0
"""The longest wait of the loop, in seconds: a loop that begins no turn for much longer hangs."""


class Events(Protocol):
    """Writes Events, without waiting for the API."""

    def found(self, appeared: Sequence[Finding], cleared: Sequence[Finding]) -> None: ...

    def set_cluster_size(self, nodes: int) -> None: ...


class Vitals:
    """Passes what the loop reports to health, metrics, Events and systemd. No method waits."""

    def __init__(self, server: Server, environment: Mapping[str, str], events: Events | None = None) -> None:
        """environment: that of the process, which names the socket of systemd. events: None = write no Events."""
        self._events = events
        self._fallback: dict[Finding, None] = {}
        self._checks: tuple[object, ...] = ()
        self.health = server.health
        self.metrics = server.metrics
        self.services = server.services
        self.supervisor = Supervisor(environment)

    def heartbeat(self) -> None:
        """Report that the loop has begun a turn."""
        self.health.heartbeat()
        self.supervisor.heartbeat()

    def found(self, appeared: Sequence[Finding], cleared: Sequence[Finding]) -> None:
        """Report findings that are new and findings that are resolved."""
        for finding in cleared:
            self._fallback.pop(finding, None)
        self._fallback.update((finding, None) for finding in appeared if finding.kind is FindingKind.FALLBACK)
        self.health.set_fallback(tuple([finding.reason for finding in self._fallback]))
        if self._events:
            self._events.found(appeared, cleared)

    def changed(self, changes: Changes) -> None:
        self.metrics.changed(changes)

    def round_ended(self, seconds: float, *, success: bool) -> None:
        """Report how long a round, or the first programming, took."""
        self.metrics.round_ended(seconds, success=success)

    def report_state(self, pipeline: Pipeline, *, failing: bool) -> None:
        """Report the state after a turn. failing: some table of the kernel could not be read or created."""
        if self._events and pipeline.table.synced:
            self._events.set_cluster_size(len(pipeline.table.nodes))
        self.health.set_node(pipeline.table.nodes.get(pipeline.node_name))
        checks = (pipeline.health_checks, pipeline.node_port_addresses)
        if checks != self._checks:
            self._checks = checks
            self.services.serve(*checks)
        suspects = pipeline.reconciler.states.suspects
        if failing or pipeline.next_due() == 0.0:
            self.health.mark_waiting()
        elif pipeline.reconciler.started:
            self.health.mark_synced()
            refused = f", {len(suspects)} of them refused by the kernel" if suspects else ""
            self.supervisor.status(f"{len(pipeline.desired)} virtual servers{refused}")
