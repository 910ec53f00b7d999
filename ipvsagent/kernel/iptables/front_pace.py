"""Limits how often a jump of ours is moved in front of the rules of others again.

Other programs also put their own jump in front, at each refresh. Two programs that react to each other would write
without end, so each move doubles the delay until the next, up to `LONGEST`. Pure: `now` is an argument.
"""

from __future__ import annotations

FIRST, LONGEST = 60.0, 3600.0
"""Delays between moves, in seconds."""


class FrontPace:
    """Paces the moves of one address family; times are seconds of the caller's clock."""

    def __init__(self) -> None:
        self._delay = FIRST
        self._moved: float | None = None

    def may_move(self, now: float) -> bool:
        return self._moved is None or now >= self._moved + self._delay

    def moved(self, now: float) -> None:
        """Record a move. One that comes long after the previous move resets the delay."""
        if self._moved is not None:
            calm = now - self._moved > 2 * self._delay
            self._delay = FIRST if calm else min(2 * self._delay, LONGEST)
        self._moved = now
