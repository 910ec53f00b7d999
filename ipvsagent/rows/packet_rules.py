"""Defines packet rules as values: chains of our own, and the jumps that lead packets there.

A rule is the text that iptables takes after `-A CHAIN`. iptables does not print rules as they were written
(`--or-mark 0x4000` is printed as `--set-xmark 0x4000/0x4000`), so the comment of each has a short hash of its text and
place, and the rules that the kernel holds are compared by these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct

from ipvsagent.address import Family

CHAIN_PREFIX = "IPVSAGENT-"
COMMENT_PREFIX = "ipvsagent:"
DEFAULT_COMMENT = f"{COMMENT_PREFIX}before-the-default"
EXEMPT_COMMENT = f"{COMMENT_PREFIX}served"
INSIDE = f"{CHAIN_PREFIX}INSIDE"
"""The chain of translations, in table nat."""
TABLES = ("mangle", "nat", "filter")
"""The tables that have rules of ours, in the order in which they are written."""


class Chain(Struct, frozen=True):
    """Describes a chain of ours."""

    table: str
    name: str
    """It begins with CHAIN_PREFIX and has at most 28 characters."""
    rules: tuple[str, ...] = ()
    ordered: bool = True
    """False if no two of the rules match the same packet, so that one can be added or deleted without the others."""

    def marked_rules(self) -> tuple[tuple[str, str], ...]:
        """Return each rule's mark, and its text with the comment that has the mark."""
        marked = []
        for position, rule in enumerate(self.rules):
            text = f"{self.table} {self.name} {position if self.ordered else '-'} {rule}"
            mark = hashlib.blake2s(text.encode(), digest_size=5).hexdigest()
            marked.append((mark, f"{rule} -m comment --comment {COMMENT_PREFIX}{mark}"))
        return tuple(marked)


class Place(StrEnum):
    """Names the position of a jump of ours in a built-in chain."""

    FRONT = "front"
    """Before the rules of others. If another program puts a rule in front of it, it moves back at a slow pace
    (`FrontPace`)."""
    DEFAULT = "default"
    """Directly before the rule or policy for packets that no rule has decided on, if that is a denial; otherwise there
    is no jump (kernel/iptables/defaults.py)."""


class Jump(Struct, frozen=True):
    """Describes a jump from a built-in chain, `hook`, to one of ours."""

    table: str
    hook: str
    chain: str
    place: Place = Place.FRONT

    def __str__(self) -> str:
        return f"-j {self.chain}"

    @property
    def rule(self) -> str:
        """Return its text. A jump before a default has a comment, because it may be in a chain of another program."""
        return before_default(self.chain) if self.place is Place.DEFAULT else str(self)


class Exemption(Struct, frozen=True):
    """Describes a rule of ours at the head of a chain that kube-proxy left in table filter, if that exists: packets
    that match it return from the chain."""

    chain: str
    match: str

    @property
    def rule(self) -> str:
        return f"{self.match} -m comment --comment {EXEMPT_COMMENT} -j RETURN"


class RuleSet(Struct, frozen=True):
    """Holds all packet rules of ours in one address family, with the jumps of a hook in their order."""

    family: Family
    chains: tuple[Chain, ...] = ()
    jumps: tuple[Jump, ...] = ()
    exemptions: tuple[Exemption, ...] = ()

    def tables(self) -> list[str]:
        """Return the tables that have chains or jumps of ours."""
        used = {chain.table for chain in self.chains} | {jump.table for jump in self.jumps}
        return [table for table in TABLES if table in used]

    def chains_of(self, table: str) -> list[Chain]:
        return [chain for chain in self.chains if chain.table == table]

    def hooks_of(self, table: str, place: Place = Place.FRONT) -> dict[str, list[Jump]]:
        """Return the jumps of one table and place, by built-in chain."""
        hooks: dict[str, list[Jump]] = {}
        for jump in self.jumps:
            if jump.table == table and jump.place is place:
                hooks.setdefault(jump.hook, []).append(jump)
        return hooks


def before_default(chain: str) -> str:
    """Return the rule that jumps to a chain of ours before a default."""
    return f"-m comment --comment {DEFAULT_COMMENT} -j {chain}"


def chain_lines(chains: list[Chain]) -> Iterator[str]:
    """Yield the lines that write chains: declarations, which also empty a chain that exists, then rules."""
    for chain in chains:
        yield f":{chain.name} - [0:0]"
    for chain in chains:
        for _, text in chain.marked_rules():
            yield f"-A {chain.name} {text}"


class RuleCounts(Struct, frozen=True):
    """Numbers of rules of one address family, by table."""

    held: dict[str, int]
    """Rules in our chains, as last read."""
    written: dict[str, int]
    """Rules that the last successful write contained."""
