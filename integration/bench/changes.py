"""Claim (b): one endpoint of one Service changes, a thousand times, in an otherwise settled table of any size.

Forty Services at a time, chosen by a fixed shuffle, each go through the life of one more pod: it becomes ready (a row
is added), terminates (weight 0), recovers (weight 1), terminates again and is gone (the row is deleted). Each event is
one operation of the kernel, and the floor does the same operations in the same order. Deletions are kept few and spread
the same at every size, because the kernel searches deleted real servers at each addition.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from integration.bench import floor
from integration.bench.chain import NodeChain
from integration.bench.cluster import PORT, TARGET_PORT, Cluster, Extra
from integration.bench.worker import Measured
from ipvsagent.cluster.objects import Changes

BATCH = 40
_SEED = 20260131


class Step(NamedTuple):
    name: str
    extra: Extra
    command: int
    weight: int


LIFE = (
    Step("added", Extra.READY, floor.NEW_DEST, 1),
    Step("drained", Extra.TERMINATING, floor.SET_DEST, 0),
    Step("restored", Extra.READY, floor.SET_DEST, 1),
    Step("drained", Extra.TERMINATING, floor.SET_DEST, 0),
    Step("deleted", Extra.ABSENT, floor.DEL_DEST, 0),
)


def batches(cluster: Cluster, count: int) -> Iterator[tuple[Step, list[int]]]:
    """`count` changes, rounded up to whole lives of BATCH Services."""
    chosen = random.Random(_SEED)
    width = min(BATCH, cluster.size)
    for _ in range(-(-count // (width * len(LIFE)))):
        services = chosen.sample(range(cluster.size), width)
        for step in LIFE:
            yield step, services


def measure_floor(cluster: Cluster, interface: int, count: int) -> Measured:
    """The first programming, and then the changes."""
    servers = [
        (floor.server(address, port), [floor.server(*endpoint) for endpoint in endpoints])
        for address, port, endpoints in cluster.servers()
    ]
    raw = floor.Floor()
    began = time.perf_counter()
    raw.program(servers, interface)
    figures: Measured = {"seconds": time.perf_counter() - began}
    taken: list[float] = []
    by_step: dict[str, list[float]] = {}
    for step, services in batches(cluster, count):
        for service in services:
            virtual = floor.server(cluster.cluster_ip(service), PORT)
            real = floor.server(cluster.new_pod(service), TARGET_PORT)
            before = time.perf_counter()
            raw.change(step.command, virtual, real, step.weight)
            seconds = time.perf_counter() - before
            taken.append(seconds)
            by_step.setdefault(step.name, []).append(seconds)
    raw.close()
    return {**figures, **_latencies(taken, by_step)}


def measure(chain: NodeChain, cluster: Cluster, count: int) -> Measured:
    """On a table that was programmed by this chain. Leaves it as it was."""
    figures = _counts(chain, cluster)
    taken: list[float] = []
    by_step: dict[str, list[float]] = {}
    for step, services in batches(cluster, count):
        for event in events(cluster, step, services):
            before = time.perf_counter()
            chain.changed(event)
            seconds = time.perf_counter() - before
            taken.append(seconds)
            by_step.setdefault(step.name, []).append(seconds)
    figures.update(_latencies(taken, by_step))
    return figures


def events(cluster: Cluster, step: Step, services: list[int]) -> list[Changes]:
    """Returns objects decoded again, as they would arrive: none of them is the instance that the table holds."""
    return [Changes(upserts=(cluster.slice(service, step.extra),)) for service in services]


def _latencies(taken: list[float], by_step: dict[str, list[float]]) -> Measured:
    ordered = sorted(taken)
    return {
        "changes": len(taken),
        "median": statistics.median(taken),
        "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
        **{f"median_{name}": statistics.median(values) for name, values in by_step.items()},
    }


def _counts(chain: NodeChain, cluster: Cluster) -> Measured:
    """What one life of BATCH Services makes the agent say to the kernel."""
    sockets = [_CountingSocket(table._socket._socket) for table in (chain.node.ipvs, chain.node.addresses)]
    tables: tuple[Any, ...] = (chain.node.ipvs, chain.node.addresses)
    before = chain.backend.ops_written, chain.backend.rows_read
    count = 0
    for table, counting in zip(tables, sockets, strict=True):
        table._socket._socket = counting
    for step, services in batches(cluster, 1):
        for event in events(cluster, step, services):
            chain.changed(event)
            count += 1
    for table, counting in zip(tables, sockets, strict=True):
        table._socket._socket = counting.inner
    return {
        "messages": sum(counting.messages for counting in sockets) / count,
        "calls": sum(counting.calls for counting in sockets) / count,
        "ops": (chain.backend.ops_written - before[0]) / count,
        "rows_read": (chain.backend.rows_read - before[1]) / count,
    }


class _CountingSocket:
    """Counts system calls and the messages that they send."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.calls = 0
        self.messages = 0

    def sendall(self, data: bytes) -> None:
        self.calls += 1
        offset = 0
        while offset < len(data):
            self.messages += 1
            offset += int.from_bytes(data[offset : offset + 4], "little") + 3 & ~3
        self.inner.sendall(data)

    def recv_into(self, buffer: memoryview) -> int:
        self.calls += 1
        size: int = self.inner.recv_into(buffer)
        return size
