"""The inbox of the main loop: how every other thread, and every signal, speaks to it.

The one place where threads meet. A `SimpleQueue` carries it, because that alone may be written to from a signal
handler at any moment.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue

from msgspec import Struct

from ipvsagent.findings import Finding


class Findings(Struct, frozen=True):
    """All that is wrong at `origin` now; replaces what the same origin said before."""

    origin: str
    findings: tuple[Finding, ...] = ()


class Inbox:
    """Any number of threads `put`, one `take`s. Messages are any values and arrive in order."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[object] = SimpleQueue()
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def put(self, message: object) -> None:
        """Never blocks. After `close` the message is dropped."""
        if not self._closed:
            self._queue.put(message)

    def take(self, timeout: float | None) -> list[object]:
        """All pending messages; waits up to `timeout` seconds (None: for ever) for the first one.

        Empty if none came in time, or if the inbox is closed and what came before has been taken.
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
        """Wakes whoever waits."""
        self._closed = True
        self._queue.put(_CLOSED)


_CLOSED = object()
