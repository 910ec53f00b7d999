"""Whether what a client met is what the table says."""

from __future__ import annotations

from dataclasses import dataclass

from integration.flows.table import Case
from integration.lab import Failure, Outcome

# From the first packet to the client's error. A guest with many clients at once is slow; a lost refusal is 1 s.
AT_ONCE = 0.5
# A process of this node learns at once, by EPERM, that its datagram was dropped. Others never do. Whether that was
# meant as a refusal or as silence cannot be told apart.
_SILENT = {Failure.TIMEOUT, Failure.FORBIDDEN}


@dataclass(frozen=True)
class Result:
    """met: what the client met, in the table's words. fault: "" if that is right."""

    case: Case
    met: str
    fault: str = ""


def judge(case: Case, outcome: Outcome, own: str, node: set[str]) -> Result:
    """own: the client's address, "" for a process of the node. node: addresses of this node, virtual ones not."""
    met = _met(case, outcome)
    if case.answer == "any":
        return Result(case, met)
    if outcome.failure is not None or case.protocol == "PING":
        return Result(case, met, "" if _failure_is_right(case, outcome) else f"{met}, not {case.expected}")
    if outcome.server != case.answer:
        return Result(case, met, f"{met}, not {case.expected}")
    wanted = node if case.seen == "node" or (case.seen == "own" and not own) else {own}
    right = {"own": outcome.client in wanted, "node": outcome.client in wanted, "changed": outcome.client != own}
    if not right.get(case.seen, True):
        return Result(case, met, f"{met}, not {' or '.join(sorted(wanted))}")
    return Result(case, met)


def _failure_is_right(case: Case, outcome: Outcome) -> bool:
    failure = outcome.failure
    if case.answer == "refused":
        told = {Failure.REFUSED, Failure.RESET}
        if case.client == "node" and case.protocol == "UDP":
            told.add(Failure.FORBIDDEN)
        return failure in told and outcome.seconds <= AT_ONCE
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
