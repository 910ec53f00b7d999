"""Defines the inbox of the main loop: the one place where threads and signal handlers meet.

It is a `SimpleQueue`, the only queue that a signal handler may write to at any moment.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue

from msgspec import Struct

from ipvsagent.findings import Finding


class Findings(Struct, frozen=True):
    """Holds all findings of `origin` now; they replace those that the same origin reported before."""

    origin: str
    findings: tuple[Finding, ...] = ()


class Inbox:
    """Queues messages in order: any number of threads `put` them, and one thread `take`s them."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[object] = SimpleQueue()
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, message: object) -> None:
        """Add a message, without blocking. After `close` it is dropped."""
        if not self._closed:
            self._queue.put(message)

    def take(self, timeout: float | None) -> list[object]:
        """Return all pending messages; wait up to `timeout` seconds (None: without limit) for the first one.

        The list is empty if none came in time, or if the inbox is closed and has been emptied.
        """
        messages = []
        try:
            messages.append(self._queue.get(timeout=0 if self._closed else timeout))
            for _ in range(self._queue.qsize()):
                messages.append(self._queue.get_nowait())
        except Empty:
            pass
        return [message for message in messages if message is not _CLOSED]

    def close(self) -> None:
        """Drop all later messages and wake the thread that waits."""
        self._closed = True
        self._queue.put(_CLOSED)


_CLOSED = object()
