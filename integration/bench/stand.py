"""A place to measure in: a new network namespace with what the agent finds on a node, and quiet around it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from integration.bench.cluster import API_ENDPOINT
from integration.lab import LabError, Namespace
from integration.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
INTERFACE = "kube-ipvs0"
LIMIT = 600.0
_LOOP = 500_000
_QUIET_SHARE, _QUIET_FOR, _QUIET_LIMIT = 0.9, 0.3, 15.0


class Stand:
    """`directory` is for state, gone with the session. The interface is there, as the agent leaves it."""

    def __init__(self, name: str, directory: Path) -> None:
        self.namespace = Namespace(name)
        self.state = directory / name
        self.state.mkdir()
        self.namespace.ip(
            ["link set lo up", f"address add {API_ENDPOINT}/32 dev lo", f"link add {INTERFACE} type dummy"]
        )

    def run(self, argv: Sequence[str], stdin: str = "") -> tuple[str, float]:
        """What a program wrote to both outputs, and its seconds from start to end. LabError if it failed."""
        with self.namespace.entered():
            began = time.perf_counter()
            done = subprocess.run(
                argv,
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment(),
                timeout=LIMIT,
            )
            seconds = time.perf_counter() - began
        if done.returncode != 0:
            raise LabError(f"{' '.join(argv)}: exit status {done.returncode}: {done.stdout.strip()[-2000:]}")
        return done.stdout, seconds

    def close(self) -> None:
        self.namespace.close()


@contextlib.contextmanager
def stand(name: str, directory: Path) -> Iterator[Stand]:
    """A new one, on a machine that has nothing else to do, as far as it becomes so."""
    become_quiet()
    made = Stand(name, directory)
    try:
        yield made
    finally:
        made.close()


def become_quiet() -> bool:
    """Waits until the CPUs idle: the kernel takes a closed namespace with its 100,000 rows apart by and by. False if
    it did not become quiet, as on a machine with other work."""
    return wait_until(_is_quiet, limit=_QUIET_LIMIT, pause=0)


def _is_quiet() -> bool:
    idle, total = _cpu_ticks()
    time.sleep(_QUIET_FOR)
    idle_now, total_now = _cpu_ticks()
    return idle_now - idle >= _QUIET_SHARE * (total_now - total)


def loop_seconds() -> float:
    """How long a fixed piece of work takes: longer than at other times means that the machine does something else,
    which a guest cannot see."""
    began = time.perf_counter()
    total = 0
    for number in range(_LOOP):
        total += number
    return time.perf_counter() - began


def environment() -> dict[str, str]:
    """Runs from the checkout, without colour."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1"}


def agent_argv(*words: str) -> list[str]:
    return [sys.executable, "-m", "ipvsagent", *words]


def _cpu_ticks() -> tuple[int, int]:
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)
