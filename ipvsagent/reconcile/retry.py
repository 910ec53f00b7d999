"""When to try again: exponential back-off per key. Time is an argument; no clock, no randomness."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from msgspec import Struct

K = TypeVar("K", bound=Hashable)

FIRST_DELAY = 0.5
LAST_DELAY = 30.0


class Suspect(Struct, frozen=True, gc=False):
    """error: what the kernel said last. attempts: failures in a row. retry_at: seconds on the caller's clock."""

    error: str
    attempts: int
    retry_at: float


class RetryQueue(Generic[K]):
    """Keys whose kernel state is not certain. A key stays until `settle`."""

    def __init__(self) -> None:
        self._suspects: dict[K, Suspect] = {}

    def fail(self, key: K, error: str, now: float, *, at_once: bool = False) -> float:
        """When it is due. `at_once`: our belief was stale, reading again will tell; only the first such failure skips
        the wait."""
        attempts = self._suspects[key].attempts + 1 if key in self._suspects else 1
        delay = 0.0 if at_once and attempts == 1 else min(FIRST_DELAY * 2 ** min(attempts - 1, 16), LAST_DELAY)
        self._suspects[key] = Suspect(error, attempts, now + delay)
        return now + delay

    def mark_suspect(self, key: K, now: float) -> None:
        """Read the key again in the next round; nothing failed."""
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
