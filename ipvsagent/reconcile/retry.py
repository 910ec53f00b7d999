"""Decides when to try again, by exponential back-off for each key. Time is an argument: it uses no clock and no
randomness."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from msgspec import Struct

K = TypeVar("K", bound=Hashable)

FIRST_DELAY = 0.5
LAST_DELAY = 30.0


class Suspect(Struct, frozen=True, gc=False):
    """Describes why a key is suspect, and when to try again."""

    error: str
    """The last error of the kernel; "" if nothing failed."""
    attempts: int
    """Failures in a row."""
    retry_at: float
    """Seconds on the caller's clock."""


class RetryQueue(Generic[K]):
    """Holds the keys whose kernel state is uncertain. A key stays until `settle`."""

    def __init__(self) -> None:
        self._suspects: dict[K, Suspect] = {}

    def fail(self, key: K, error: str, now: float, *, at_once: bool = False) -> float:
        """Record a failure and return when the key is due.

        at_once: what was believed was stale, and reading again resolves it; only the first such failure skips the wait.
        """
        attempts = self._suspects[key].attempts + 1 if key in self._suspects else 1
        delay = 0.0 if at_once and attempts == 1 else min(FIRST_DELAY * 2 ** min(attempts - 1, 16), LAST_DELAY)
        self._suspects[key] = Suspect(error, attempts, now + delay)
        return now + delay

    def mark_suspect(self, key: K, now: float) -> None:
        """Have the next round read the key, although nothing failed."""
        if key not in self._suspects:
            self._suspects[key] = Suspect("", 0, now)

    def settle(self, key: K) -> None:
        self._suspects.pop(key, None)

    def get(self, key: K) -> Suspect | None:
        return self._suspects.get(key)

    def __contains__(self, key: K) -> bool:
        return key in self._suspects

    def __iter__(self) -> Iterator[K]:
        return iter(self._suspects)

    def __len__(self) -> int:
        return len(self._suspects)

    def due(self, now: float) -> list[K]:
        return [key for key, s in self._suspects.items() if s.retry_at <= now]

    def next_due(self) -> float | None:
        return min((s.retry_at for s in self._suspects.values()), default=None)
