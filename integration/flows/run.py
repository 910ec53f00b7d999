"""Runs the cases of a stand, and records which known defects they show."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from integration.flows.stand import Stand, Through
from integration.flows.table import Case, Defect, StandRow, Table
from integration.flows.verdict import Result


@dataclass(frozen=True)
class Done:
    """The results of a stand. built, asked: the seconds to build it and to ask its cases."""

    results: list[Result]
    host_faults: list[str]
    log: str
    built: float
    asked: float


class Run:
    def __init__(self, table: Table, defects: Iterable[Defect], through: Through = Through.FILES) -> None:
        self.table = table
        self.through = through
        self.defects = list(defects)
        self._asked: set[Case] = set()
        self._seen: set[Defect] = set()

    def stand(self, row: StandRow, cases: Sequence[Case]) -> Done:
        began = time.monotonic()
        with Stand(row, self.table, self.through) as stand:
            built = time.monotonic()
            results = stand.results(cases)
            faults = stand.faults_of_the_host()
        asked = time.monotonic()
        self._asked.update(cases)
        self._seen.update(d for d in self.defects for r in results if r.fault and d.explains(r.case, r.met))
        return Done(results, faults, stand.log, built - began, asked - built)

    def mark(self, result: Result) -> str:
        if not result.fault:
            return "ok"
        return "DEFECT" if self.reason(result) else "failed"

    def reason(self, result: Result) -> str:
        """Returns the reason of the known defect that explains a result, "" if none does."""
        return next((d.reason for d in self.defects if d.explains(result.case, result.met)), "")

    def note(self, result: Result) -> str:
        reason = self.reason(result) if result.fault else ""
        upstream = f"   ({result.case.upstream})" if result.fault and result.case.upstream else ""
        return f"{upstream}{f'   DEFECT: {reason}' if reason else ''}"

    def gone(self) -> list[Defect]:
        """Returns the defects that none of their cases shows, though all were asked."""
        return [defect for defect in self.defects if defect not in self._seen and self._all_asked(defect)]

    def _all_asked(self, defect: Defect) -> bool:
        return all(case in self._asked for case in self.table.cases if defect.is_about(case))
