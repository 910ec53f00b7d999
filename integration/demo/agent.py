"""Runs the agent as an operator does: a process in the node's namespace, and its commands."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integration.demo.cluster import THIS_NODE
from integration.lab import Namespace
from integration.lab.errors import LabError
from integration.waiting import wait_until

IN_SYNC = re.compile(r"in sync: .*\((?P<writes>\d+) writes, (?P<seconds>[\d.]+) s\)")
CHECKOUT = Path(__file__).resolve().parents[2]
POLL = 0.02
ASK_LIMIT = 30.0


class AgentError(LabError):
    """The agent did not do what the demo needs to go on."""


@dataclass(frozen=True)
class Start:
    """A start of the agent. seconds: from starting the process until it is in sync."""

    writes: int
    seconds: float


class Agent:
    """Starts, stops and queries the agent. Each of its processes has a log file."""

    def __init__(self, namespace: Namespace, source: Path, directory: Path, options: tuple[str, ...] = ()) -> None:
        """options: more of `ipvsagent run`."""
        self._namespace = namespace
        self._source = source
        self._directory = directory
        self._options = options
        self._state = directory / "state"
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self.began = 0.0

    @property
    def log(self) -> Path:
        return self._directory / f"agent-{self._starts}.log"

    def start(self) -> None:
        self._starts += 1
        self.began = time.monotonic()
        words = ["run", "--source", str(self._source), "--hostname-override", THIS_NODE, *self._options]
        with self.log.open("wb") as log:
            self._process = self._namespace.start(
                self._argv(*words, *self._state_dir), output=log.fileno(), env=_environment()
            )

    def wait_in_sync(self, limit: float) -> Start:
        """Waits until the log says so, at most `limit` seconds. Raises AgentError if it does not."""
        start = wait_until(self._in_sync, limit=limit, pause=POLL)
        if start is None:
            raise AgentError(f"the agent was not in sync within {limit:.0f} s")
        return start

    def _in_sync(self) -> Start | None:
        assert self._process is not None
        status = self._process.poll()  # before the log, whose last line may be the one
        if found := IN_SYNC.search(self.log.read_text(errors="replace")):
            return Start(int(found["writes"]), time.monotonic() - self.began)
        if status is not None:
            raise AgentError(f"the agent ended by itself, exit status {status}")
        return None

    def kill(self) -> None:
        """Kills the agent as the kernel does when memory runs out, so that it cannot clean up."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self, limit: float = 20.0) -> int:
        """Stops the agent as Kubernetes does, and returns its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AgentError(f"the agent did not end within {limit:.0f} s of SIGTERM") from None

    def status(self) -> str:
        return self._ask("status")

    def status_like_ipvsadm(self) -> str:
        return self._ask("status", "-o", "ipvsadm")

    def status_document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self._ask("status", "-o", "json"))
        return document

    def cleanup(self) -> str:
        """Runs `ipvsagent cleanup`, and returns its output."""
        return self._ask("cleanup", "--yes")

    def log_tail(self, lines: int = 20) -> Iterator[str]:
        """Yields the last lines of the last log."""
        if self._starts:
            yield from self.log.read_text(errors="replace").splitlines()[-lines:]

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    @property
    def _state_dir(self) -> tuple[str, str]:
        return "--state-dir", str(self._state)

    def _argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "ipvsagent", *words]

    def _ask(self, *words: str) -> str:
        """What it wrote: on standard output, or on standard error if that is all."""
        try:
            with self._namespace.entered():
                done = subprocess.run(
                    self._argv(*words, *self._state_dir),
                    capture_output=True,
                    text=True,
                    stdin=subprocess.DEVNULL,
                    timeout=ASK_LIMIT,
                    env=_environment(),
                )
        except subprocess.TimeoutExpired:
            raise AgentError(f"`ipvsagent {' '.join(words)}` did not end within {ASK_LIMIT:.0f} s") from None
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
            raise AgentError(f"`ipvsagent {' '.join(words)}` gave exit status {done.returncode}: {' / '.join(said)}")
        return done.stdout or done.stderr


def _environment() -> dict[str, str]:
    """Returns the environment: modules of the checkout, whatever the current directory is, and a log without colour."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "NO_COLOR": "1"}
