"""What a source says of itself for `status`."""

from __future__ import annotations

from msgspec import Struct


class KindView(Struct, frozen=True):
    """One kind of object at an API server.

    heard: seconds since the server last said anything about it, None = never. Bookmarks come about once a minute, so
    that is the age of what is known. requests, lists: since the agent started.
    """

    kind: str
    state: str
    connected: bool
    heard: float | None
    version: str
    requests: int
    lists: int


class SourceView(Struct, frozen=True):
    """subject: the API server's address, or the files. kinds: empty for files."""

    subject: str
    synced: bool
    kinds: tuple[KindView, ...] = ()
