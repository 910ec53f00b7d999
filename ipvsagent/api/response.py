"""What the API server answers, before it is decoded: heads, bodies and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ipvsagent.cluster.watch_events import Status, decode_status

UNAUTHORIZED = 401


class TransportError(Exception):
    """No answer, or half of one. `str()` is a clause for a person."""


class Response(Protocol):
    """retry_after: seconds, if the server sent a Retry-After."""

    status: int
    retry_after: float | None

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Raises TransportError."""

    def shutdown(self) -> None:
        """From any thread: whoever waits in `pieces` is woken."""

    def close(self) -> None: ...


def status_of(response: Response) -> Status:
    """What a refusal says: the head's status and Retry-After count, a body of the API tells the rest."""
    body = b""
    try:
        for piece in response.pieces():
            body += piece
            if len(body) > 65536:
                break
    except TransportError:
        pass
    said = decode_status(body)
    message = said.message if said != Status() else body[:200].decode(errors="replace").strip()
    after = response.retry_after if response.retry_after is not None else said.retry_after
    return Status(response.status, said.reason, message, after)
