"""A clock that only the test moves."""

from __future__ import annotations


class Clock:
    """Stands for `time.monotonic`; `sleep` stands for `time.sleep`."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
