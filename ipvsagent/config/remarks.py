"""What there is to say about something that was written: it is wrong, or it is not what its writer may think."""

from __future__ import annotations

from msgspec import Struct


class Remark(Struct, frozen=True, order=True, omit_defaults=True):
    """file: "" for an option. path: a field inside the file's document `kind`, `ipvs.syncPeriod`, or the option as it
    is written. reason: one sentence."""

    reason: str
    path: str = ""
    kind: str = ""
    file: str = ""

    def __str__(self) -> str:
        where = " ".join(word for word in (self.kind, self.path) if word)
        return ": ".join(word for word in (self.file, where, self.reason) if word)
