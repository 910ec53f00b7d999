"""One look at the packet rules: what it does, in which order, and what it reports."""

from __future__ import annotations

import pytest

from ipvsagent.errors import KernelError
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.packet_filter.rule_keeper import Look, RuleKeeper

WRONG = Finding(FindingKind.HOST, "packet rules", "something is in the way")
LEFT = Finding(FindingKind.HOST, "IPVS", "virtual servers are left")


class Rules:
    def __init__(self, done: list[str], refuses: str = "") -> None:
        self.done = done
        self.refuses = refuses

    def _do(self, what: str) -> None:
        if what == self.refuses:
            raise KernelError(16, f"{what} was refused")
        self.done.append(what)

    def apply_pending(self) -> None:
        self._do("pending")

    def repair(self) -> int:
        self._do("repair")
        return 2

    def findings(self) -> list[Finding]:
        return [WRONG]


def keeper(done: list[str], *, serves: bool, refuses: str = "") -> RuleKeeper:
    def retire(now: float, rules: object) -> tuple[Finding, ...]:
        done.append(f"retire at {now:.0f}")
        return (LEFT,)

    return RuleKeeper(Rules(done, refuses), lambda: serves, retire)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("serves", "after", "others"), [(False, [], ()), (True, ["retire at 7"], (LEFT,))], ids=["starting", "serving"]
)
def test_others_are_retired_once_services_are_served(serves, after, others):
    done: list[str] = []
    assert keeper(done, serves=serves).look(7.0) == Look(2, (WRONG,), others)
    assert done == ["pending", "repair", *after]


@pytest.mark.parametrize(("refused", "before"), [("pending", []), ("repair", ["pending"])])
def test_what_fails_ends_the_look_and_nothing_is_retired(refused, before):
    done: list[str] = []
    with pytest.raises(KernelError):
        keeper(done, serves=True, refuses=refused).look(7.0)
    assert done == before
