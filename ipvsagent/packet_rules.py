"""Packet rules as values: chains of our own, and the jumps that lead packets there.

A rule is the text that iptables takes after `-A CHAIN`. Rules do not come back as they were written
(`--or-mark 0x4000` is printed as `--set-xmark 0x4000/0x4000`), so each carries a short hash of its text and place
in a comment, and what the kernel holds is compared by these.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from msgspec import Struct

from ipvsagent.address import Family

CHAIN_PREFIX = "IPVSAGENT-"
COMMENT_PREFIX = "ipvsagent:"
TABLES = ("mangle", "nat", "filter")
"""In the order in which they are written."""


class Chain(Struct, frozen=True):
    """A chain of ours, `name` begins with CHAIN_PREFIX and has at most 28 characters."""

    table: str
    name: str
    rules: tuple[str, ...] = ()

    def marked_rules(self) -> tuple[tuple[str, str], ...]:
        """Each rule's mark, and its text with the comment that carries the mark."""
        marked = []
        for position, rule in enumerate(self.rules):
            text = f"{self.table} {self.name} {position} {rule}"
            mark = hashlib.blake2s(text.encode(), digest_size=5).hexdigest()
            marked.append((mark, f"{rule} -m comment --comment {COMMENT_PREFIX}{mark}"))
        return tuple(marked)


class Jump(Struct, frozen=True):
    """From a built-in chain, `hook`, to one of ours; before all rules of others."""

    table: str
    hook: str
    chain: str

    def __str__(self) -> str:
        return f"-j {self.chain}"


class RuleSet(Struct, frozen=True):
    """Everything of ours in one address family. Of several jumps in a hook the first comes first."""

    family: Family
    chains: tuple[Chain, ...] = ()
    jumps: tuple[Jump, ...] = ()

    def tables(self) -> list[str]:
        """Those with something in them."""
        used = {chain.table for chain in self.chains} | {jump.table for jump in self.jumps}
        return [table for table in TABLES if table in used]

    def chains_of(self, table: str) -> list[Chain]:
        return [chain for chain in self.chains if chain.table == table]

    def hooks_of(self, table: str) -> dict[str, list[Jump]]:
        hooks: dict[str, list[Jump]] = {}
        for jump in self.jumps:
            if jump.table == table:
                hooks.setdefault(jump.hook, []).append(jump)
        return hooks

    def restore_text(self) -> str:
        """For `iptables-restore --noflush` on a node that has nothing of ours yet."""
        return "".join(f"{line}\n" for table in self.tables() for line in self._table_lines(table))

    def _table_lines(self, table: str) -> Iterator[str]:
        yield f"*{table}"
        yield from chain_lines(self.chains_of(table))
        for hook, jumps in self.hooks_of(table).items():
            yield from insert_lines(hook, jumps)
        yield "COMMIT"


def chain_lines(chains: list[Chain]) -> Iterator[str]:
    """Declarations, which also empty a chain that is there, and rules."""
    for chain in chains:
        yield f":{chain.name} - [0:0]"
    for chain in chains:
        for _, text in chain.marked_rules():
            yield f"-A {chain.name} {text}"


def insert_lines(hook: str, jumps: list[Jump]) -> Iterator[str]:
    for position, jump in enumerate(jumps, 1):
        yield f"-I {hook} {position} {jump}"
