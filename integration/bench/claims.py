"""What is claimed, as numbers that a run can refute. A claim about a size that was not measured is not judged."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from integration.bench.figures import Figures

_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "<": operator.lt,
    "=": operator.eq,
}


@dataclass(frozen=True)
class Verdict:
    """figure: a row of the table; size: its column, 0 for its growth. why: figures that explain it, or ""."""

    claim: str
    figure: str
    size: int
    value: float
    limit: str
    held: bool
    why: str = ""


@dataclass(frozen=True)
class _Claim:
    """sizes: from which size on. The limit is a number of the figure's unit."""

    text: str
    figure: str
    relation: str
    limit: float
    smallest: int = 0
    why: Callable[[Figures, int], str] = lambda figures, size: ""


def _why_above_floor(figures: Figures, size: int) -> str:
    whole, own, floor = (
        figures.at(name, size) * 1e6 for name in ("change.median", "own.change_seconds", "floor.median")
    )
    return (
        f"a change takes {whole:.0f} us, and the two system calls of the floor {floor:.0f} us; our own work, policy, "
        f"rows and comparison of all endpoints of the Service, takes {own:.0f} us outside of a guest"
    )


def _why_not_idle(figures: Figures, size: int) -> str:
    slice_ms, servers = figures.at("change.audit_slice_seconds", size) * 1e3, figures.at("change.audit_servers", size)
    return (
        f"the audit of {servers:.0f} virtual servers a second took {slice_ms:.1f} ms of wall time; CPU time is "
        "counted in ticks of 10 ms"
    )


def _why_slow_start(figures: Figures, size: int) -> str:
    imported, own_import, files, own_files = (
        figures.at(name, size)
        for name in ("restart.import_seconds", "own.import_seconds", "restart.files_seconds", "own.files_seconds")
    )
    return (
        f"importing takes {imported:.1f} s there and {own_import:.1f} s without a guest, reading the files "
        f"{files:.1f} s and {own_files:.1f} s; iptables is started six times"
    )


def _why_late(figures: Figures, size: int) -> str:
    taking = figures.at("program.take_seconds", size)
    return f"all objects are joined before the first row is written, which took {taking:.2f} s"


_CLAIMS = (
    _Claim("(a) at least 15 times faster than the reference", "faster than reference", ">=", 15, 1000),
    _Claim("(a) nothing is refused", "program.failures", "=", 0),
    _Claim("(b) one netlink message a change", "change.messages", "=", 1),
    _Claim("(b) one row written a change", "change.ops", "=", 1),
    _Claim("(b) no row read for a change", "change.rows_read", "=", 0),
    _Claim("(b) a change takes under 2 ms", "change.median", "<", 0.002),
    _Claim("(b) under twice the floor", "change against floor", "<", 2, why=_why_above_floor),
    _Claim("(c) an unchanged restart writes nothing", "restart.writes", "=", 0),
    _Claim("(c) an unchanged restart takes under 5 s", "restart.seconds", "<", 5, why=_why_slow_start),
    _Claim("(d) idle with audit under 1 % of a core", "idle.idle_share", "<", 0.01, why=_why_not_idle),
    _Claim("(e) at most 150 MiB resident", "program.rss_mib", "<=", 150),
    _Claim("(e) at most 150 MiB at the peak", "program.peak_mib", "<=", 150),
    _Claim("(g) from event to acknowledgement under 5 ms", "api.median", "<", 0.005),
    _Claim("(g) first lists decoded in under 1 s of CPU", "lists.cpu_seconds", "<", 1),
    _Claim("(g) at most 200 MiB resident after the first sync", "api.rss_mib", "<=", 200),
    _Claim("(g) at most 260 MiB at the peak", "api.peak_mib", "<=", 260),
    _Claim("(e) pyroute2 adds at most 15 MiB", "own.library_mib", "<=", 15),
    _Claim("(c) pyroute2 adds at most 0.4 s to a start", "own.library_seconds", "<=", 0.4),
    _Claim("(f) the API server answers within 1 s", "cold.seconds", "<", 1, why=_why_late),
)
OWN_GROWTH = 1.2


def judge(figures: Figures) -> Iterator[Verdict]:
    for claim in _CLAIMS:
        for size in figures.sizes:
            if size >= claim.smallest:
                value = figures.at(claim.figure, size)
                held = _RELATIONS[claim.relation](value, claim.limit)
                why = "" if held else claim.why(figures, size)
                yield Verdict(claim.text, claim.figure, size, value, f"{claim.relation} {claim.limit:g}", held, why)
    if len(figures.sizes) > 1:
        growth = figures.growth("own.change_seconds")
        text = f"(b) our own time a change grows by at most {OWN_GROWTH - 1:.0%}"
        yield Verdict(text, "own.change_seconds", 0, growth, f"<= {OWN_GROWTH:g}", growth <= OWN_GROWTH)
