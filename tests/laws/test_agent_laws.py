"""Path independence on the real kernel: any short history ends where its last input alone would have led.

test_laws.py holds the same law, and many more, against the fake kernel with thousands of histories; here are
few, for what only the real one knows: refusals, order, what a write leaves behind.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipvsagent.backends.assembly import pipeline_for
from ipvsagent.backends.ipvs import IpvsBackend
from ipvsagent.cluster.objects import Changes, Object, ObjectKey
from ipvsagent.config import Config
from tests.support.generated_cluster import NODE, services, slices
from tests.support.network_namespace import NetworkNamespace

pytestmark = pytest.mark.kernel

Cluster = dict[ObjectKey, Object]

clusters = st.lists(st.one_of(services, slices), max_size=6).map(lambda items: {item.key: item for item in items})


class Agent:
    """A pipeline on the real tables of a new namespace, driven as its loop does; hours take no time."""

    def __init__(self, namespace: NetworkNamespace, state_dir: Path) -> None:
        self.namespace = namespace
        self.now = 1000.0
        self._config = Config(node_name=NODE, state_dir=state_dir)
        self._open()
        self._known: Cluster = {}

    def _open(self) -> None:
        self.node = IpvsBackend.open(self._config)
        self.node.addresses.ensure_interface()
        self._tables = self.node.kernel_tables()
        self.pipeline = pipeline_for(self._config, self._tables, window=self._config.window)
        self.pipeline.set_node_addresses(self.node.addresses.node_addresses())

    def see(self, cluster: Cluster) -> None:
        changes = Changes(
            upserts=tuple(item for key, item in cluster.items() if self._known.get(key) != item),
            removals=tuple(self._known.keys() - cluster.keys()),
            synced=True,
        )
        self._known = dict(cluster)
        self.pipeline.apply_changes(changes, self.now)
        reconciler = self.pipeline.reconciler
        report = self.pipeline.round(self.now) if reconciler.started else self.pipeline.start(self.now)
        assert not report.failures, report.failures

    def restart(self) -> None:
        known, self._known = self._known, {}
        self.close()
        self._open()
        self.see(known)

    def rest(self) -> int:
        """Until every drain is over; how many rows were written."""
        before = self._tables.ops_written
        for seconds in (0.2, 1.0, 2 * self._config.drain_timeout, 1.0):
            self.now += seconds
            self.pipeline.audit.poll_drains(100, self.now)
            report = self.pipeline.round(self.now)
            assert not report.failures, report.failures
        return self._tables.ops_written - before

    def kernel(self) -> list[str]:
        """As the operator's tools tell it."""
        virtual = sorted(line.strip() for line in self.namespace.run("ipvsadm", "-Sn").splitlines())
        words = self.namespace.run("ip", "-o", "address", "show", "dev", "kube-ipvs0").split()
        return virtual + sorted(word for word in words if "/" in word)

    def close(self) -> None:
        self.node.ipvs.close()
        self.node.addresses.close()
        self.node.ownership.ledger.close()


def state_after(histories: Iterable[Cluster], *, restarts: Sequence[bool] = ()) -> list[str]:
    """What a new namespace's kernel holds in the end. Also: nothing is left to do, now or for a new agent."""
    namespace = NetworkNamespace()
    try:
        with namespace.entered(), tempfile.TemporaryDirectory() as folder:
            agent = Agent(namespace, Path(folder))
            for cluster, restart in zip(histories, [*restarts, *[False] * 99], strict=False):
                agent.see(cluster)
                agent.now += 0.05
                if restart:
                    agent.restart()
            agent.rest()
            held = agent.kernel()
            assert agent.rest() == 0
            assert not agent.pipeline.audit.look(100, agent.now).drift
            agent.restart()
            assert agent.kernel() == held
            agent.close()
            return held
    finally:
        namespace.close()


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=st.lists(clusters, min_size=2, max_size=5), restarts=st.lists(st.booleans(), max_size=4))
def test_the_last_input_alone_decides(history: list[Cluster], restarts: list[bool]) -> None:
    assert state_after(history, restarts=restarts) == state_after(history[-1:])
