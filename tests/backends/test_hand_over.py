"""The table of hand_over.py, a line at a time."""

from __future__ import annotations

import pytest

from ipvsagent.backends.hand_over import HandOver, Stage
from ipvsagent.errors import KernelError
from ipvsagent.findings import Finding, FindingKind

LEFT = (Finding(FindingKind.HOST, "IPVS", "virtual servers are left"),)


class Rules:
    """Notes what is done to the packet rules. refuses: what raises once."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.refuses = ""

    def _do(self, what: str) -> None:
        if self.refuses == what:
            self.refuses = ""
            raise KernelError(16, f"{what} was refused")
        self.done.append(what)

    def serve(self) -> None:
        self._do("serve")

    def take_over(self) -> None:
        self._do("take over")


class Predecessor:
    """connections: how many are left; each call of drain ends one."""

    def __init__(self, rules: Rules, connections: int) -> None:
        self.rules = rules
        self.connections = connections

    def drain(self, now: float) -> bool:
        self.rules.done.append("drain")
        self.connections -= 1
        return self.connections < 0

    def finish(self) -> None:
        self.rules.done.append("finish")

    def findings(self) -> tuple[Finding, ...]:
        return LEFT


@pytest.mark.parametrize(
    ("stage", "connections", "after", "done", "left"),
    [
        (Stage.INSTALLED, 1, Stage.DRAINING, ["serve", "drain"], LEFT),
        (Stage.INSTALLED, 0, Stage.DONE, ["serve", "drain", "take over", "finish"], ()),
        (Stage.INSTALLED, None, Stage.DONE, ["take over"], ()),
        (Stage.DRAINING, 1, Stage.DRAINING, ["drain"], LEFT),
        (Stage.DRAINING, 0, Stage.DONE, ["drain", "take over", "finish"], ()),
        (Stage.DONE, 1, Stage.DONE, [], ()),
        (Stage.DONE, None, Stage.DONE, [], ()),
    ],
)
def test_a_line_of_the_table(stage, connections, after, done, left):
    rules = Rules()
    made = HandOver(None if connections is None else Predecessor(rules, connections))
    made.stage = stage
    assert made.advance(0.0, rules) == left
    assert (made.stage, rules.done) == (after, done)


@pytest.mark.parametrize(
    ("refused", "stage", "first", "then"),
    [
        ("serve", Stage.INSTALLED, [], ["serve", "drain", "take over", "finish"]),
        ("take over", Stage.DRAINING, ["serve", "drain"], ["drain", "take over", "finish"]),
    ],
)
def test_a_step_that_fails_is_taken_again(refused, stage, first, then):
    rules = Rules()
    rules.refuses = refused
    made = HandOver(Predecessor(rules, 0))
    with pytest.raises(KernelError):
        made.advance(0.0, rules)
    assert (made.stage, rules.done) == (stage, first)
    rules.done.clear()
    assert made.advance(1.0, rules) == ()
    assert (made.stage, rules.done) == (Stage.DONE, then)
