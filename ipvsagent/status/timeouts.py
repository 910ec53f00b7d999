"""Prints timeouts of idle connections as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ipvsagent.kernel.ipvs.timeouts import IdleTimeout
from ipvsagent.status.native import Line, span


def timeout_lines(timeouts: Iterable[IdleTimeout]) -> Iterator[Line]:
    yield f"{'An idle connection':<20} {'IPVS':>8} {'conntrack':>10} {'ends after':>11}", "bold"
    for each in timeouts:
        shown = [_text(value) for value in (each.ipvs, each.conntrack, each.effective)]
        yield f"{each.connection:<20} {shown[0]:>8} {shown[1]:>10} {shown[2]:>11}", ""


def _text(seconds: int | None) -> str:
    return "-" if seconds is None else span(seconds)
