"""Judges whether the outcome of a case is what the table expects."""

from __future__ import annotations

from dataclasses import dataclass

from integration.flows.table import Case
from integration.lab import Failure, Outcome

# From the first packet to the client's error. A guest with many clients at once is slow; a lost refusal is 1 s.
AT_ONCE = 0.5
# A process of this node gets EPERM at once when its datagram is dropped; other clients get nothing. Whether the rule
# meant a refusal or silence cannot be distinguished.
_SILENT = {Failure.TIMEOUT, Failure.FORBIDDEN}


@dataclass(frozen=True)
class Result:
    """The judgement of a case."""

    case: Case
    met: str
    """What happened to the client, in the table's words."""
    fault: str = ""
    """What is wrong with it, "" if nothing is."""


def judge(case: Case, outcome: Outcome, own: str, node: set[str]) -> Result:
    """Judges an outcome. own: the client's address, "" for a process of the node. node: this node's own addresses."""
    met = _met(case, outcome)
    if case.answer == "any":
        return Result(case, met)
    if outcome.failure is not None or case.protocol == "PING":
        return Result(case, met, "" if _failure_is_right(case, outcome) else f"{met}, not {case.expected}")
    if outcome.server != case.answer:
        return Result(case, met, f"{met}, not {case.expected}")
    expected = node if case.seen == "node" or (case.seen == "own" and not own) else {own}
    right = {"own": outcome.client in expected, "node": outcome.client in expected, "changed": outcome.client != own}
    if not right.get(case.seen, True):
        return Result(case, met, f"{met}, not {' or '.join(sorted(expected))}")
    return Result(case, met)


def _failure_is_right(case: Case, outcome: Outcome) -> bool:
    failure = outcome.failure
    if case.answer == "refused":
        refusals = {Failure.REFUSED, Failure.RESET}
        if case.client == "node" and case.protocol == "UDP":
            refusals.add(Failure.FORBIDDEN)
        return failure in refusals and outcome.seconds <= AT_ONCE
    if case.answer == "silence":
        return failure in _SILENT
    if case.answer == "closed":
        return failure is not None
    return case.answer == "ping" and failure is None


def _met(case: Case, outcome: Outcome) -> str:
    if outcome.failure is None:
        if case.protocol in ("PING", "HTTP"):
            return outcome.server or "ping"
        return f"{outcome.server}, seen {outcome.client}"
    if outcome.failure is Failure.TIMEOUT:
        return "silence"
    late = f" after {outcome.seconds:.2f} s" if outcome.seconds > AT_ONCE else ""
    return f"{outcome.failure}{late}"
