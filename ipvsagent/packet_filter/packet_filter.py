"""What the packet rules of this node are to the rest of the agent, whichever tool writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Event
from typing import Protocol

from ipvsagent.address import Family
from ipvsagent.config import Config
from ipvsagent.findings import Finding
from ipvsagent.kernel.iptables.counts import RuleCounts
from ipvsagent.rows import TranslationRow


class PacketFilter(Protocol):
    """The constant rules, and the translations of clients on this node, kept by one rule tool.

    For one thread, except where a method says otherwise. wake: is set when `apply_pending` has something to write.
    """

    wake: Event

    @property
    def description(self) -> str:
        """Which tool it is, and why, for the log."""

    def install(self) -> int:
        """Write what is missing; returns how many differences there were. Translations that are there stay until
        `translate` says otherwise.

        Raises KernelError, and StartError if a match that no rule set can do without is missing.
        """

    def repair(self) -> int:
        """As `install`, and next to nothing when nobody changed any rule since. To be called once a second."""

    def differences(self) -> list[str]:
        """What `install` would put right, a sentence each; only reads. Raises KernelError."""

    def configure(self, config: Config) -> None:
        """The next `apply_pending` takes it up. Any thread may call this."""

    def translate(self, rows: frozenset[TranslationRow]) -> None:
        """The next `apply_pending` takes these up, and no others. Any thread may call this."""

    def held_translations(self) -> frozenset[TranslationRow]:
        """Those that the kernel has, of the families whose rules can be read."""

    @property
    def pending(self) -> bool:
        """Whether `apply_pending` has something to write. Any thread may ask."""

    def apply_pending(self) -> None:
        """Write new translations, and the rules of a new configuration, if there are any. Raises as `install`, and is
        then to be called again."""

    def serve(self) -> None:
        """Services are served by this backend: of the rules of others those stay that their connections need. Raises
        as `install`."""

    def take_over(self) -> None:
        """Services are served by this backend and this tool: what others of ours left goes. Raises as `install`."""

    def removals(self) -> list[str]:
        """What `remove` would do, as commands."""

    def remove(self) -> None:
        """Remove what is ours, of every backend and tool."""

    def findings(self) -> list[Finding]:
        """What cannot be done here, and what stands in the way."""

    def on_failure(self, record: Callable[[Family, bool], None]) -> None:
        """Call `record` for every write that the tool refuses from now on, in the thread that writes; True: of a part
        of the rules alone."""

    def counts(self) -> Mapping[Family, RuleCounts]:
        """How many rules there are. Any thread may ask."""

    def close(self) -> None: ...
