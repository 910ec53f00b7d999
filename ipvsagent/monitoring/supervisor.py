"""Notifies systemd, if it started the agent, of readiness, of a status line, and that the loop still turns.

The protocol is sd_notify(3): a datagram to the socket that NOTIFY_SOCKET names. Without that variable nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping


class Supervisor:
    """Sends notifications to the service manager of the process with this environment."""

    def __init__(self, environment: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._clock = clock
        self._due = float("-inf")
        self._status = ""
        self.watchdog: float | None = None
        """Seconds within which systemd expects a heartbeat; None = it expects none."""
        for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        with contextlib.suppress(ValueError):
            microseconds = int(environment.get("WATCHDOG_USEC", "0")) if for_us and self._address else 0
            self.watchdog = microseconds / 1e6 or None

    def ready(self) -> None:
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def heartbeat(self) -> None:
        """Send a heartbeat if one is due. This is cheap enough for every turn of the loop."""
        if self.watchdog is not None and self._clock() >= self._due:
            self._due = self._clock() + self.watchdog / 4
            self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode(), self._address)
