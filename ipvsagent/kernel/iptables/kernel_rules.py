"""Reads and restores the packet rules of one address family in the kernel, and notices when others write.

Several owners of chains may share one `KernelRules`, so that one reading serves all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeVar

from ipvsagent.address import Family
from ipvsagent.errors import KernelError
from ipvsagent.kernel.iptables.commands import IptablesCommands, RulesRefused, Variant, find_variant
from ipvsagent.kernel.iptables.counts import rules_in

T = TypeVar("T")


class RuleTool(Protocol):
    """Defines the part of `IptablesCommands` that `KernelRules` needs; the fake kernel implements it, too."""

    def save(self) -> str: ...

    def restore(self, text: str) -> None: ...

    def generation(self, tables: Sequence[str]) -> Hashable: ...

    def follows(self, before: Hashable, now: Hashable, commits: int) -> bool: ...

    def close(self) -> None: ...


class KernelRules:
    """Reads and restores the rules of one family, for one thread and the network namespace it was made in."""

    family: Family
    variant: Variant
    """Which kind of iptables is used; families should share it."""
    tool: RuleTool
    failed: Callable[[bool], None]
    """Called for every write that iptables refuses; the argument is whether it was a write of a part of the rules."""
    written: dict[str, int]
    """How many rules the last successful write contained, by table."""

    def __init__(
        self,
        family: Family,
        variant: Variant | None = None,
        *,
        lock_seconds: float = 10.0,
        tool: RuleTool | None = None,
    ) -> None:
        """By default the variant is the one that the node uses. lock_seconds: how long a write waits for the writes of
        other programs. Raises StartError if iptables is not installed."""
        self.family = family
        self.variant = variant or find_variant()
        self.tool = tool or IptablesCommands(family, self.variant.mode, lock_seconds)
        self.failed = lambda partial: None
        self.written = rules_in("")
        self._tables: list[str] = []
        self._verified_at: Hashable = None  # a generation; None = not verified, or changed since
        self._read_at = self._read_took = 0.0

    def close(self) -> None:
        self.tool.close()

    def read(self, parse: Callable[[str], T]) -> T:
        """Return what `parse` makes of the output of iptables-save. Raises RulesRefused."""
        began = time.monotonic()
        parsed = parse(self.tool.save())
        self._read_at = time.monotonic()
        self._read_took = self._read_at - began
        return parsed

    def restore(self, text: str, *, partial: bool = False) -> None:
        """Write rules. partial: a failure concerns a part of the rules only. Raises RulesRefused, RulesLocked."""
        try:
            self.tool.restore(text)
        except RulesRefused:
            self.failed(partial)
            raise
        self.written = rules_in(text)

    def restore_beside(self, text: str, commits: int) -> None:
        """Write rules that no verification covers, and stay verified unless others wrote at the same time.

        commits: the number of tables in the text. Raises RulesRefused, RulesLocked, KernelError.
        """
        keep_verified = not self.modified()
        self.restore(text, partial=True)
        if keep_verified:
            now = self.tool.generation(self._tables)
            self._verified_at = now if self.tool.follows(self._verified_at, now, commits) else None

    def begin_verification(self, tables: list[str]) -> Hashable:
        """Return the generation to pass to `mark_verified`; until then the rules are not verified. Raises
        KernelError."""
        self._verified_at = None
        self._tables = tables
        return self.tool.generation(tables)

    def mark_verified(self, generation: Hashable) -> None:
        """Record that the rules read since `begin_verification` are as desired."""
        self._verified_at = generation

    def mark_unverified(self) -> None:
        self._verified_at = None

    def modified(self) -> bool:
        """Return whether rules were written since they were verified; also True if that is not known."""
        if self._verified_at is None:
            return True
        try:
            return self.tool.generation(self._tables) != self._verified_at
        except KernelError:
            return True

    def may_skip_reading(self, times: float) -> bool:
        """Return whether the rules are verified, and less time has passed since they were read than `times` as long as
        the reading took."""
        return self._verified_at is not None and time.monotonic() < self._read_at + self._read_took * times
