"""Starts the agent's commands as processes in a network namespace that a test has made."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from integration.lab import Namespace
from integration.nursery import CHECKOUT, Child, nursery
from tests.support.cluster_documents import THIS_NODE, Document, manifest, node
from tests.support.proxied_node import eventually

START_LIMIT = 60.0
IN_SYNC = r" in sync: .*\((\d+) writes, [\d.]+ s\)"


class Process(Child):
    """A running command whose log and exit status a test can wait for."""

    def says(self, pattern: str, patience: float = START_LIMIT) -> re.Match[str]:
        """Wait until the log matches, and return the match. Fails as soon as the process has ended without it."""

        def look() -> re.Match[str] | None:
            alive = self.alive
            found = re.search(pattern, self.log)
            assert found or alive, f"it ended without logging {pattern!r}:\n{self.log}"
            return found

        try:
            found = eventually(look, patience)
        except AssertionError as error:
            raise AssertionError(f"{error}; not logged: {pattern!r}\n{self.log}") from None
        assert found
        return found

    def wait(self, patience: float = START_LIMIT) -> int | None:
        """Wait for the end, and return the exit status; None if a signal ended the process."""
        assert self.ends(patience), f"it has not ended:\n{self.log}"
        return self.status()

    def kill(self) -> None:
        """End the process by SIGKILL; it is gone when this returns."""
        self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> int | None:
        self.send(signal.SIGTERM)
        return self.wait()


class Agents:
    """Starts commands of the agent in a namespace. `close` ends all of them."""

    def __init__(self, namespace: Namespace, directory: Path) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.source = directory / "objects"
        self.source.mkdir()
        self._namespace = namespace
        self._made: list[Process] = []

    def wants(self, *documents: Document, name: str = "objects.json") -> None:
        """Write a manifest with these objects and the Node of this node."""
        self.writes(name, manifest((node(), *documents)))

    def writes(self, name: str, text: str) -> None:
        """Replace a source file atomically, with an old time stamp: the agent waits while a file is new."""
        new = self.source / f".{name}"
        new.write_text(text)
        os.utime(new, (time.time() - 60, time.time() - 60))
        new.rename(self.source / name)

    def words(self, *words: str) -> list[str]:
        """Return the arguments with those that the command needs; without a kubeconfig the source is the directory."""
        given = [*words, "--state-dir", str(self.state_dir)]
        if words[0] in ("run", "plan"):
            given += ["--hostname-override", THIS_NODE]
            given += [] if "--kubeconfig" in words else ["--source", str(self.source)]
        return given

    def start(self, *words: str) -> Process:
        """Start a command, and wait for nothing."""
        stem = self.directory / f"{len(self._made)}-{words[0]}"
        process = Process(nursery().start(self.words(*words), self._namespace.path, stem), stem)
        self._made.append(process)
        return process

    def in_sync(self, *words: str) -> Process:
        """Start `run`, and wait until it logs that the kernel is in sync."""
        process = self.start("run", *words)
        process.says(IN_SYNC)
        return process

    def end_of(self, *words: str) -> Process:
        """Run a command to its end."""
        process = self.start(*words)
        process.wait()
        return process

    def stop_all(self) -> None:
        for process in self._made:
            process.kill()

    def close(self) -> None:
        """End all processes, and print their logs, which pytest shows of a failed test."""
        for process in self._made:
            process.close()
            print(f"--- agent, pid {process.pid}:\n{process.log}")


def executed(namespace: Namespace, words: list[str], *before: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a new Python process, as a person does; `before` is a program that starts it."""
    argv = [*before, sys.executable, "-m", "ipvsagent", *words]
    with namespace.entered():
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=60, cwd=CHECKOUT, stdin=subprocess.DEVNULL, check=False
        )
