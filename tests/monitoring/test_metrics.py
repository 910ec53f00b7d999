"""What Prometheus reads, through the exposition that it reads."""

from __future__ import annotations

import re
from pathlib import Path

from ipvsagent.address import Family
from ipvsagent.cluster.objects import Changes, ObjectKey, Service
from ipvsagent.kernel.iptables.counts import rules_in
from ipvsagent.monitoring import metrics as metrics_module
from ipvsagent.monitoring.metrics import Metrics, MetricsQuery, Readings
from ipvsagent.rows.packet_rules import RuleCounts
from ipvsagent.status.snapshot import Totals
from tests.support.exposition import samples_of

READINGS = Readings(
    totals=Totals(3, 4, 5, 6, confirmed=5, suspect=0, shadowed=0, draining=1),
    in_sync=True,
    backend="ipvs",
    node="a",
    ops_written=70,
    rows_read=80,
    drift={"lost": 2},
    findings={("host", "warning"): 1},
    no_local_endpoints={(Family.IPV6, "external"): 2},
)


def samples(metrics: Metrics) -> dict[str, float]:
    text, content_type = metrics.exposition("")
    assert content_type.startswith("text/plain")
    return samples_of(text.decode())


def answering(message: object) -> None:
    assert isinstance(message, MetricsQuery)
    message.answer.put(READINGS)


def test_names_of_kube_proxy() -> None:
    metrics = Metrics((Family.IPV4, Family.IPV6), answering)
    service = Service(namespace="a", name="b")
    metrics.changed(Changes(upserts=(service,), removals=(ObjectKey("EndpointSlice", "a", "c"),)))
    found = samples(metrics)
    assert found['kubeproxy_sync_proxy_rules_service_changes_total{ip_family="IPv6"}'] == 1
    assert found['kubeproxy_sync_proxy_rules_endpoint_changes_pending{ip_family="IPv4"}'] == 1
    assert found['kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}'] == 0
    metrics.round_ended(0.003, success=True)
    found = samples(metrics)
    assert found['kubeproxy_sync_proxy_rules_endpoint_changes_pending{ip_family="IPv4"}'] == 0
    assert found['kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.004"}'] == 1
    assert found['kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le="0.002"}'] == 0
    assert found['kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}'] > 0
    metrics.record_answer("/livez", 503)
    assert samples(metrics)['kubeproxy_proxy_livez_total{code="503"}'] == 1


def test_a_failed_round_leaves_its_changes_pending() -> None:
    metrics = Metrics((Family.IPV4,), answering)
    metrics.changed(Changes(upserts=(Service(namespace="a", name="b"),)))
    metrics.round_ended(0.1, success=False)
    assert samples(metrics)['kubeproxy_sync_proxy_rules_service_changes_pending{ip_family="IPv4"}'] == 1


def test_our_own() -> None:
    found = samples(Metrics((Family.IPV4,), answering))
    assert found["ipvsagent_virtual_servers"] == 5 and found["ipvsagent_draining_real_servers"] == 1
    assert found['ipvsagent_drift_total{kind="lost"}'] == 2 and found['ipvsagent_drift_total{kind="stray"}'] == 0
    assert found['ipvsagent_findings{kind="host",severity="warning"}'] == 1
    assert found["ipvsagent_writes_total"] == 70
    assert any(name.startswith("ipvsagent_info{") for name in found) and "process_cpu_seconds_total" in found


def test_services_without_a_local_endpoint_and_flows_that_were_ended() -> None:
    metrics = Metrics((Family.IPV4, Family.IPV6), answering)
    metrics.record_flow_look(Family.IPV4, 0.003, 2)
    found = samples(metrics)
    name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
    assert found[f'{name}{{ip_family="IPv6",traffic_policy="external"}}'] == 2
    assert found[f'{name}{{ip_family="IPv4",traffic_policy="internal"}}'] == 0
    assert found['kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family="IPv4"}'] == 2
    assert found['kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family="IPv6"}'] == 0
    assert found['kubeproxy_conntrack_reconciler_sync_duration_seconds_bucket{ip_family="IPv4",le="0.004"}'] == 1


def test_packet_rules() -> None:
    metrics = Metrics((Family.IPV4, Family.IPV6), answering)
    name = "kubeproxy_sync_proxy_rules_iptables"
    found = samples(metrics)
    assert found[f'{name}_restore_failures_total{{ip_family="IPv6"}}'] == 0
    assert found[f'{name}_partial_restore_failures_total{{ip_family="IPv4"}}'] == 0
    assert f'{name}_total{{ip_family="IPv4",table="nat"}}' not in found, "nobody knows yet"
    metrics.rules.counts = lambda: {Family.IPV4: RuleCounts({"nat": 70, "filter": 7}, rules_in("*nat\n-A A -j B\n"))}
    metrics.rules.record_failure(Family.IPV4, True)
    metrics.rules.record_failure(Family.IPV4, False)
    found = samples(metrics)
    assert found[f'{name}_restore_failures_total{{ip_family="IPv4"}}'] == 2
    assert found[f'{name}_partial_restore_failures_total{{ip_family="IPv4"}}'] == 1
    assert found[f'{name}_total{{ip_family="IPv4",table="nat"}}'] == 70
    assert found[f'{name}_total{{ip_family="IPv4",table="mangle"}}'] == 0
    assert found[f'{name}_last{{ip_family="IPv4",table="nat"}}'] == 1


def test_a_loop_that_hangs_leaves_the_last_numbers(monkeypatch) -> None:
    monkeypatch.setattr(metrics_module, "ANSWER_WITHIN", 0.05)
    hangs = False

    def ask(message: object) -> None:
        if not hangs:
            answering(message)

    metrics = Metrics((Family.IPV4,), ask)
    assert samples(metrics)["ipvsagent_services"] == 3
    hangs = True
    assert samples(metrics)["ipvsagent_services"] == 3
    never = Metrics((Family.IPV4,), ask)
    assert "ipvsagent_services" not in samples(never)
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}' in samples(never)


def test_the_documentation_lists_our_own() -> None:
    metrics = Metrics((Family.IPV4,), answering)
    metrics.record_events("created", 1)
    found = {name.partition("{")[0] for name in samples(metrics)}
    ours = {name.removeprefix("ipvsagent_") for name in found if name.startswith("ipvsagent_")}
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    section = page.partition("## Metrics")[2].partition("\n## ")[0]
    named = {name.partition("{")[0] for name in re.findall(r"`([\w{},]+)`", section.partition("| --- |")[2])}
    assert named - {"status", "kind"} == ours
