"""Our own work, in a process of its own: everything up to the packed message, which goes nowhere.

It needs no IPVS, so it is measured on this machine's own kernel even where the rest needs a guest. There, touching
memory that is not mapped yet costs thirty times as much, and figures of our own work would be figures of the guest.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from integration.bench.chain import Chain
from integration.bench.changes import batches, events
from integration.bench.cluster import API_ENDPOINT, THIS_NODE, Cluster, Extra
from integration.bench.worker import Measured
from ipvsagent.address import Address
from ipvsagent.cluster.decode import decode_json
from ipvsagent.cluster.objects import Changes
from ipvsagent.config import Config
from ipvsagent.kernel.ipvs import requests as ipvs_requests
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.rows import Failure, Keys, Observed, Op
from ipvsagent.sources.manifests import ManifestSource

_SOME_FAMILY = 30
_SLICES = 200
_LIBRARY = """
import time, ipvsagent.agent.agent, ipvsagent.cli.run
from pathlib import Path
from ipvsagent.kernel.pyroute import Rtnetlink
resident = lambda: int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0])
before, began = resident(), time.perf_counter()
Rtnetlink().close()
print(time.perf_counter() - began, resident() - before)
"""


class _Taken:
    """Holds nothing, and takes everything."""

    def read(self, keys: Keys) -> Iterator[Observed]:
        return iter(())

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        return []


class _Packed(_Taken):
    def write(self, ops: Sequence[Op]) -> list[Failure]:
        ipvs_requests.pack_ops(_SOME_FAMILY, ops, 1)
        return []


def measure(cluster: Cluster, count: int, source: Path) -> Measured:
    """source: the cluster's files."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import ipvsagent.cli.run"], check=True)
    imported = time.perf_counter()
    changes, _ = ManifestSource([source]).load_once()
    read = time.perf_counter()
    config = Config(node_name=THIS_NODE)
    backend = KernelTables(IpvsRenderer(), _Packed(), _Taken(), _Taken(), translations=_Taken())
    chain = Chain(config, backend, lambda: [Address(API_ENDPOINT)])
    chain.begin()
    chain.take(changes)
    chain.start()
    started = time.perf_counter()
    return {
        **library_cost(),
        "import_seconds": imported - began,
        "files_seconds": read - imported,
        "start_seconds": started - read,
        "decode_seconds": _decoding(cluster),
        "change_seconds": _changes(chain, cluster, count),
        "drains": _begin_rollout(chain, cluster),
        "rollout_seconds": _changes(chain, cluster, count),
    }


def library_cost() -> Measured:
    """What a start and a resident agent pay for pyroute2, which the first of its calls imports: the best of three."""
    runs = [subprocess.run([sys.executable, "-c", _LIBRARY], stdout=subprocess.PIPE, check=True) for _ in range(3)]
    seconds, kib = (min(values) for values in zip(*[map(float, run.stdout.split()) for run in runs], strict=True))
    return {"library_seconds": seconds, "library_mib": kib / 1024}


def _changes(chain: Chain, cluster: Cluster, count: int) -> float:
    """Seconds of one. Clocked by the batch: a clock read for each would be part of what it measures. Not CPU time:
    some kernels count it in ticks."""
    taken = []
    for step, services in batches(cluster, count):
        changed = events(cluster, step, services)
        began = time.perf_counter()
        for event in changed:
            chain.changed(event)
        taken.append((time.perf_counter() - began) / len(changed))
    return statistics.median(taken)


def _begin_rollout(chain: Chain, cluster: Cluster) -> int:
    """One real server of every fifth Service drains from now on; how many do."""
    for service in range(0, cluster.size, 5):
        piece = cluster.slice(service)
        chain.changed(Changes(upserts=(replace(piece, endpoints=piece.endpoints[1:]),)))
    return len(chain.pipeline.reconciler.drains)


def _decoding(cluster: Cluster) -> float:
    """Seconds for one slice, from JSON, before it is an event."""
    texts = [cluster.slice_text(service % cluster.size, Extra.READY) for service in range(_SLICES)]
    began = time.perf_counter()
    for text in texts:
        decode_json("EndpointSlice", text)
    return (time.perf_counter() - began) / _SLICES
