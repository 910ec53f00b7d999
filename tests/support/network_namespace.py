"""Network namespaces for tests."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


class NetworkNamespace:
    """A network namespace of its own, loopback up, empty tables. Belongs to the thread that enters it."""

    def __init__(self) -> None:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(LIBC.unshare(CLONE_NEWNET))
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            # First of all: without it the kernel has no local addresses and refuses every real server.
            self.run("ip", "link", "set", "lo", "up")
        finally:
            _check(LIBC.setns(before, CLONE_NEWNET))
            os.close(before)

    @property
    def path(self) -> str:
        """For tools that take a file, such as `nsenter --net=`."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and what it starts, is in the namespace; sockets stay in the one they were made in."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(LIBC.setns(self.fd, CLONE_NEWNET))
            yield
        finally:
            _check(LIBC.setns(before, CLONE_NEWNET))
            os.close(before)

    def run(self, *argv: str, stdin: str = "") -> str:
        """Runs a program in the current namespace; its output. Its error text is in the failure."""
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(argv)}: exit status {done.returncode}: {done.stderr.strip()}"
        return done.stdout

    def close(self) -> None:
        os.close(self.fd)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
