"""The agent as a process, many times over, on a node that a test has made."""

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
    """One run of a command, of which a test waits for something."""

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
        assert self.ends(patience), f"it has not ended:\n{self.log}"
        return self.status()

    def kill(self) -> None:
        """With no chance to tidy up; gone when this returns."""
        self.send(signal.SIGKILL)
        self.wait()

    def stop(self) -> int | None:
        self.send(signal.SIGTERM)
        return self.wait()


class Agents:
    """Makes processes of the agent's commands in a namespace. Closing ends all of them."""

    def __init__(self, namespace: Namespace, folder: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.source = folder / "objects"
        self.source.mkdir()
        self._namespace = namespace
        self._made: list[Process] = []

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
        process = Process(nursery().start(self.words(*words), self._namespace.path, stem), stem)
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
        """Prints what they said, which pytest shows of a test that failed."""
        for process in self._made:
            process.close()
            print(f"--- agent, pid {process.pid}:\n{process.log}")


def executed(namespace: Namespace, words: list[str], *before: str) -> subprocess.CompletedProcess[str]:
    """A command as a person runs it: a new Python, started by the program `before`."""
    argv = [*before, sys.executable, "-m", "ipvsagent", *words]
    with namespace.entered():
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=60, cwd=CHECKOUT, stdin=subprocess.DEVNULL, check=False
        )
