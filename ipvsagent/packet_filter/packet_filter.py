"""Defines the interface between the packet rules of this node and the rest of the agent, whichever tool writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Event
from typing import Protocol

from ipvsagent.address import Family
from ipvsagent.config import Config
from ipvsagent.findings import Finding
from ipvsagent.rows import TranslationRow
from ipvsagent.rows.packet_rules import RuleCounts


class PacketFilter(Protocol):
    """Keeps the constant rules, and the translations for clients on this node, through one rule tool.

    It is for one thread, except for methods that any thread may call.
    """

    wake: Event
    """Set when `apply_pending` has something to write."""

    @property
    def description(self) -> str:
        """Return the tool, and why it was chosen, for the log."""

    def install(self) -> int:
        """Write the rules that differ; return the number of differences. Translations in the kernel stay until
        `translate` replaces them.

        Raises KernelError, and StartError if a required match is missing.
        """

    def repair(self) -> int:
        """Do the same as `install`, at almost no cost if no rule was changed. Call it once a second."""

    def differences(self) -> list[str]:
        """Return what `install` would repair, one sentence each, without a write. Raises KernelError."""

    def configure(self, config: Config) -> None:
        """Make the next `apply_pending` use this configuration. Any thread may call this."""

    def translate(self, rows: frozenset[TranslationRow]) -> None:
        """Make the next `apply_pending` write these translations in place of all others. Any thread may call this."""

    def held_translations(self) -> frozenset[TranslationRow]:
        """Return the translations in the kernel, of the families whose rules can be read."""

    @property
    def pending(self) -> bool:
        """Return whether `apply_pending` has something to write. Any thread may read this."""

    def apply_pending(self) -> None:
        """Write new translations, and the rules of a new configuration, if there are any. Raises what `install`
        raises; the caller should then call it again."""

    def serve(self) -> None:
        """Remove rules of other backends, now that this one serves Services, except those that their connections
        still need. Raises what `install` raises."""

    def take_over(self) -> None:
        """Remove all rules that other backends and tools of ours left. Raises what `install` raises."""

    def removals(self) -> list[str]:
        """Return what `remove` would do, as commands."""

    def remove(self) -> None:
        """Remove our rules of every backend and tool."""

    def findings(self) -> list[Finding]:
        """Return what the rules cannot do on this node, and which rules of others obstruct them."""

    def on_failure(self, record: Callable[[Family, bool], None]) -> None:
        """Call `record` for every write that the tool refuses from now on, in the thread that writes. Its second
        argument is whether the write was of a part of the rules."""

    def counts(self) -> Mapping[Family, RuleCounts]:
        """Return the numbers of rules by family. Any thread may call this."""

    def close(self) -> None: ...
