"""The text that Prometheus reads, without Prometheus."""

from __future__ import annotations


def samples_of(text: str) -> dict[str, float]:
    """Return the values by name, with the labels in the name as they are written."""
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}
