"""Writes the log of an agent: findings that appeared or are resolved, drift, and the totals of a start."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ipvsagent.findings import Finding, FindingBook, Severity
from ipvsagent.pipeline import Origins, Pipeline
from ipvsagent.reconcile.report import Drift
from ipvsagent.status.snapshot import totals_of

log = logging.getLogger("ipvsagent")

LOGGED_DRIFT = 10


def record_and_log(book: FindingBook, origins: Origins) -> tuple[list[Finding], list[Finding]]:
    """Record what each origin found in the book, log what is new and what is resolved, and return both: (appeared,
    cleared)."""
    all_appeared: list[Finding] = []
    all_cleared: list[Finding] = []
    for origin, findings in origins:
        appeared, cleared = book.replace(origin, findings)
        for finding in appeared:
            log.log(logging.ERROR if finding.severity is Severity.ERROR else logging.WARNING, "%s", finding)
        for finding in cleared:
            log.info("resolved: %s", finding)
        all_appeared += appeared
        all_cleared += cleared
    return all_appeared, all_cleared


def log_drift(drifts: Sequence[Drift]) -> None:
    for drift in drifts[:LOGGED_DRIFT]:
        log.warning("repaired drift (%s): `%s`", drift.kind, drift.op)
    if len(drifts) > LOGGED_DRIFT:
        log.warning("repaired drift: %d more rows", len(drifts) - LOGGED_DRIFT)


def totals_text(pipeline: Pipeline) -> str:
    totals = totals_of(pipeline)
    return f"{totals.services} Services, {totals.virtual_servers} virtual servers, {totals.real_servers} real servers"
