"""Starts the agent as a process many times: a nursery has the modules loaded, and forks one agent after the other.

A Python that starts and imports takes three seconds in a guest, a fork a few hundredths. What is forked has one thread,
nothing open of its own, and runs the command line from its beginning, in a namespace and with files of its own.
"""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]

_PROGRAM = """
import ctypes, gc, json, os, signal, sys, traceback
import ipvsagent.cli.run, ipvsagent.cli.plan, ipvsagent.cli.cleanup, ipvsagent.cli.status, ipvsagent.cli.check
import pyroute2, yaml
from ipvsagent.cli import main

libc = ctypes.CDLL(None, use_errno=True)

def run(order):
    os.setsid()
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nobody outlives the nursery
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, path in ((1, order["output"]), (2, order["log"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644), number)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    if libc.setns(os.open(order["namespace"], os.O_RDONLY | os.O_CLOEXEC), 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")
    main(order["words"])

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
gc.freeze()
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            run(order)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        with open(order["status"], "w") as file:
            file.write(str(status))
        os._exit(status)
    print(pid, flush=True)
"""


class Child:
    """A run of a command. Its files are `<stem>.log` for standard error, and `<stem>.out`."""

    def __init__(self, pid: int, stem: Path) -> None:
        self.pid = pid
        self._stem = stem
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self._handle = -1  # it has ended already

    @property
    def log(self) -> str:
        return self._stem.with_suffix(".log").read_text(errors="replace")

    @property
    def output(self) -> str:
        return self._stem.with_suffix(".out").read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return not self.ends(0)

    def ends(self, patience: float) -> bool:
        """Waits at most so many seconds; returns whether the process has ended."""
        return self._handle < 0 or bool(select.select([self._handle], [], [], patience)[0])

    def status(self) -> int | None:
        """Returns the exit status of a process that has ended, None if it was killed."""
        path = self._stem.with_suffix(".status")
        return int(path.read_text()) if path.exists() else None

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            signal.pidfd_send_signal(self._handle, number)

    def close(self) -> None:
        """Kills the process, and returns when it has ended."""
        self.send(signal.SIGKILL)
        self.ends(60)
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Nursery:
    """Forks agents for as long as this process lives, which needs only one: `nursery()`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
        )
        assert self._process.stdout and self._process.stdout.readline() == "ready\n"

    def start(self, words: Sequence[str], namespace: str, stem: Path) -> int:
        """Runs `ipvsagent WORDS` in the network namespace at a path; returns the process id. For the files see
        Child."""
        files = {"output": ".out", "log": ".log", "status": ".status"}
        order = {name: str(stem.with_suffix(suffix)) for name, suffix in files.items()}
        stem.with_suffix(".log").touch()
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps({"words": list(words), "namespace": namespace, **order}) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@functools.cache
def nursery() -> Nursery:
    return Nursery()
