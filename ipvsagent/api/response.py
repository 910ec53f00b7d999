"""Reads answers of the API server before they are decoded: heads, bodies and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ipvsagent.cluster.watch_events import Status, decode_status

UNAUTHORIZED = 401


class TransportError(Exception):
    """Reports that there was no answer, or only a part of one. `str()` is a clause for people."""


class Response(Protocol):
    """Represents an answer whose head has come."""

    status: int
    retry_after: float | None
    """Seconds, if the server sent Retry-After."""

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes. Raises TransportError."""

    def shutdown(self) -> None:
        """Cut the connection, so that `pieces` ends. Any thread may call this."""

    def close(self) -> None: ...


def status_of(response: Response) -> Status:
    """Return the meaning of a refusal: status and Retry-After from the head, the rest from a `Status` in the body."""
    body = b""
    try:
        for piece in response.pieces():
            body += piece
            if len(body) > 65536:
                break
    except TransportError:
        pass
    decoded = decode_status(body)
    message = decoded.message if decoded != Status() else body[:200].decode(errors="replace").strip()
    after = response.retry_after if response.retry_after is not None else decoded.retry_after
    return Status(response.status, decoded.reason, message, after)
