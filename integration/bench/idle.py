"""Claim (d), from outside: what the agent costs while nothing happens but its audit. The agent is a whole process."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from integration.bench.cluster import THIS_NODE
from integration.bench.stand import INTERFACE, Stand, agent_argv, become_quiet, environment
from integration.bench.worker import Measured
from integration.lab import LabError
from integration.waiting import wait_until

_IN_SYNC = re.compile(r"in sync: .*\((?P<writes>\d+) writes")
_START_LIMIT = 120.0
_TICK = os.sysconf("SC_CLK_TCK")


def measure(stand: Stand, source: Path, seconds: float) -> Measured:
    log = stand.state / "agent.log"
    words = ("run", "--source", str(source), "--hostname-override", THIS_NODE, "--interface", INTERFACE)
    with log.open("wb") as output:
        argv = agent_argv(*words, "--state-dir", str(stand.state))
        process = stand.namespace.start(argv, output=output.fileno(), env=environment())
    try:
        writes = wait_in_sync(process, log)
        become_quiet()
        cpu, wakeups, began = _cpu(process.pid), _wakeups(process.pid), time.perf_counter()
        time.sleep(seconds)
        spent = time.perf_counter() - began
        memory = status_of(Path("/proc", str(process.pid)))
        return {
            "idle_share": (_cpu(process.pid) - cpu) / spent,
            "wakeups": (_wakeups(process.pid) - wakeups) / spent,
            "start_writes": writes,
            "agent_rss_mib": memory["VmRSS"] / 1024,
            "agent_peak_mib": memory["VmHWM"] / 1024,
        }
    finally:
        process.terminate()
        process.wait()


def wait_in_sync(process: subprocess.Popen[bytes], log: Path) -> int:
    """Returns how many writes the agent needed. Raises LabError if it ends first, or takes longer than _START_LIMIT."""

    def in_sync_or_ended() -> bool:
        return process.poll() is not None or _IN_SYNC.search(log.read_text(errors="replace")) is not None

    wait_until(in_sync_or_ended, limit=_START_LIMIT, pause=0.1)
    if found := _IN_SYNC.search(log.read_text(errors="replace")):
        return int(found["writes"])
    raise LabError(f"the agent did not become in sync: {log.read_text(errors='replace')[-2000:]}")


def _cpu(pid: int) -> float:
    """Seconds of all threads, in user and kernel mode."""
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def _wakeups(pid: int) -> int:
    """How often its threads went to sleep."""
    return sum(status_of(thread)["voluntary_ctxt_switches"] for thread in Path("/proc", str(pid), "task").iterdir())


def status_of(directory: Path) -> dict[str, int]:
    """The numbers of a `status` file, in kB and counts."""
    found = re.findall(r"^(\w+):\s+(\d+)(?: kB)?$", (directory / "status").read_text(), re.MULTILINE)
    return {name: int(value) for name, value in found}
