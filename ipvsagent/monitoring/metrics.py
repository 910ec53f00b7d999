"""Exports metrics to Prometheus: kube-proxy's metrics under kube-proxy's names (pkg/proxy/metrics/metrics.go), so that
dashboards and alerts keep working, and our own under `ipvsagent_`.

Durations and counts of events are recorded by the loop as they happen. Everything that is a state (how many virtual
servers, which findings) is requested from the loop at each scrape; if the loop does not answer in time, the last known
state is shown, since numbers are needed most when the loop hangs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import get_args

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ipvsagent import __version__
from ipvsagent.address import Family
from ipvsagent.cluster.objects import Changes, EndpointSlice, Service
from ipvsagent.monitoring.rule_metrics import RuleMetrics
from ipvsagent.status.snapshot import Programming, Totals, TrafficPolicy

ANSWER_WITHIN = 2.0
_PROGRAMMING_BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *range(1, 60),
    *range(60, 120, 5),
    *range(120, 301, 30),
)
"""kube-proxy's buckets, and finer ones below these, as programming takes milliseconds here."""
_SYNC_BUCKETS = tuple(0.001 * 2**n for n in range(15))


class Readings(Struct, frozen=True):
    """Describes the state of the loop in numbers. Counters begin when the agent starts."""

    totals: Totals
    in_sync: bool
    backend: str
    node: str
    ops_written: int
    rows_read: int
    drift: dict[str, int]
    findings: dict[tuple[str, str], int]
    """How many findings there are of each kind and severity."""
    no_local_endpoints: dict[tuple[Family, TrafficPolicy], int]
    """How many Services with a Local policy have all their endpoints on other nodes; a missing key means 0."""


class MetricsQuery(Struct, frozen=True):
    """Asks the loop for its readings, which it puts into `answer`."""

    answer: SimpleQueue[Readings]


