"""A scheduler that the kernel did not have is used as soon as it has: loading a module changes no Service."""

from __future__ import annotations

from pathlib import Path

from msgspec.structs import replace

from ipvsagent.cluster.objects import Changes, ServiceKey
from ipvsagent.kernel.fake.kernel import FakeKernel
from tests.support.history import A, B, put
from tests.support.interrupted import Calls
from tests.support.looped import Looped

LEAST = {"ipvsagent.io/scheduler": "lc"}


def schedulers(kernel: FakeKernel) -> dict[str, str]:
    return {row.id.address: row.scheduler for row in kernel.virtual_servers.values()}


def test_it_comes_while_the_agent_runs(tmp_path: Path) -> None:
    kernel = FakeKernel()
    looped = Looped(kernel, tmp_path, Calls())
    looped.node.missing_schedulers.add("lc")
    wishing = replace(A, annotations=LEAST)
    looped.run(5.0, Changes(upserts=(wishing, B), synced=True))
    assert set(schedulers(kernel).values()) == {"rr"}
    assert any("no IPVS scheduler 'lc'" in f.reason for f in looped.snapshot().findings)

    looped.node.missing_schedulers.clear()
    looped.run(15.0)
    assert {a for a, name in schedulers(kernel).items() if name == "lc"} == set(A.cluster_ips)
    assert not any("scheduler" in f.reason for f in looped.snapshot().findings)


def test_only_those_that_miss_it_are_worked_out_anew(tmp_path: Path) -> None:
    looped = Looped(FakeKernel(), tmp_path, Calls())
    pipeline = looped.loop._pipeline
    looped.node.missing_schedulers.add("lc")
    wishing = replace(A, annotations=LEAST)
    looped.run(5.0, Changes(upserts=(wishing, B), synced=True))
    pipeline.retry_missing_schedulers()
    assert pipeline._dirty == set()
    looped.node.missing_schedulers.clear()
    pipeline.retry_missing_schedulers()
    assert pipeline._dirty == {ServiceKey("ns", "a")}

    looped.run(5.0)
    looped.node.missing_schedulers.add("lc")
    looped.run(5.0, put(replace(wishing, created=2)))
    looped.run(5.0, put(A))
    looped.node.missing_schedulers.clear()
    pipeline.retry_missing_schedulers()
    assert pipeline._dirty == set(), "it does not ask for it any more"
