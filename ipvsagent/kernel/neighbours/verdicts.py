"""Decides whether a chain of iptables or nftables denies by default. Pure.

A chain denies by default if its policy is drop, or if a rule without a condition, in the chain itself or where jumps
and gotos without a condition lead, denies all packets that reach it. Rules with conditions decide about some packets
only and are skipped, except for the few conditions that can hold for all traffic of Services.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from msgspec import Struct

from ipvsagent.kernel.iptables.save_format import save_lines, split_rule

DEEPEST = 16  # NFT_JUMP_STACK_SIZE; iptables refuses loops as well


class Case(StrEnum):
    """Names packets that a rule applies to."""

    ANSWERS = "established connections"
    TRANSLATED = "translated connections"
    """Connections whose destination was translated."""
    SERVICES = "connections to Services"
    """Connections with our bit in the conntrack mark."""
    LOCAL = "local addresses"
    """Packets to an address of this node, which include all that IPVS forwards."""
    OTHER = "other"
    """Packets that another condition selects."""


class Verdict(StrEnum):
    ACCEPT = "accept"
    DENY = "deny"
    JUMP = "jump"
    GOTO = "goto"
    RETURN = "return"
    NONE = "none"


class Step(Struct, frozen=True):
    """Describes what a rule decides."""

    cases: frozenset[Case]
    """The rule applies to packets of any of these; empty for all packets."""
    verdict: Verdict
    target: str = ""
    """The chain of a jump or goto."""


ALL: frozenset[Case] = frozenset()
SOME = frozenset([Case.OTHER])


class Denial(Struct, frozen=True):
    """Describes how a chain denies by default."""

    by: str
    """The chain whose rule denies, or "" for the policy."""
    accepted: frozenset[Case] = frozenset()
    """What earlier rules accept."""


def default_denial(chain: str, drops: bool, steps: Callable[[str], Sequence[Step]]) -> Denial | None:
    """Follow a packet for which no condition holds; return None if it is not denied.

    drops: the policy of the chain is to drop. steps: returns the rules of a chain.
    """
    accepted: set[Case] = set()
    verdict, by = _follow(chain, steps, accepted, 0)
    if verdict is Verdict.DENY:
        return Denial(by, frozenset(accepted))
    if verdict is Verdict.NONE and drops:
        return Denial("", frozenset(accepted))
    return None


def _follow(chain: str, steps: Callable[[str], Sequence[Step]], accepted: set[Case], depth: int) -> tuple[Verdict, str]:
    """Return ACCEPT or DENY with the chain that decides it, or NONE if the packet returns."""
    if depth > DEEPEST:
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
    """Holds one table of iptables-save."""

    policies: dict[str, str]
    """The policies of built-in chains."""
    rules: dict[str, list[str]]
    """The rules by chain, without `-A CHAIN`."""


def saved_table(text: str, table: str) -> SavedTable:
    """Parse one table in the output of iptables-save for one family; the result is empty if it does not exist."""
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
    """Return `steps` for `default_denial`. bit: the bit of the conntrack mark of connections to Services."""
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
