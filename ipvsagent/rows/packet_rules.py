"""Packet rules as values: chains of our own, and the jumps that lead packets there.

A rule is the text that iptables takes after `-A CHAIN`. Rules do not come back as they were written
(`--or-mark 0x4000` is printed as `--set-xmark 0x4000/0x4000`), so each carries a short hash of its text and place
in a comment, and what the kernel holds is compared by these.
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
"""In the order in which they are written."""


class Chain(Struct, frozen=True):
    """A chain of ours, `name` begins with CHAIN_PREFIX and has at most 28 characters.

    ordered: False for rules that no two of match one packet, so that one can come or go without the others.
    """

    table: str
    name: str
    rules: tuple[str, ...] = ()
    ordered: bool = True

    def marked_rules(self) -> tuple[tuple[str, str], ...]:
        """Each rule's mark, and its text with the comment that carries the mark."""
        marked = []
        for position, rule in enumerate(self.rules):
            text = f"{self.table} {self.name} {position if self.ordered else '-'} {rule}"
            mark = hashlib.blake2s(text.encode(), digest_size=5).hexdigest()
            marked.append((mark, f"{rule} -m comment --comment {COMMENT_PREFIX}{mark}"))
        return tuple(marked)


class Place(StrEnum):
    """Where a jump of ours stands in a built-in chain.

    FRONT: before the rules of others. Whoever puts a rule in front of it is answered at a slow pace (`FrontPace`).
    DEFAULT: directly before what the chain does with packets that no rule has decided on, if that is a denial, and
    nowhere otherwise (`iptables_defaults.py`).
    """

    FRONT = "front"
    DEFAULT = "default"


class Jump(Struct, frozen=True):
    """From a built-in chain, `hook`, to one of ours."""

    table: str
    hook: str
    chain: str
    place: Place = Place.FRONT

    def __str__(self) -> str:
        return f"-j {self.chain}"

    @property
    def rule(self) -> str:
        """Its text. A jump before a default carries a comment, because it may stand in a chain of another program."""
        return before_default(self.chain) if self.place is Place.DEFAULT else str(self)


class Exemption(Struct, frozen=True):
    """A rule of ours at the head of a chain of table filter that kube-proxy left, if that is there: packets that
    `match` holds for leave the chain."""

    chain: str
    match: str

    @property
    def rule(self) -> str:
        return f"{self.match} -m comment --comment {EXEMPT_COMMENT} -j RETURN"


class RuleSet(Struct, frozen=True):
    """Everything of ours in one address family. Of several jumps in a hook the first comes first."""

    family: Family
    chains: tuple[Chain, ...] = ()
    jumps: tuple[Jump, ...] = ()
    exemptions: tuple[Exemption, ...] = ()

    def tables(self) -> list[str]:
        """Those with something in them."""
        used = {chain.table for chain in self.chains} | {jump.table for jump in self.jumps}
        return [table for table in TABLES if table in used]

    def chains_of(self, table: str) -> list[Chain]:
        return [chain for chain in self.chains if chain.table == table]

    def hooks_of(self, table: str, place: Place = Place.FRONT) -> dict[str, list[Jump]]:
        """The jumps of one table and place, by built-in chain."""
        hooks: dict[str, list[Jump]] = {}
        for jump in self.jumps:
            if jump.table == table and jump.place is place:
                hooks.setdefault(jump.hook, []).append(jump)
        return hooks


def before_default(chain: str) -> str:
    """The rule that leads to a chain of ours before a default."""
    return f"-m comment --comment {DEFAULT_COMMENT} -j {chain}"


def chain_lines(chains: list[Chain]) -> Iterator[str]:
    """Declarations, which also empty a chain that is there, and rules."""
    for chain in chains:
        yield f":{chain.name} - [0:0]"
    for chain in chains:
        for _, text in chain.marked_rules():
            yield f"-A {chain.name} {text}"
