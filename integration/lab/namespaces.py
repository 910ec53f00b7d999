"""Network namespaces without names, held by file descriptors.

They have no names because `ip netns add` leaves a mount behind when its process is killed, while a descriptor goes with
the process. They need no process each, because a socket stays in the namespace in which it was made: one thread can
serve and send in all of them, and starting processes is slow in a guest.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from integration.lab.errors import LabError

CLONE_NEWNET = 0x40000000
COMMAND_LIMIT = 60.0
_CURRENT = "/proc/thread-self/ns/net"
_LIBC = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A new network namespace: loopback is down, tables are empty. It is removed when closed and without processes."""

    def __init__(self, name: str) -> None:
        self.name = name
        before = os.open(_CURRENT, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call(_LIBC.unshare(CLONE_NEWNET), f"no new network namespace for {name}")
            self._fd = os.open(_CURRENT, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            _call(_LIBC.setns(before, CLONE_NEWNET), "cannot go back to the first network namespace")
            same = _identity(before) == _identity(getattr(self, "_fd", before))
            os.close(before)
        if same:
            raise LabError(f"the kernel gave no new network namespace for {name}: not touching the machine's own")

    @property
    def path(self) -> str:
        """The file for tools such as `nsenter --net=` or `ip link set DEVICE netns`."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Puts this thread, and what it starts, into the namespace."""
        before = os.open(_CURRENT, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call(_LIBC.setns(self._fd, CLONE_NEWNET), f"cannot enter the namespace {self.name}")
            yield
        finally:
            _call(_LIBC.setns(before, CLONE_NEWNET), f"cannot leave the namespace {self.name}")
            os.close(before)

    def socket(self, family: socket.AddressFamily, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
        """Returns a socket of this namespace, which may be used from any other."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def run(self, *argv: str, stdin: str = "") -> str:
        """Runs a program to its end, and returns its output. Raises LabError with its error text if it fails."""
        try:
            with self.entered():
                done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=COMMAND_LIMIT)
        except FileNotFoundError:
            raise LabError(f"there is no program {argv[0]} on this machine") from None
        except subprocess.TimeoutExpired:
            raise LabError(f"{' '.join(argv)} in {self.name} did not end within {COMMAND_LIMIT:.0f} s") from None
        if done.returncode != 0:
            what = f"{' '.join(argv)} in {self.name}: exit status {done.returncode}: {done.stderr.strip()}"
            raise LabError(f"{what}\n{_numbered(stdin)}" if stdin else what)
        return done.stdout

    def ip(self, commands: Iterable[str]) -> None:
        """Runs many `ip` commands in one process."""
        self.run("ip", "-batch", "-", stdin="".join(f"{command}\n" for command in commands))

    def set_kernel(self, settings: Mapping[str, str]) -> None:
        """Sets kernel settings, such as `net/ipv4/ip_forward` -> `1`; those that the kernel lacks are skipped."""
        with self.entered():
            for name, value in settings.items():
                path = Path("/proc/sys", name)
                if path.exists():
                    path.write_text(value)

    def read_proc(self, name: str) -> str:
        """Reads a file of this namespace's /proc/net."""
        with self.entered():
            return Path("/proc/thread-self/net", name).read_text()

    def start(
        self, argv: Sequence[str], *, output: int, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a process that is killed when the calling thread ends, however it ends."""
        with self.entered():
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", signal.SIGKILL.name.removeprefix("SIG"), "--", *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                start_new_session=True,  # Ctrl-C in the terminal is for us, who then stop it in good order
            )

    def close(self) -> None:
        os.close(self._fd)


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _call(result: int, what: str) -> None:
    if result == 0:
        return
    number = ctypes.get_errno()
    remedy = ": run as root" if os.geteuid() != 0 else ""
    raise LabError(f"{what}: {os.strerror(number)}{remedy}")


def _numbered(text: str) -> str:
    return "".join(f"{number:4}  {line}\n" for number, line in enumerate(text.splitlines(), 1))
