"""Answers when `status` or a scrape of the metrics asks for the state of the agent."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

from ipvsagent import __version__
from ipvsagent.agent.recorder import Recorder
from ipvsagent.backends.backend import Backend
from ipvsagent.config import Config
from ipvsagent.monitoring.metrics import Metrics, Readings
from ipvsagent.pipeline import Pipeline
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.sources.view import SourceView
from ipvsagent.status.snapshot import Snapshot, held_ids, in_sync, server_views, totals_of, without_local_endpoints


class SelfReport:
    """Describes the state of the loop; only the loop's thread may use it."""

    def __init__(
        self,
        config: Config,
        backend: Backend,
        tables: KernelTables,
        pipeline: Pipeline,
        recorder: Recorder,
        metrics: Metrics,
        source_view: Callable[[], SourceView],
        now: float,
    ) -> None:
        self._config = config
        self._backend = backend
        self._tables = tables
        self._pipeline = pipeline
        self._recorder = recorder
        self._metrics = metrics
        self._source_view = source_view
        self._born = now
        self.changed_at: float | None = None
        """When the source last sent a change."""
        self.start_writes = 0
        self.start_seconds = 0.0

    def in_sync(self) -> bool:
        return in_sync(self._pipeline) and not self._backend.rules_pending

    def readings(self) -> Readings:
        return Readings(
            totals=totals_of(self._pipeline),
            in_sync=self.in_sync(),
            backend=self._backend.name,
            node=self._config.node_name,
            ops_written=self._tables.ops_written,
            rows_read=self._tables.rows_read,
            drift=dict(self._recorder.drift),
            findings=dict(Counter((f.kind.value, f.severity.value) for f in self._recorder.findings.current())),
            no_local_endpoints=without_local_endpoints(self._pipeline),
        )

    def snapshot(self, now: float) -> Snapshot:
        return Snapshot(
            version=__version__,
            pid=os.getpid(),
            node=self._config.node_name,
            backend=self._backend.name,
            interface=self._config.interface,
            source=self._source_view(),
            uptime=now - self._born,
            in_sync=self.in_sync(),
            seconds_since_change=None if self.changed_at is None else now - self.changed_at,
            start_writes=self.start_writes,
            start_seconds=self.start_seconds,
            ops_written=self._tables.ops_written,
            rows_read=self._tables.rows_read,
            drift=dict(self._recorder.drift),
            programming=self._metrics.programming,
            totals=totals_of(self._pipeline),
            virtual_servers=server_views(self._pipeline, now),
            findings=tuple(self._recorder.findings.current()),
            conn_reuse=self._backend.conn_reuse(),
            held=held_ids(self._pipeline),
        )
