"""Runs a stand's cases and keeps account of the known defects."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from integration.flows.stand import Stand
from integration.flows.table import Case, Defect, StandRow, Table
from integration.flows.verdict import Result


@dataclass(frozen=True)
class Done:
    """built, asked: seconds."""

    results: list[Result]
    host_faults: list[str]
    log: str
    built: float
    asked: float


class Run:
    def __init__(self, table: Table, defects: Iterable[Defect]) -> None:
        self.table = table
        self.defects = list(defects)
        self._seen: set[str] = set()

    def stand(self, row: StandRow, cases: Sequence[Case]) -> Done:
        began = time.monotonic()
        with Stand(row, self.table) as stand:
            built = time.monotonic()
            results = stand.results(cases)
            faults = stand.faults_of_the_host()
        asked = time.monotonic()
        self._seen |= {d.pattern for r in results if r.fault for d in self.defects if d.covers(r.case)}
        return Done(results, faults, stand.log, built - began, asked - built)

    def mark(self, result: Result) -> str:
        if not result.fault:
            return "ok"
        return "DEFECT" if self.reason(result.case) else "failed"

    def reason(self, case: Case) -> str:
        return next((defect.reason for defect in self.defects if defect.covers(case)), "")

    def note(self, result: Result) -> str:
        reason = self.reason(result.case) if result.fault else ""
        upstream = f"   ({result.case.upstream})" if result.fault and result.case.upstream else ""
        return f"{upstream}{f'   DEFECT: {reason}' if reason else ''}"

    def stale(self, cases: Iterable[Case]) -> list[str]:
        """Patterns of defects that cover some of these cases, none of which failed."""
        asked = list(cases)
        return [d.pattern for d in self.defects if d.pattern not in self._seen and any(map(d.covers, asked))]
