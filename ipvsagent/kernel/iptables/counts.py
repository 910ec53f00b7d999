"""Counts packet rules, for metrics."""

from __future__ import annotations

import re

from msgspec import Struct

from ipvsagent.rows.packet_rules import TABLES

_TABLE = re.compile(r"^\*", re.MULTILINE)


class RuleCounts(Struct, frozen=True):
    """Counts the rules of one address family, by table."""

    held: dict[str, int]
    """Rules in our chains, as last read."""
    written: dict[str, int]
    """Rules that the last successful write contained."""


def rules_in(text: str) -> dict[str, int]:
    """Return how many rules a text for `iptables-restore` adds, by table."""
    counts = dict.fromkeys(TABLES, 0)
    for section in _TABLE.split(text):
        table, _, lines = section.partition("\n")
        if table in counts:
            counts[table] = f"\n{lines}".count("\n-A ") + f"\n{lines}".count("\n-I ")
    return counts
