"""What the loop says of itself as it goes, to all who want to know: health, metrics, and systemd."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from ipvsagent.address import Family
from ipvsagent.cluster.objects import Changes
from ipvsagent.config import Config
from ipvsagent.pipeline import Pipeline
from ipvsagent.status.health import Health
from ipvsagent.status.metrics import Metrics
from ipvsagent.status.supervisor import Supervisor

BEAT_EVERY = 5.0
"""Seconds after which the loop comes round at the latest, so that one that hangs can be told from one that rests."""


class Vitals:
    """ask: hands a message to the loop. environment: the process's, for what systemd says in it."""

    def __init__(
        self,
        config: Config,
        families: Collection[Family],
        ask: Callable[[object], None],
        environment: Mapping[str, str],
    ) -> None:
        self.health = Health(config.sync_period, families)
        self.metrics = Metrics(families, ask)
        self.supervisor = Supervisor(environment)

    def turned(self) -> None:
        """The loop has come round."""
        self.health.turned()
        self.supervisor.turned()

    def changed(self, changes: Changes) -> None:
        self.metrics.changed(changes)

    def synced(self, seconds: float, *, success: bool) -> None:
        """A round, or the first programming, took so long."""
        self.metrics.synced(seconds, success=success)

    def stands(self, pipeline: Pipeline, *, failing: bool) -> None:
        """After a turn. failing: the kernel's tables could not be read or made the last time."""
        self.health.node_is(pipeline.table.nodes.get(pipeline.node_name))
        reconciler = pipeline.reconciler
        if failing or pipeline.next_due() == 0.0:
            self.health.waiting()
        elif reconciler.started:
            self.health.carried_out()
            refused = f", {len(reconciler.suspects)} of them refused by the kernel" if reconciler.suspects else ""
            self.supervisor.status(f"{len(pipeline.desired)} virtual servers{refused}")
