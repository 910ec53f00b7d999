"""Claim (d), from inside: what one slice of the audit takes, and the listing that ends a pass.

CPU time of a process is counted in ticks of the clock, too coarse for a millisecond a second; wall time of the slice
is not. Each slice comes after a pause, as in the agent, so that nothing is in the caches that would not be there.
"""

from __future__ import annotations

import statistics
import time

from integration.bench.chain import NodeChain
from integration.bench.worker import Measured
from ipvsagent.agent.deadlines import LOOK_EVERY
from ipvsagent.reconcile.audit import Pace

_SLICES, _PAUSE = 40, 0.05


def measure(chain: NodeChain) -> Measured:
    pace = Pace()
    taken, counts = [], []
    for _ in range(_SLICES):
        time.sleep(_PAUSE)
        counts.append(pace.count(len(chain.pipeline.desired), LOOK_EVERY))
        began = time.perf_counter()
        report = chain.pipeline.audit.look(counts[-1], began)
        taken.append(time.perf_counter() - began)
        pace.record(counts[-1], taken[-1])
        assert not report.drift, report.drift
    began = time.perf_counter()
    chain.backend.ours()
    return {
        "servers": statistics.median(counts),
        "slice_seconds": statistics.median(taken),
        "share": statistics.median(taken) / LOOK_EVERY,
        "listing_seconds": time.perf_counter() - began,
    }
