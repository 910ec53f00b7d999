"""Claim (d), from inside: what one slice of the audit takes, and the listing that ends a pass.

CPU time of a process is counted in ticks of the clock, too coarse for a millisecond a second; wall time of the slice
is not. Each slice comes after a pause, as in the agent, so that nothing is in the caches that would not be there.
"""

from __future__ import annotations

import statistics
import time

from integration.bench.chain import Chain
from integration.bench.worker import Measured
from ipvsagent.agent import AUDIT_EVERY, FAST_PASS, SLOW_PASS

_SLICES, _PAUSE = 40, 0.05
_FAST_PASS_UP_TO = 100


def measure(chain: Chain) -> Measured:
    count = _count(len(chain.pipeline.desired))
    taken = []
    for _ in range(_SLICES):
        time.sleep(_PAUSE)
        began = time.perf_counter()
        report = chain.pipeline.reconciler.audit(count, began)
        taken.append(time.perf_counter() - began)
        assert not report.drift, report.drift
    began = time.perf_counter()
    chain.backend.ours()
    return {
        "servers": count,
        "slice_seconds": statistics.median(taken),
        "share": statistics.median(taken) / AUDIT_EVERY,
        "listing_seconds": time.perf_counter() - began,
    }


def _count(servers: int) -> int:
    """As `Agent._audit_count`."""
    in_slow_pass = -(-servers * int(AUDIT_EVERY) // int(SLOW_PASS))
    return max(in_slow_pass, min(servers, -(-_FAST_PASS_UP_TO // int(FAST_PASS))), 1)
