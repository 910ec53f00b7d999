"""Runs programs: the agent's commands, Python code, pytest, and stand-ins for other programs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path


def ipvsagent(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ipvsagent", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "HOME": "/nonexistent", "KUBECONFIG": "", "KUBERNETES_SERVICE_HOST": "", **environment},
    )


CHECKOUT = Path(__file__).resolve().parents[2]


def python(code: str, *before: str) -> str:
    """Run code in another Python process, which the program `before` starts, and return its output."""
    argv = [*before, sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, cwd=CHECKOUT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


READ_ONLY = ("unshare", "--mount", "sh", "-c", 'mount -o bind,ro /proc/sys /proc/sys && exec "$@"', "sh")


@contextlib.contextmanager
def program_named(name: str, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    shutil.copy("/bin/sleep", directory / name)
    process = subprocess.Popen([directory / name, "60"])
    try:
        while Path(f"/proc/{process.pid}/comm").read_text().strip() != name:
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


def run_pytest(tests: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_it.py").write_text(tests)
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.conftest",
        f"--config-file={CHECKOUT}/pyproject.toml",
    ]
    return subprocess.run(
        [*words, f"--rootdir={CHECKOUT}", *options, str(directory)],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=60,
    )
