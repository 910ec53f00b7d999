"""Keeps the packet rules as desired, one look at a time; the main loop or a thread drives it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from ipvsagent.findings import Finding
from ipvsagent.packet_filter.packet_filter import PacketFilter

Retire = Callable[[float, PacketFilter], tuple[Finding, ...]]


class Look(Struct, frozen=True):
    """Holds the result of one look."""

    repaired: int
    """How many differences were repaired."""
    rules: tuple[Finding, ...]
    """Problems with the packet rules."""
    others: tuple[Finding, ...]
    """What is left of other backends."""


class RuleKeeper:
    """Repairs the packet rules, and retires other backends."""

    def __init__(self, rules: PacketFilter, serves: Callable[[], bool], retire: Retire) -> None:
        """rules: for the thread that calls `look` only. serves: returns whether Services are served yet. retire:
        removes what other backends left."""
        self.rules = rules
        self._serves = serves
        self._retire = retire

    def look(self, now: float) -> Look:
        """Write what is pending, repair what others changed, and continue the hand-over. Raises KernelError,
        StartError; the next look retries."""
        self.rules.apply_pending()
        repaired = self.rules.repair()
        others = self._retire(now, self.rules) if self._serves() else ()
        return Look(repaired, tuple(self.rules.findings()), others)
