"""Describes the state of a source, for `status`."""

from __future__ import annotations

from msgspec import Struct


class KindView(Struct, frozen=True):
    """Describes the state of one kind of object at an API server."""

    kind: str
    state: str
    connected: bool
    heard: float | None
    """Seconds since the server last sent anything of this kind, None = never. Bookmarks come about once a minute, so
    this is the age of what is known."""
    version: str
    requests: int
    """Requests since the agent started."""
    lists: int
    """Complete lists since the agent started."""


class SourceView(Struct, frozen=True):
    """Describes the state of a source as a whole."""

    subject: str
    """The API server's address, or the paths of the files."""
    synced: bool
    kinds: tuple[KindView, ...] = ()
    """Empty for files."""
