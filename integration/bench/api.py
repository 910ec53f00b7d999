"""Claim (g), end to end: from an API server to the kernel. Server, agent and the official client's Watch are processes
of their own in one network namespace, and speak TLS.

An EndpointSlice changes; the clock starts before the server has put it into its store, and stops when the agent's write
to IPVS has returned, or when the Watch has decoded it into the client's models. Changes are further apart than the
window in which the agent collects them. What follows on draining is not measured: its time is that of the next look at
the connections.
"""

from __future__ import annotations

import contextlib
import random
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from integration.bench import floor, idle
from integration.bench.changes import LIFE, Step
from integration.bench.cluster import PORT, TARGET_PORT, THIS_NODE, Cluster
from integration.bench.stand import INTERFACE, LIMIT, Stand, become_quiet, environment
from integration.bench.worker import Measured
from integration.lab import LabError

APART = 0.13
_EVENT_LIMIT = 10.0
_SEED = 20260131
_STEPS = LIFE[:2]


def measure(stand: Stand, cluster: Cluster, count: int) -> Measured:
    """In a stand where nothing is programmed."""
    kubeconfig = stand.state / "kubeconfig"
    figures: Measured = {}
    with _process(stand.namespace.entered(), "server", [str(cluster.size), str(kubeconfig)]) as server:
        _expect(server.stdout, LIMIT)
        words = ["run", "--kubeconfig", str(kubeconfig), "--hostname-override", THIS_NODE, "--interface", INTERFACE]
        log = stand.state / "agent.log"
        with (
            log.open("wb") as errors,
            _process(stand.namespace.entered(), "agent", [*words, f"--state-dir={stand.state}"], errors) as agent,
        ):
            idle.wait_in_sync(agent, log)
            become_quiet()
            memory = idle.status_of(Path("/proc", str(agent.pid)))
            figures["rss_mib"], figures["peak_mib"] = memory["VmRSS"] / 1024, memory["VmHWM"] / 1024
            ours = _changes(cluster, server, agent, count, _operation)
        with _process(stand.namespace.entered(), "watch", [str(kubeconfig)]) as watching:
            _expect(watching.stdout, LIMIT)
            official = _changes(cluster, server, watching, count, _name)
    figures["median"], figures["p99"] = statistics.median(ours), sorted(ours)[len(ours) * 99 // 100]
    figures["official_median"] = statistics.median(official)
    return figures


def measure_lists(directory: Path, size: int) -> Measured:
    """Seconds until both first lists are decoded. Needs no IPVS, and no network but the loopback."""
    kubeconfig = directory / f"kubeconfig-{size}"
    with _process(contextlib.nullcontext(), "server", [str(size), str(kubeconfig)]) as server:
        _expect(server.stdout, LIMIT)
        argv = [sys.executable, "-m", "integration.bench.api_source", str(kubeconfig)]
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, env=environment(), timeout=LIMIT, check=True)
    cpu, wall = map(float, done.stdout.split()[-2:])
    return {"cpu_seconds": cpu, "seconds": wall}


@contextlib.contextmanager
def _process(
    place: AbstractContextManager[None], what: str, words: Sequence[str], errors: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", f"integration.bench.api_{what}", *words]
    with place:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment(), bufsize=0
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_EVENT_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()


def _changes(
    cluster: Cluster,
    server: subprocess.Popen[bytes],
    witness: subprocess.Popen[bytes],
    count: int,
    sign: Callable[[Cluster, int, Step], str],
) -> list[float]:
    """Seconds of each: one more endpoint becomes ready, and terminates, one Service after the other. The first two are
    not counted: caches are cold. sign: what the witness says of the change."""
    taken: list[float] = []
    assert server.stdin
    lives = min(-(-count // len(_STEPS)) + 1, cluster.size)
    for service in random.Random(_SEED).sample(range(cluster.size), lives):
        for step in _STEPS:
            server.stdin.write(f"{service} {step.extra.value}\n".encode())
            began = float(_expect(server.stdout, _EVENT_LIMIT))
            wanted = sign(cluster, service, step).encode()
            heard: list[bytes] = []
            while not heard or wanted not in heard[-1]:
                try:
                    heard.append(_expect(witness.stdout, _EVENT_LIMIT))
                except LabError as error:
                    said = b"".join(heard).decode()
                    raise LabError(f"{step.name} of service-{service}: {error}; no {wanted!r} in: {said}") from error
            line = heard[-1]
            taken.append(float(line.split()[0]) - began)
            time.sleep(APART)
    return taken[len(_STEPS) :]


def _expect(stream: IO[bytes] | None, limit: float) -> bytes:
    """A line that comes within so many seconds. LabError if none does."""
    assert stream
    if select.select([stream], [], [], limit)[0] and (line := stream.readline()):
        return line
    raise LabError(f"a process of the benchmark said nothing for {limit:g} s, or ended")


def _operation(cluster: Cluster, service: int, step: Step) -> str:
    """Of the agent, as arguments of ipvsadm."""
    verb = {floor.NEW_DEST: "-a", floor.SET_DEST: "-e"}[step.command]
    return f"ipvsadm {verb} -t {cluster.cluster_ip(service)}:{PORT} -r {cluster.new_pod(service)}:{TARGET_PORT}"


def _name(cluster: Cluster, service: int, step: Step) -> str:
    return f" service-{service}-"
