"""The figures as one table: a row each, a column for each size, how they grow, and the verdict on what is claimed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from integration.bench.claims import Verdict
from integration.bench.figures import Figures

_MS, _US, _S = (1e3, "ms"), (1e6, "us"), (1.0, "s")
_PLAIN, _TIMES, _MIB, _PERCENT = (1.0, ""), (1.0, "x"), (1.0, "MiB"), (1e2, "%")

_ROWS: tuple[tuple[str, str, tuple[float, str]], ...] = (
    ("(a) FIRST PROGRAMMING", "", _PLAIN),
    ("ours", "program.seconds", _S),
    ("  of which joining objects", "program.take_seconds", _S),
    ("  of which IPVS", "program.ipvs_seconds", _S),
    ("  of which addresses", "program.address_seconds", _S),
    ("  of which sets, for packet rules", "program.set_seconds", _S),
    ("reference: ipvsadm -R, ip -batch", "reference.seconds", _S),
    ("  of which ipvsadm", "reference.ipvs_seconds", _S),
    ("  of which ip", "reference.address_seconds", _S),
    ("floor: raw socket", "floor.seconds", _S),
    ("reference / ours", "faster than reference", _TIMES),
    ("ours / floor", "slower than floor", _TIMES),
    ("rows written", "program.rows", _PLAIN),
    ("refused", "program.failures", _PLAIN),
    ("(b) ONE CHANGED ENDPOINT", "", _PLAIN),
    ("netlink messages", "change.messages", _PLAIN),
    ("rows written", "change.ops", _PLAIN),
    ("rows read", "change.rows_read", _PLAIN),
    ("system calls", "change.calls", _PLAIN),
    ("event to acknowledgement, median", "change.median", _US),
    ("  row added", "change.median_added", _US),
    ("  drained, weight 0", "change.median_drained", _US),
    ("  restored", "change.median_restored", _US),
    ("  row deleted", "change.median_deleted", _US),
    ("  99 of 100 under", "change.p99", _US),
    ("floor, median", "floor.median", _US),
    ("ours / floor", "change against floor", _TIMES),
    ("(c) UNCHANGED RESTART", "", _PLAIN),
    ("ipvsagent run --once", "restart.seconds", _S),
    ("rows written", "restart.writes", _PLAIN),
    ("size of the JSON files", "files.mib", _MIB),
    ("  importing", "restart.import_seconds", _S),
    ("  opening the node", "restart.node_seconds", _S),
    ("  reading the files", "restart.files_seconds", _S),
    ("  joining objects", "restart.take_seconds", _S),
    ("  comparing with the kernel", "restart.compare_seconds", _S),
    ("    reading it alone", "restart.read_seconds", _S),
    ("(d) IDLE, WITH AUDIT", "", _PLAIN),
    ("share of a core", "idle.idle_share", _PERCENT),
    ("wake-ups a second", "idle.wakeups", _PLAIN),
    ("virtual servers a slice", "change.audit_servers", _PLAIN),
    ("a slice, each second", "change.audit_slice_seconds", _MS),
    ("the listing that ends a pass", "change.audit_listing_seconds", _MS),
    ("(e) MEMORY", "", _PLAIN),
    ("pipeline after first programming", "program.rss_mib", _MIB),
    ("  at the peak", "program.peak_mib", _MIB),
    ("agent that read files", "idle.agent_rss_mib", _MIB),
    ("  at the peak", "idle.agent_peak_mib", _MIB),
    ("garbage collector, all pauses", "program.gc_seconds", _MS),
    ("  the longest", "program.gc_longest", _MS),
    ("  a full collection", "program.gc_full", _MS),
    ("  the same after gc.freeze", "program.gc_full_frozen", _MS),
    ("(f) COLD START", "", _PLAIN),
    ("default/kubernetes answers after", "cold.seconds", _S),
    ("(g) FROM THE API SERVER", "", _PLAIN),
    ("event to acknowledgement, median", "api.median", _MS),
    ("  99 of 100 under", "api.p99", _MS),
    ("reference: official Watch, decoded", "api.official_median", _MS),
    ("reference / ours", "official against event", _TIMES),
    ("agent in sync", "api.rss_mib", _MIB),
    ("  at the peak", "api.peak_mib", _MIB),
    ("OUR OWN WORK, WITHOUT ANY GUEST", "", _PLAIN),
    ("a change, median", "own.change_seconds", _US),
    ("  while so many real servers drain", "own.drains", _PLAIN),
    ("  it is", "own.rollout_seconds", _US),
    ("decoding a slice, before it", "own.decode_seconds", _US),
    ("of a restart: importing", "own.import_seconds", _S),
    ("  importing pyroute2", "own.library_seconds", _S),
    ("  memory of it", "own.library_mib", _MIB),
    ("  reading the files", "own.files_seconds", _S),
    ("  policy and packing of all rows", "own.start_seconds", _S),
    ("first lists of the API: CPU", "lists.cpu_seconds", _S),
    ("  wall", "lists.seconds", _S),
    ("(h) ROUTE MODE", "", _PLAIN),
    ("first programming", "route.seconds", _S),
    ("  rows written", "route.rows", _PLAIN),
    ("  refused", "route.failures", _PLAIN),
    ("with an address for each", "route.bound_seconds", _S),
    ("  of which addresses", "route.bound_address_seconds", _S),
    ("  rows written", "route.bound_rows", _PLAIN),
    ("bound / routed", "route.faster", _TIMES),
)
_LABEL, _COLUMN = 36, 11


def lines(figures: Figures, verdicts: Sequence[Verdict], only: str = "") -> Iterator[str]:
    """only: the group of figures to show."""
    head = "".join(f"{f'{size:,}':>{_COLUMN}}" for size in figures.sizes)
    yield f"{'Services, 10 endpoints each':<{_LABEL}}{head}{'growth':>{_COLUMN}}  verdict"
    for label, name, (scale, unit) in _ROWS:
        if only and not name.startswith(f"{only}."):
            continue
        if not name:
            yield label
            continue
        cells = "".join(f"{_cell(figures.at(name, size) * scale, unit):>{_COLUMN}}" for size in figures.sizes)
        growth = _cell(figures.growth(name), "x") if len(figures.sizes) > 1 else ""
        yield f"  {label:<{_LABEL - 2}}{cells}{growth:>{_COLUMN}}  {_mark(name, verdicts)}".rstrip()


def failures(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        if not verdict.held:
            where = f"at {verdict.size:,} Services" if verdict.size else "from the smallest to the largest size"
            yield f"does not hold: {verdict.claim}: {verdict.value:.4g} {where}, must be {verdict.limit}"
            if verdict.why:
                yield f"  {verdict.why}"


def _mark(name: str, verdicts: Sequence[Verdict]) -> str:
    own = [verdict for verdict in verdicts if verdict.figure == name]
    if not own:
        return ""
    limits = ", ".join(dict.fromkeys(verdict.limit for verdict in own))
    return f"{'pass' if all(verdict.held for verdict in own) else 'FAIL'} ({limits})"


def _cell(value: float, unit: str) -> str:
    if math.isnan(value):
        return "-"
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2 if value >= 0.1 else 4
    return f"{value:,.{digits}f} {unit}".rstrip()
