"""Defines kernel tables: the interface that the fake and the real kernel implement, and the rows that are observed in
them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from enum import StrEnum
from typing import Protocol as TypingProtocol

from msgspec import Struct

from ipvsagent.address import Address
from ipvsagent.model import VirtualServerId
from ipvsagent.rows.ops import Failure, Op, Row
from ipvsagent.rows.shared import RouteRow, SetMemberRow, TranslationRow


class Owner(StrEnum):
    """Names the owner of a row. Only OURS takes part in the diff; FOREIGN rows are listed and never changed."""

    OURS = "ours"
    FOREIGN = "foreign"


class Counters(Struct, frozen=True, gc=False):
    """Holds IPVS statistics: totals since the virtual or real server was added, then rates per second."""

    connections: int = 0
    in_packets: int = 0
    out_packets: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    cps: int = 0
    in_pps: int = 0
    out_pps: int = 0
    in_bps: int = 0
    out_bps: int = 0


class Observed(Struct, frozen=True, gc=False):
    """Describes a row that a kernel table holds, with its owner and, for real servers, its connections."""

    row: Row
    owner: Owner = Owner.OURS
    active: int = 0
    inactive: int = 0
    persistent: int = 0
    counters: Counters | None = None


Keys = (
    Collection[VirtualServerId]
    | Collection[Address]
    | Collection[SetMemberRow]
    | Collection[RouteRow]
    | Collection[TranslationRow]
    | None
)
"""What `KernelTable.read` may be asked for; None = everything."""


class KernelTable(TypingProtocol):
    """Reads and writes one kind of kernel state, of the real kernel or of the fake."""

    def read(self, keys: Keys) -> Iterable[Observed]:
        """Yield all rows of the table if `keys` is None, foreign rows included, and otherwise only those asked for.

        Keys are `VirtualServerId`s for IPVS (each with its real servers), `Address`es for addresses, `SetMemberRow`s
        for sets, `RouteRow`s for routes, `TranslationRow`s for translations. Rows that do not exist are not yielded.
        Raises KernelError only if the table as a whole cannot be read.
        """
        ...

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        """Apply ops in order, continue after a failure, and return the failures.

        A DELETE of a row that does not exist succeeds.
        """
        ...
