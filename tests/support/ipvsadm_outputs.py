"""Compares what ipvsadm prints for a table with what `ipvsagent` prints, which runs in this process."""

from __future__ import annotations

import contextlib
import io
import subprocess
from pathlib import Path

from ipvsagent.cli import main


def theirs(*arguments: str, stdin: str = "") -> tuple[int, bytes]:
    """Run ipvsadm; return its exit status and standard output."""
    done = subprocess.run(["ipvsadm", *arguments], input=stdin.encode(), capture_output=True, timeout=60)
    return done.returncode, done.stdout


class Ours:
    """Runs `ipvsagent` with the state directory of a test; a call returns the exit status and standard output."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def __call__(self, command: str, *arguments: str) -> tuple[int, bytes]:
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            try:
                main([command, *arguments, "--state-dir", str(self._state_dir)])
            except SystemExit as end:
                return int(end.code or 0), out.buffer.getvalue()  # type: ignore[attr-defined]
        raise AssertionError("main ended without an exit status")

    def status(self, *arguments: str) -> tuple[int, bytes]:
        return self("status", "-o", "ipvsadm", *arguments)

    def save(self, *arguments: str) -> tuple[int, bytes]:
        return self("save", *arguments)


def assert_same(mine: tuple[int, bytes], real: tuple[int, bytes]) -> None:
    """Compare line by line, so that a report shows the one line of thousands that differs."""
    assert mine[0] == real[0]
    for number, (my_line, real_line) in enumerate(
        zip(mine[1].splitlines(True), real[1].splitlines(True), strict=False)
    ):
        assert my_line == real_line, f"line {number}"
    assert len(mine[1]) == len(real[1])
