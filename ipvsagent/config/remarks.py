"""Defines remarks about configuration files and options: errors and warnings."""

from __future__ import annotations

from msgspec import Struct


class Remark(Struct, frozen=True, order=True, omit_defaults=True):
    """Describes an error or a warning about one value, or about a whole file."""

    reason: str
    """One sentence."""
    path: str = ""
    """A field of the document, `ipvs.syncPeriod`, or the option as typed."""
    kind: str = ""
    """The kind of the document, "" for an option."""
    file: str = ""
    """The name of the file, "" for an option."""

    def __str__(self) -> str:
        where = " ".join(word for word in (self.kind, self.path) if word)
        return ": ".join(word for word in (self.file, where, self.reason) if word)
