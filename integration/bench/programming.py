"""Claims (a) and (e), in a process of its own: the first programming from decoded objects, and the memory it leaves."""

from __future__ import annotations

import gc
import time
from pathlib import Path

from integration.bench.chain import NodeChain
from integration.bench.cluster import Cluster
from integration.bench.worker import Measured
from ipvsagent.cluster.objects import Changes


def program(cluster: Cluster, state: Path, *, routed: bool = False) -> tuple[NodeChain, Measured]:
    """Nothing but the agent's own modules and the input may be in memory when it begins."""
    chain = NodeChain(state, routed=routed)
    changes = Changes(upserts=tuple(cluster.decoded()), synced=True)
    pauses = _Pauses()
    decoded_at = time.monotonic()
    chain.begin()
    chain.take(changes)
    taken = time.monotonic()
    report = chain.start()
    ended = time.monotonic()
    del changes
    memory = _memory()
    figures: Measured = {
        "seconds": ended - decoded_at,
        "take_seconds": taken - decoded_at,
        "ipvs_seconds": chain.ipvs.seconds,
        "address_seconds": chain.addresses.seconds,
        "set_seconds": chain.sets.seconds,
        "rows": report.written,
        "failures": len(report.failures),
        "decoded_at": decoded_at,
        "rss_mib": memory["VmRSS"],
        "peak_mib": memory["VmHWM"],
        **pauses.figures(),
    }
    return chain, figures


def measure(cluster: Cluster, state: Path, *, routed: bool = False) -> Measured:
    chain, figures = program(cluster, state, routed=routed)
    figures["rows_in_kernel"] = chain.held()
    return figures


class _Pauses:
    """The garbage collector's: so far, and what one full collection costs before and after `gc.freeze`."""

    def __init__(self) -> None:
        self._began = self._seconds = self._longest = 0.0
        gc.callbacks.append(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        else:
            pause = time.perf_counter() - self._began
            self._seconds += pause
            self._longest = max(self._longest, pause)

    def figures(self) -> Measured:
        gc.callbacks.remove(self._note)
        before = _full_collection()
        tracked = len(gc.get_objects())
        gc.freeze()
        after = _full_collection()
        gc.unfreeze()
        return {
            "gc_seconds": self._seconds,
            "gc_longest": self._longest,
            "gc_tracked": tracked,
            "gc_full": before,
            "gc_full_frozen": after,
        }


def _full_collection() -> float:
    began = time.perf_counter()
    gc.collect()
    return time.perf_counter() - began


def _memory() -> dict[str, float]:
    """MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        name: int(value.split()[0]) / 1024
        for name, _, value in (line.partition(":") for line in lines)
        if "VmR" in name or "VmH" in name
    }
