"""Computes when the loop has something to do, in seconds on its clock."""

from __future__ import annotations

from msgspec import Struct

from ipvsagent.pipeline import Pipeline

LOOK_EVERY = 1.0
HOST_LOOK_EVERY = 10.0
READ_AGAIN_AFTER = 1.0
START_DELAYS = (1.0, 30.0)
"""The wait after the first failed start, which doubles with each further one, and the longest wait."""

NEVER = float("inf")
AT_ONCE = float("-inf")


class Deadlines(Struct):
    """Holds the times at which the work of the loop is due."""

    window: float
    """The least number of seconds between the end of a round and the beginning of the next one."""
    start: float = 0.0
    """The next attempt at the first programming."""
    start_delay: float = START_DELAYS[0]
    node_addresses: float = AT_ONCE
    """Reading this node's addresses; NEVER while what was read holds."""
    look: float = 0.0
    """The next look at a part of the kernel."""
    host: float = 0.0
    """The first look that includes the host."""
    last_round: float = AT_ONCE
    """The end of the last round."""

    def next(self, pipeline: Pipeline) -> float:
        """Return the first time at which anything is due."""
        if not pipeline.reconciler.started:
            return min(self.node_addresses, self.next_start(pipeline))
        return min(self.node_addresses, self.look, self.next_round(pipeline))

    def next_start(self, pipeline: Pipeline) -> float:
        """Return when the next start is due: NEVER until the source is complete and this node's addresses are known."""
        known = pipeline.table.synced and self.node_addresses == NEVER
        return self.start if known else NEVER

    def next_round(self, pipeline: Pipeline) -> float:
        due = pipeline.next_due()
        return NEVER if due is None else max(due, self.last_round + self.window)

    def start_failed(self, now: float) -> None:
        self.start = now + self.start_delay
        self.start_delay = min(self.start_delay * 2, START_DELAYS[1])
