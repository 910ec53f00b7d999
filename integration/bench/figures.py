"""Samples become figures: one value for each size, medians, and the ratios that claims are made of."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

Samples = Mapping[str, Mapping[int, Sequence[float]]]


class Figures:
    """`at` gives NaN for what was not measured, which no comparison holds for."""

    def __init__(self, samples: Samples, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sorted(sizes))
        self._samples = samples
        self._values = {
            name: {size: statistics.median(values) for size, values in by_size.items()}
            for name, by_size in samples.items()
        }
        for name, over, under in _RATIOS:
            self._values[name] = {size: _ratio(self.at(over, size), self.at(under, size)) for size in self.sizes}

    def at(self, name: str, size: int) -> float:
        return self._values.get(name, {}).get(size, float("nan"))

    def growth(self, name: str) -> float:
        """From the smallest to the largest size."""
        return _ratio(self.at(name, self.sizes[-1]), self.at(name, self.sizes[0]))

    def slowed(self) -> str:
        """How much the machine was held up by other work while this was measured, by its loops."""
        loops = [
            value
            for name, by_size in self._samples.items()
            if name.endswith(".loop_seconds")
            for values in by_size.values()
            for value in values
        ]
        if not loops:
            return "unknown"
        best = min(loops)
        return f"{statistics.median(loops) / best:.2f} times, at most {max(loops) / best:.1f} times"

    def as_document(self) -> dict[str, dict[str, float]]:
        return {name: {str(size): value for size, value in values.items()} for name, values in self._values.items()}


_RATIOS = (
    ("faster than reference", "reference.seconds", "program.seconds"),
    ("slower than floor", "program.seconds", "floor.seconds"),
    ("change against floor", "change.median", "floor.median"),
    ("route.faster", "route.bound_seconds", "route.seconds"),
    ("official against event", "api.official_median", "api.median"),
)


def _ratio(over: float, under: float) -> float:
    return over / under if under else float("nan")