class Metrics:
    """Records what happens, and answers scrapes."""

    def __init__(self, families: Collection[Family], send: Callable[[object], None]) -> None:
        """families: the node's address families. send: sends a message to the loop, without waiting."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._families = tuple(family.value for family in families)
        self._registry = CollectorRegistry()
        self._send = send
        family = ["ip_family"]
        self._duration = Histogram(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Duration of one round.",
            family,
            buckets=_SYNC_BUCKETS,
            registry=self._registry,
        )
        self._programming = Histogram(
            "kubeproxy_network_programming_duration_seconds",
            "Time from the cause of a change of an EndpointSlice, as its annotation says, to the end of its round.",
            family,
            buckets=_PROGRAMMING_BUCKETS,
            registry=self._registry,
        )
        self.programming = Programming()
        self._triggered: list[float] = []
        self._born = time.time()
        self._last = self._gauge("sync_proxy_rules_last_timestamp_seconds", "When the last round succeeded.", family)
        self._queued = self._gauge(
            "sync_proxy_rules_last_queued_timestamp_seconds", "Time of the last change that asked for a round.", family
        )
        self._service_changes = self._counter("sync_proxy_rules_service_changes", "Changes of Services.", family)
        self._endpoint_changes = self._counter(
            "sync_proxy_rules_endpoint_changes", "Changes of EndpointSlices.", family
        )
        self._services_pending = self._gauge(
            "sync_proxy_rules_service_changes_pending", "Changes of Services that no round has applied yet.", family
        )
        self._endpoints_pending = self._gauge(
            "sync_proxy_rules_endpoint_changes_pending",
            "Changes of EndpointSlices that no round has applied yet.",
            family,
        )
        self._healthz = self._counter("proxy_healthz", "Answers of /healthz.", ["code"])
        self._livez = self._counter("proxy_livez", "Answers of /livez.", ["code"])
        self._events = Counter("ipvsagent_events", "Events by outcome.", ["outcome"], registry=self._registry)
        self._flow_looks = Histogram(
            "kubeproxy_conntrack_reconciler_sync_duration_seconds",
            "Duration of one look for UDP flows that no endpoint answers.",
            family,
            buckets=_SYNC_BUCKETS,
            registry=self._registry,
        )
        self._flows_ended = self._counter(
            "conntrack_reconciler_deleted_entries", "UDP flows that were ended because no endpoint answered.", family
        )
        self.rules = RuleMetrics(families, self._registry)
        for name in self._families:
            self._flow_looks.labels(name)
            self._flows_ended.labels(name)
            self._programming.labels(name)
            for metric in (self._duration, self._last, self._queued, self._service_changes, self._endpoint_changes):
                metric.labels(name)
            self._services_pending.labels(name)
            self._endpoints_pending.labels(name)
        self._registry.register(_StateCollector(self._readings, self._families))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._known: Readings | None = None

    # Called by the loop

    def changed(self, changes: Changes) -> None:
        """Record a message of the source."""
        kinds = [type(item).__name__ for item in changes.upserts] + [key.kind for key in changes.removals]
        services, slices = kinds.count(Service.__name__), kinds.count(EndpointSlice.__name__)
        now = time.time()
        self._triggered += [moment for moment in changes.triggered if moment >= self._born]
        for family in self._families:
            self._queued.labels(family).set(now)
            if services:
                self._service_changes.labels(family).inc(services)
                self._services_pending.labels(family).inc(services)
            if slices:
                self._endpoint_changes.labels(family).inc(slices)
                self._endpoints_pending.labels(family).inc(slices)

    def round_ended(self, seconds: float, *, success: bool) -> None:
        """Record how long a round, or the first programming, took."""
        now = time.time()
        for family in self._families:
            self._duration.labels(family).observe(seconds)
            if success:
                self._last.labels(family).set(now)
                self._services_pending.labels(family).set(0)
                self._endpoints_pending.labels(family).set(0)
        if success:
            self._programmed(now)

    def _programmed(self, now: float) -> None:
        for moment in self._triggered:
            seconds = max(0.0, now - moment)
            self.programming = self.programming.with_sample(seconds)
            for family in self._families:
                self._programming.labels(family).observe(seconds)
        self._triggered.clear()

    # Called by other threads

    def record_flow_look(self, family: Family, seconds: float, ended: int) -> None:
        self._flow_looks.labels(family.value).observe(seconds)
        self._flows_ended.labels(family.value).inc(ended)

    def record_events(self, outcome: str, count: int) -> None:
        self._events.labels(outcome).inc(count)

    def record_answer(self, path: str, status: int) -> None:
        (self._livez if path == "/livez" else self._healthz).labels(str(status)).inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in the format that the client prefers, and its content type."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type

    def _readings(self) -> Readings | None:
        answer: SimpleQueue[Readings] = SimpleQueue()
        self._send(MetricsQuery(answer))
        with contextlib.suppress(Empty):
            self._known = answer.get(timeout=ANSWER_WITHIN)
        return self._known

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(f"kubeproxy_{name}", text, labels, registry=self._registry)

    def _counter(self, name: str, text: str, labels: list[str]) -> Counter:
        return Counter(f"kubeproxy_{name}", text, labels, registry=self._registry)


class _StateCollector(Collector):
    def __init__(self, readings: Callable[[], Readings | None], families: Collection[str]) -> None:
        self._readings = readings
        self._families = families

    def describe(self) -> Iterable[Metric]:
        return ()  # registration must not ask the loop, which is not running yet

    def collect(self) -> Iterator[Metric]:
        readings = self._readings()
        if readings is None:
            return
        totals = readings.totals
        info = GaugeMetricFamily("ipvsagent_info", "What runs on the node.", labels=["version", "backend", "node"])
        info.add_metric([__version__, readings.backend, readings.node], 1)
        yield info
        gauges = {
            "in_sync": ("1 if the kernel holds everything that is desired.", readings.in_sync),
            "services": ("Services known.", totals.services),
            "endpoint_slices": ("EndpointSlices known.", totals.endpoint_slices),
            "virtual_servers": ("Virtual servers desired.", totals.virtual_servers),
            "real_servers": ("Real servers desired, over all virtual servers.", totals.real_servers),
            "confirmed_virtual_servers": ("Virtual servers that the kernel is known to hold.", totals.confirmed),
            "suspect_virtual_servers": (
                "Virtual servers that the kernel refused.",
                totals.suspect,
            ),
            "shadowed_virtual_servers": (
                "Virtual servers whose place is another program's.",
                totals.shadowed,
            ),
            "draining_real_servers": ("Real servers that get no new connections and keep old ones.", totals.draining),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(f"ipvsagent_{name}", text, value=float(value))
        yield CounterMetricFamily("ipvsagent_writes", "Rows written to the kernel.", value=readings.ops_written)
        yield CounterMetricFamily("ipvsagent_rows_read", "Rows read from the kernel.", value=readings.rows_read)
        drift = CounterMetricFamily("ipvsagent_drift", "Rows repaired after others changed them.", labels=["kind"])
        for kind in sorted({"lost", "edited", "stray", "rules"} | readings.drift.keys()):
            drift.add_metric([kind], readings.drift.get(kind, 0))
        yield drift
        findings = GaugeMetricFamily("ipvsagent_findings", "Findings that hold now.", labels=["kind", "severity"])
        for (kind, severity), count in sorted(readings.findings.items()):
            findings.add_metric([kind, severity], count)
        yield findings
        # A gauge, whatever its name says, as in kube-proxy.
        no_local = GaugeMetricFamily(
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
            "Services with a Local traffic policy that have endpoints, but none on this node.",
            labels=["traffic_policy", "ip_family"],
        )
        for family in self._families:
            for policy in get_args(TrafficPolicy):
                no_local.add_metric([policy, family], readings.no_local_endpoints.get((Family(family), policy), 0))
        yield no_local
