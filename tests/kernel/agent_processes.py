"""The agent as a process, many times over: a nursery has the modules loaded and forks one agent after the other.

A Python that starts and imports takes two seconds in a guest, a fork a few hundredths. What is forked has one thread,
nothing open of its own, and runs the command line from its beginning, in the node's namespace and with its own log.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from integration.lab import Namespace
from tests.kernel.cluster_documents import THIS_NODE, Document, manifest, node
from tests.kernel.proxied_node import eventually

CHECKOUT = Path(__file__).resolve().parents[2]
START_LIMIT = 20.0
IN_SYNC = r" in sync: .*\((\d+) writes, [\d.]+ s\)"

_NURSERY = """
import ctypes, gc, json, os, signal, sys, traceback
import ipvsagent.cli.run, ipvsagent.cli.plan, ipvsagent.cli.cleanup, ipvsagent.cli.status, ipvsagent.cli.check
import pyroute2, yaml
from ipvsagent.cli import main

libc = ctypes.CDLL(None, use_errno=True)

def run(order):
    os.setsid()
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nobody outlives the tests
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, path in ((1, order["out"]), (2, order["log"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    if libc.setns(os.open(order["namespace"], os.O_RDONLY | os.O_CLOEXEC), 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")
    main(order["words"])

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
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


class Process:
    """One run of a command. Its files are `<stem>.log` for standard error, and `.out`."""

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
        return self._handle >= 0 and not select.select([self._handle], [], [], 0)[0]

    def says(self, pattern: str, patience: float = START_LIMIT) -> re.Match[str]:
        """Waits until its log matches."""

        def look() -> re.Match[str] | None:
            alive = self.alive
            found = re.search(pattern, self.log)
            assert found or alive, f"it ended without saying {pattern!r}:\n{self.log}"
            return found

        try:
            found = eventually(look, patience)
        except AssertionError as error:
            raise AssertionError(f"{error}; not said: {pattern!r}\n{self.log}") from None
        assert found
        return found

    def wait(self, patience: float = START_LIMIT) -> int | None:
        """Its exit status; None if it was killed."""
        if self._handle >= 0:
            assert select.select([self._handle], [], [], patience)[0], f"it has not ended:\n{self.log}"
        status = self._stem.with_suffix(".status")
        return int(status.read_text()) if status.exists() else None

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """With no chance to tidy up; gone when this returns."""
        self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> int | None:
        self.send(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        self.kill()
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


class Agents:
    """Makes processes of the agent's commands in a namespace. Closing ends all of them."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.source = folder / "objects"
        self.source.mkdir()
        self._namespace = namespace
        self._made: list[Process] = []
        self._nursery = subprocess.Popen(
            [sys.executable, "-c", _NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
        )
        assert self._nursery.stdout and self._nursery.stdout.readline() == "ready\n"

    def wants(self, *documents: Document, name: str = "objects.json") -> None:
        """A file with these and this node in it."""
        self.writes(name, manifest((node(), *documents)))

    def writes(self, name: str, text: str) -> None:
        """Puts it in its place as a whole, and looking old, so that nobody waits for the writer to be back."""
        new = self.source / f".{name}"
        new.write_text(text)
        os.utime(new, (time.time() - 60, time.time() - 60))
        new.rename(self.source / name)

    def words(self, *words: str) -> list[str]:
        """The command line; what each command needs is added. The source is the folder unless an API is named."""
        given = [*words, "--state-dir", str(self.state_dir)]
        if words[0] in ("run", "plan"):
            given += ["--hostname-override", THIS_NODE]
            given += [] if "--kubeconfig" in words else ["--source", str(self.source)]
        return given

    def start(self, *words: str) -> Process:
        """Waits for nothing."""
        stem = self.folder / f"{len(self._made)}-{words[0]}"
        files = {name: str(stem.with_suffix(f".{name}")) for name in ("log", "out", "status")}
        stem.with_suffix(".log").touch()
        order = {"words": self.words(*words), "namespace": self._namespace.path, **files}
        assert self._nursery.stdin and self._nursery.stdout
        self._nursery.stdin.write(json.dumps(order) + "\n")
        self._nursery.stdin.flush()
        process = Process(int(self._nursery.stdout.readline()), stem)
        self._made.append(process)
        return process

    def in_sync(self, *words: str) -> Process:
        """`run`, once it says that the kernel is as its source wants it."""
        process = self.start("run", *words)
        process.says(IN_SYNC)
        return process

    def end_of(self, *words: str) -> Process:
        """A command that has ended by itself."""
        process = self.start(*words)
        process.wait()
        return process

    def stop_all(self) -> None:
        for process in self._made:
            process.kill()

    def close(self) -> None:
        for process in self._made:
            process.close()
        self._nursery.kill()
        self._nursery.communicate()


def executed(namespace: Namespace, words: list[str], *before: str) -> subprocess.CompletedProcess[str]:
    """A command as a person runs it: a new Python, started by the program `before`."""
    argv = [*before, sys.executable, "-m", "ipvsagent", *words]
    with namespace.entered():
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=60, cwd=CHECKOUT, stdin=subprocess.DEVNULL, check=False
        )
