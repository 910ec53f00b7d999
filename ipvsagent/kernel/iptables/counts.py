"""How many packet rules there are, and how writing them went."""

from __future__ import annotations

import re

from msgspec import Struct

from ipvsagent.rows.packet_rules import TABLES

_TABLE = re.compile(r"^\*", re.MULTILINE)


class RuleCounts(Struct, frozen=True):
    """Of one address family, by table. held: rules in chains of ours. written: those of the last write that worked."""

    held: dict[str, int]
    written: dict[str, int]


def rules_in(text: str) -> dict[str, int]:
    """By table: rules that are written by a text for `iptables-restore`."""
    counts = dict.fromkeys(TABLES, 0)
    for section in _TABLE.split(text):
        table, _, lines = section.partition("\n")
        if table in counts:
            counts[table] = f"\n{lines}".count("\n-A ") + f"\n{lines}".count("\n-I ")
    return counts
