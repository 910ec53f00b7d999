"""How often a jump of ours is put in front of the rules of others again.

Others want to come first, too, and put their own jump in front at each refresh. Two programs that answer each other
would write without end, so each answer doubles the time until the next one, up to `LONGEST`. Pure: `now` is an
argument.
"""

from __future__ import annotations

FIRST, LONGEST = 60.0, 3600.0
"""Seconds from one move to the next."""


class FrontPace:
    """For the rules of one address family; times in seconds of the caller's clock."""

    def __init__(self) -> None:
        self._delay = FIRST
        self._moved: float | None = None

    def may_move(self, now: float) -> bool:
        return self._moved is None or now >= self._moved + self._delay

    def moved(self, now: float) -> None:
        """A jump was put in front. A move long after the one before it begins the pace again."""
        if self._moved is not None:
            calm = now - self._moved > 2 * self._delay
            self._delay = FIRST if calm else min(2 * self._delay, LONGEST)
        self._moved = now
