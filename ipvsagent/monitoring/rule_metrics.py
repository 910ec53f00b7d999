"""Exports metrics of packet rules under the names of kube-proxy's iptables mode (pkg/proxy/metrics/metrics.go). They
exist with any backend, as all backends have packet rules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ipvsagent.address import Family
from ipvsagent.rows.packet_rules import TABLES, RuleCounts

_PREFIX = "kubeproxy_sync_proxy_rules_iptables_"


class RuleMetrics(Collector):
    """Counts failed writes as they happen, and rules when a scrape asks."""

    def __init__(self, families: Collection[Family], registry: CollectorRegistry) -> None:
        self.counts: Callable[[], Mapping[Family, RuleCounts]] | None = None
        """Called in the thread of a scrape; None until there are rules."""
        self._failures = Counter(
            f"{_PREFIX}restore_failures",
            "Writes of packet rules that iptables refused.",
            ["ip_family"],
            registry=registry,
        )
        self._partial_failures = Counter(
            f"{_PREFIX}partial_restore_failures",
            "Of these, those of changed Services alone.",
            ["ip_family"],
            registry=registry,
        )
        for family in families:
            self._failures.labels(family.value)
            self._partial_failures.labels(family.value)
        registry.register(self)

    def record_failure(self, family: Family, partial: bool) -> None:
        """Record that iptables refused a write. Any thread may call this."""
        self._failures.labels(family.value).inc()
        if partial:
            self._partial_failures.labels(family.value).inc()

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        if self.counts is None:
            return
        labels = ["table", "ip_family"]
        # A gauge, whatever its name says, as in kube-proxy.
        held = GaugeMetricFamily(f"{_PREFIX}total", "Packet rules in chains of ours.", labels=labels)
        written = GaugeMetricFamily(f"{_PREFIX}last", "Packet rules that the last write had.", labels=labels)
        for family, counts in self.counts().items():
            for table in TABLES:
                held.add_metric([table, family.value], counts.held.get(table, 0))
                written.add_metric([table, family.value], counts.written[table])
        yield held
        yield written
