"""The packet table (integration/flows/table.txt) on a kernel: one test per case.

On two stands these are all cases; on the others, which differ from them in one thing each, every question is asked by
two protocols, one in IPv4 and one in IPv6, that take turns. `python -m integration.flows` asks all of them everywhere.

All cases of a stand are asked at once, when the first of them is due. A case that a known defect explains is an
expected failure, with the reason; a defect that shows nowhere any more fails.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from integration.flows.run import Done, Run
from integration.flows.table import Case, Defect, covering, read_defects, read_table
from integration.flows.verdict import Result

pytestmark = pytest.mark.kernel
WHOLE = ("routed", "policies")
ALL = read_table()
TABLE = replace(ALL, cases=covering(ALL.cases, WHOLE))
STANDS = [stand.name for stand in TABLE.stands]


class Answers:
    """Of every stand that some test asked for; or why there are none."""

    def __init__(self) -> None:
        self.run = Run(TABLE, read_defects())
        self._done: dict[str, Done | Exception] = {}
        self._results: dict[Case, Result] = {}

    def stand(self, name: str) -> Done:
        if name not in self._done:
            row = next(stand for stand in TABLE.stands if stand.name == name)
            try:
                done = self.run.stand(row, [case for case in TABLE.cases if case.stand == name])
                self._results |= {result.case: result for result in done.results}
                self._done[name] = done
            except Exception as error:
                self._done[name] = error
        found = self._done[name]
        if isinstance(found, Exception):
            raise found
        return found

    def result(self, case: Case) -> Result:
        self.stand(case.stand)
        return self._results[case]


@pytest.fixture(scope="module")
def answers() -> Answers:
    return Answers()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in TABLE.cases])
def test_packets_fare_as_the_table_says(case: Case, answers: Answers) -> None:
    result = answers.result(case)
    if result.fault and (reason := answers.run.reason(result)):
        pytest.xfail(f"{result.fault}: {reason}")
    assert not result.fault, case.upstream


@pytest.mark.parametrize("stand", STANDS)
def test_what_belongs_to_others_is_left_alone(stand: str, answers: Answers) -> None:
    assert not answers.stand(stand).host_faults


@pytest.mark.parametrize("defect", [pytest.param(d, id=f"{d.cases}: {d.met}") for d in read_defects()])
def test_known_defects_are_still_there(defect: Defect, answers: Answers) -> None:
    for stand in {case.stand for case in TABLE.cases if defect.is_about(case)}:
        answers.stand(stand)
    assert defect not in answers.run.gone(), "no case fails so any more: remove the line from defects.txt"
