"""What was once large must not be looked through for ever: containers that rounds look through shrink again."""

from __future__ import annotations

from sys import getsizeof

from integration.bench.cluster import THIS_NODE, Cluster, Extra
from ipvsagent.backends.assembly import pipeline_for
from ipvsagent.cluster.objects import Changes
from ipvsagent.config import Config
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.render.set_members import set_specs

SMALL = getsizeof(set(range(4)))


def test_no_set_of_the_first_programming_is_looked_through_later():
    kernel, cluster = FakeKernel(), Cluster(300, endpoints=1)
    kernel.addresses.ensure_interface()
    kernel.sets.ensure(set_specs())
    backend = KernelTables(IpvsRenderer(), kernel.ipvs, kernel.addresses, kernel.sets)
    pipeline = pipeline_for(Config(node_name=THIS_NODE), backend, window=0)
    pipeline.apply_changes(Changes(upserts=tuple(cluster.decoded()), synced=True), 1.0)
    assert not pipeline.begin(1.0).failures
    pipeline.apply_changes(Changes(upserts=(cluster.slice(7, Extra.READY),)), 2.0)
    pipeline.round(2.0)
    assert getsizeof(pipeline._dirty) <= SMALL
    assert getsizeof(pipeline.reconciler.states.dirty) <= SMALL
