"""From one backend to another, without a lost connection: which rules stand at what time.

| stage     | event                                        | next      | packet rules                                  |
|-----------|----------------------------------------------|-----------|-----------------------------------------------|
| INSTALLED | Services are served, others have connections | DRAINING  | of others, those that their connections need  |
| INSTALLED | Services are served, nothing is to drain     | DONE      | of others, none                               |
| DRAINING  | others have connections                      | DRAINING  | unchanged                                     |
| DRAINING  | the last connection of others has ended      | DONE      | of others, none                               |
| DONE      | any                                          | DONE      | unchanged                                     |

INSTALLED is the stage from the start of the agent: its rules stand beside those of the others, which serve until it
does. A step that fails is taken again. No I/O but through what is given; `now` is an argument.
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


class Draining(Protocol):
    """What another backend left that has connections."""

    def look(self, now: float) -> bool:
        """Take away what may go; True once nothing is left. Raises KernelError."""

    def end(self) -> None:
        """Take away what the rules of the other backend needed, when these are gone. Raises KernelError."""

    def findings(self) -> tuple[Finding, ...]: ...


class HandOver:
    """others: what drains; None = nothing does."""

    def __init__(self, others: Draining | None = None) -> None:
        self.stage = Stage.INSTALLED
        self._others = others

    def advance(self, now: float, rules: PacketFilter) -> tuple[Finding, ...]:
        """Go as far as possible, once Services are served. What is left of others is returned. Raises KernelError,
        StartError, and is then to be called again."""
        if self.stage is Stage.INSTALLED and self._others is not None:
            rules.serve()
            self.stage = Stage.DRAINING
        if self.stage is Stage.DRAINING and self._others is not None and not self._others.look(now):
            return self._others.findings()
        if self.stage is not Stage.DONE:
            rules.take_over()
            if self._others is not None:
                self._others.end()
            self.stage = Stage.DONE
        return ()
