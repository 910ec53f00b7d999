"""Claim (c), from inside: where the time of an unchanged restart goes. The steps are those of `once.apply_once`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from integration.bench.worker import Measured


def measure(source: Path, state: Path) -> Measured:
    """Seconds of each phase; `import` is that of the agent's command, from a bare interpreter."""
    marks = [time.perf_counter()]
    import ipvsagent.cli
    import ipvsagent.cli.run  # noqa: F401

    marks.append(time.perf_counter())
    from integration.bench.chain import NodeChain
    from ipvsagent.sources.manifests import ManifestSource

    before_node = time.perf_counter()
    chain = NodeChain(state)
    after_node = time.perf_counter()
    changes, _ = ManifestSource([source]).load_once()
    loaded = time.perf_counter()
    chain.begin()
    chain.take(changes)
    taken = time.perf_counter()
    report = chain.start()
    compared = time.perf_counter()
    reading = sum(1 for _ in chain.node.ipvs.read(None)) and time.perf_counter() - compared
    return {
        "import_seconds": marks[1] - marks[0],
        "node_seconds": after_node - before_node,
        "files_seconds": loaded - after_node,
        "take_seconds": taken - loaded,
        "compare_seconds": compared - taken,
        "read_seconds": reading,
        "writes": report.written,
    }
