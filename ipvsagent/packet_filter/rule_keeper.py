"""Keeping the packet rules as they should be, one look after the other; the main loop or a thread drives it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from ipvsagent.findings import Finding
from ipvsagent.packet_filter.packet_filter import PacketFilter

Retire = Callable[[float, PacketFilter], tuple[Finding, ...]]


class Look(Struct, frozen=True):
    """repaired: differences that somebody made and that are put right. rules: what is wrong with the packet rules.
    others: what is left of other backends."""

    repaired: int
    rules: tuple[Finding, ...]
    others: tuple[Finding, ...]


class RuleKeeper:
    """rules: for the thread that calls `look` alone. serves: whether Services are served yet. retire: takes away what
    other backends left."""

    def __init__(self, rules: PacketFilter, serves: Callable[[], bool], retire: Retire) -> None:
        self.rules = rules
        self._serves = serves
        self._retire = retire

    def look(self, now: float) -> Look:
        """Write what is pending, repair what others changed, and go on with the hand-over. Raises KernelError,
        StartError; the next look tries again."""
        self.rules.apply_pending()
        repaired = self.rules.repair()
        others = self._retire(now, self.rules) if self._serves() else ()
        return Look(repaired, tuple(self.rules.findings()), others)
