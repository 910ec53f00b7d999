"""Claim (d), from inside: what one slice of the audit takes, and the listing that ends a pass.

CPU time of a process is counted in ticks of the clock, too coarse for a millisecond a second; wall time of the slice
is not. Each slice comes after a pause, as in the agent, so that nothing is in the caches that would not be there.
"""

from __future__ import annotations

import statistics
import time

from integration.bench.chain import Chain
from integration.bench.worker import Measured
from ipvsagent.loop import LOOK_EVERY
from ipvsagent.reconcile.audit import audit_count

_SLICES, _PAUSE = 40, 0.05


def measure(chain: Chain) -> Measured:
    count = audit_count(len(chain.pipeline.desired), LOOK_EVERY)
    taken = []
    for _ in range(_SLICES):
        time.sleep(_PAUSE)
        began = time.perf_counter()
        report = chain.pipeline.audit.look(count, began)
        taken.append(time.perf_counter() - began)
        assert not report.drift, report.drift
    began = time.perf_counter()
    chain.backend.ours()
    return {
        "servers": count,
        "slice_seconds": statistics.median(taken),
        "share": statistics.median(taken) / LOOK_EVERY,
        "listing_seconds": time.perf_counter() - began,
    }
