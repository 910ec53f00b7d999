"""A part of the packet table with Services from an API server: the whole is read from files (test_flows.py)."""

from __future__ import annotations

import pytest

from integration.flows.run import Run
from integration.flows.stand import Through
from integration.flows.table import Case, read_defects, read_table
from integration.flows.verdict import Result

pytestmark = pytest.mark.kernel
TABLE = read_table()
CASES = [case for case in TABLE.cases if case.stand == "routed" and case.section in ("core", "no endpoints", "ping")]


@pytest.fixture(scope="module")
def run() -> Run:
    return Run(TABLE, read_defects(), Through.API)


@pytest.fixture(scope="module")
def results(run: Run) -> dict[Case, Result]:
    row = next(stand for stand in TABLE.stands if stand.name == "routed")
    return {result.case: result for result in run.stand(row, CASES).results}


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in CASES])
def test_packets_fare_as_the_table_says(case: Case, run: Run, results: dict[Case, Result]) -> None:
    result = results[case]
    if result.fault and (reason := run.reason(result)):
        pytest.xfail(f"{result.fault}: {reason}")
    assert not result.fault, case.upstream
