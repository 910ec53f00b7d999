"""Whether a chain of a packet filter denies by default, whichever program made it: iptables or nftables. Pure.

A chain denies by default if its policy is to drop, or a rule without a condition denies everything that comes so far;
also if a jump or goto without a condition leads to such a rule. Rules with other conditions decide about some packets
only, and are passed over, but for the few whose condition can be true of a Service's traffic as such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from msgspec import Struct

from ipvsagent.kernel.iptables.save_format import save_lines, split_rule

_DEEPEST = 16  # NFT_JUMP_STACK_SIZE; iptables has loops refused as well


class Case(StrEnum):
    """Tells which packets a rule is about.

    ANSWERS: those of established connections. TRANSLATED: those of a connection that has another destination than its
    client thinks. SERVICES: those whose connection has our bit in its conntrack mark. LOCAL: those to an address of
    this node, as all are that IPVS is to take. OTHER: some, by another condition.
    """

    ANSWERS = "established connections"
    TRANSLATED = "translated connections"
    SERVICES = "connections to Services"
    LOCAL = "local addresses"
    OTHER = "other"


class Verdict(StrEnum):
    ACCEPT = "accept"
    DENY = "deny"
    JUMP = "jump"
    GOTO = "goto"
    RETURN = "return"
    NONE = "none"


class Step(Struct, frozen=True):
    """Describes a rule. cases: it is about packets of any of them; empty = all packets. target: of a jump or goto."""

    cases: frozenset[Case]
    verdict: Verdict
    target: str = ""


ALL: frozenset[Case] = frozenset()
SOME = frozenset([Case.OTHER])


class Denial(Struct, frozen=True):
    """Says how a chain denies by default. by: the chain whose rule denies, "" = the policy does. accepted: what rules
    before it accept."""

    by: str
    accepted: frozenset[Case] = frozenset()


def default_denial(chain: str, drops: bool, steps: Callable[[str], Sequence[Step]]) -> Denial | None:
    """Follows a packet for which no condition holds; None if it is not denied.

    drops: the policy of the chain is to drop. steps: returns the rules of a chain."""
    accepted: set[Case] = set()
    verdict, by = _follow(chain, steps, accepted, 0)
    if verdict is Verdict.DENY:
        return Denial(by, frozenset(accepted))
    if verdict is Verdict.NONE and drops:
        return Denial("", frozenset(accepted))
    return None


def _follow(chain: str, steps: Callable[[str], Sequence[Step]], accepted: set[Case], depth: int) -> tuple[Verdict, str]:
    """Returns ACCEPT or DENY with the chain that says so, or NONE if the packet comes back."""
    if depth > _DEEPEST:
        return Verdict.NONE, ""
    for step in steps(chain):
        if step.cases:
            if step.verdict is Verdict.ACCEPT:
                accepted |= step.cases
            elif step.verdict is Verdict.RETURN and Case.LOCAL in step.cases:
                return Verdict.NONE, ""
        elif step.verdict in (Verdict.ACCEPT, Verdict.DENY):
            return step.verdict, chain
        elif step.verdict is Verdict.RETURN:
            return Verdict.NONE, ""
        elif step.verdict in (Verdict.JUMP, Verdict.GOTO):
            found = _follow(step.target, steps, accepted, depth + 1)
            if found[0] is not Verdict.NONE or step.verdict is Verdict.GOTO:
                return found
    return Verdict.NONE, ""


_STATES = {"ESTABLISHED": Case.ANSWERS, "DNAT": Case.TRANSLATED}


class SavedTable(Struct, frozen=True):
    """Holds a table as iptables-save prints it. policies: of built-in chains. rules: by chain, without `-A CHAIN`."""

    policies: dict[str, str]
    rules: dict[str, list[str]]


def saved_table(text: str, table: str) -> SavedTable:
    """Parses the output of iptables-save for one family; the result is empty if the table is not there."""
    found = SavedTable({}, {})
    is_inside = False
    for line in save_lines(text):
        if line.startswith("*"):
            is_inside = line[1:] == table
        elif is_inside and line.startswith(":"):
            chain, policy, *_ = [*line[1:].split(" "), ""]
            found.rules[chain] = []
            if policy != "-":
                found.policies[chain] = policy
        elif is_inside and line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            found.rules.setdefault(chain, []).append(rule)
    return found


def saved_steps(table: SavedTable, bit: int) -> Callable[[str], Sequence[Step]]:
    """Returns what `default_denial` needs. bit: of the conntrack mark that connections to Services have."""
    return lambda chain: [_saved_step(rule, table, bit) for rule in table.rules.get(chain, ())]


def _saved_step(rule: str, table: SavedTable, bit: int) -> Step:
    matches, target, goto = split_rule(rule)
    if not target:
        return Step(SOME, Verdict.NONE)
    cases = _saved_cases(matches.split(), bit)
    if target == "ACCEPT":
        return Step(cases, Verdict.ACCEPT)
    if target in ("DROP", "REJECT"):
        return Step(cases, Verdict.DENY)
    if target == "RETURN":
        return Step(cases, Verdict.RETURN)
    if target in table.rules:
        return Step(cases, Verdict.GOTO if goto else Verdict.JUMP, target)
    return Step(cases, Verdict.NONE)


def _saved_cases(words: list[str], bit: int) -> frozenset[Case]:
    match words:
        case []:
            return ALL
        case ["-m", "conntrack", "--ctstate", states] | ["-m", "state", "--state", states]:
            found = frozenset(_STATES[state] for state in states.split(",") if state in _STATES)
            return found or SOME
        case ["-m", "connmark", "--mark", mark] if mark == f"{bit:#x}/{bit:#x}":
            return frozenset([Case.SERVICES])
        case ["-m", "addrtype", "--dst-type", "LOCAL"]:
            return frozenset([Case.LOCAL])
    return SOME
