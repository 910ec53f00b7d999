"""Hands Services over from one backend to another without losing a connection: which packet rules exist at what time.

| stage     | event                                        | next      | packet rules of other backends        |
|-----------|----------------------------------------------|-----------|---------------------------------------|
| INSTALLED | Services are served, others have connections | DRAINING  | those that their connections need     |
| INSTALLED | Services are served, nothing to drain        | DONE      | none                                  |
| DRAINING  | others have connections                      | DRAINING  | unchanged                             |
| DRAINING  | the last connection of others has ended      | DONE      | none                                  |
| DONE      | any                                          | DONE      | unchanged                             |

The agent starts in stage INSTALLED: its rules exist beside those of the other backends, which serve until it does. A
step that fails is retried. There is no I/O except through the arguments.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from ipvsagent.findings import Finding
from ipvsagent.packet_filter.packet_filter import PacketFilter


class Stage(StrEnum):
    INSTALLED = "installed"
    DRAINING = "draining"
    DONE = "done"


class Predecessor(Protocol):
    """Represents what another backend left on this node, and its connections."""

    def drain(self, now: float) -> bool:
        """Remove what no longer has connections. Return whether nothing is left. Raises KernelError."""

    def finish(self) -> None:
        """Remove what the rules of the other backend needed, which no longer exist. Raises KernelError."""

    def findings(self) -> tuple[Finding, ...]:
        """Return findings about what is left."""


class HandOver:
    """Executes the table above."""

    def __init__(self, predecessor: Predecessor | None = None) -> None:
        """predecessor: None if there is nothing to drain."""
        self.stage = Stage.INSTALLED
        self._predecessor = predecessor

    def advance(self, now: float, rules: PacketFilter) -> tuple[Finding, ...]:
        """Advance as far as possible, and return findings about what is left of other backends. Call it while Services
        are served. Raises KernelError, StartError; call it again then."""
        if self.stage is Stage.INSTALLED and self._predecessor is not None:
            rules.serve()
            self.stage = Stage.DRAINING
        if self.stage is Stage.DRAINING and self._predecessor is not None and not self._predecessor.drain(now):
            return self._predecessor.findings()
        if self.stage is not Stage.DONE:
            rules.take_over()
            if self._predecessor is not None:
                self._predecessor.finish()
            self.stage = Stage.DONE
        return ()
