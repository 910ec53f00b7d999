"""Makes and enters network namespaces."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


class NetworkNamespace:
    """A new network namespace with loopback up and empty tables. A thread that enters it enters it alone."""

    def __init__(self) -> None:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(LIBC.unshare(CLONE_NEWNET))
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            # Without loopback the kernel has no local addresses and refuses every real server.
            self.run("ip", "link", "set", "lo", "up")
        finally:
            _check(LIBC.setns(before, CLONE_NEWNET))
            os.close(before)

    @property
    def path(self) -> str:
        """The file of the namespace, for tools such as `nsenter --net=`."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Enter the namespace with this thread and what it starts; a socket stays where it was made."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(LIBC.setns(self.fd, CLONE_NEWNET))
            yield
        finally:
            _check(LIBC.setns(before, CLONE_NEWNET))
            os.close(before)

    def run(self, *argv: str, stdin: str = "") -> str:
        """Run a program in the current namespace and return its output. Fails with its error text."""
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(argv)}: exit status {done.returncode}: {done.stderr.strip()}"
        return done.stdout

    def close(self) -> None:
        os.close(self.fd)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
