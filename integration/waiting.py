"""Waiting for something to become true."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_not_result, stop_after_delay, wait_fixed

T = TypeVar("T")


def wait_until(look: Callable[[], T], *, limit: float, pause: float) -> T:
    """Calls `look` until it returns something true, and returns what it returned last. Times are in seconds."""
    retrying = Retrying(
        retry=retry_if_not_result(bool),
        stop=stop_after_delay(limit),
        wait=wait_fixed(pause),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    return retrying(look)
