"""The packet table sees what it is there for: without a rule of ours, cases fail in the section that is about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from integration.flows.run import Run
from integration.flows.stand import Stand
from integration.flows.table import read_defects, read_table
from integration.lab import Namespace

pytestmark = pytest.mark.kernel
TABLE = read_table()
RUN = Run(TABLE, read_defects())
SECTIONS = {"core", "externalTrafficPolicy Local", "host protection", "ping", "source ranges"}
CASES = [
    case
    for case in TABLE.cases
    if case.stand == "routed" and case.section in SECTIONS and case.protocol in ("TCP", "PING")
]
TOOLS = ("iptables", "ip6tables")
# What is planted: table, chain, which of its rules are taken away; and the section that is to see it.
PLANTS: dict[str, tuple[str, str, Callable[[str], bool], str]] = {
    "nothing masqueraded": ("nat", "IPVSAGENT-MASQ", lambda r: "bpf" not in r and "MASQUERADE" in r, "core"),
    "no hairpin": ("nat", "IPVSAGENT-MASQ", lambda r: "bpf" in r, "core"),
    "all masqueraded": ("nat", "IPVSAGENT-MASQ", lambda r: "! --mark" in r, "externalTrafficPolicy Local"),
    "external not marked": ("mangle", "IPVSAGENT-MARK-IN", lambda r: "EXTERNAL" in r, "core"),
    "host open": ("filter", "IPVSAGENT-INPUT", lambda r: "IPVSAGENT-HOST" in r, "host protection"),
    "ranges open": ("filter", "IPVSAGENT-INPUT", lambda r: "RANGE" in r, "source ranges"),
    "ranges open to the node": ("mangle", "IPVSAGENT-MARK-OUT", lambda r: "RANGE" in r, "source ranges"),
    "no ping": ("filter", "IPVSAGENT-HOST", lambda r: "icmp" in r and "ACCEPT" in r, "ping"),
}


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    with Stand(next(row for row in TABLE.stands if row.name == "routed"), TABLE) as built, built.agent_halted():
        yield built


def unexpected(stand: Stand) -> Counter[str]:
    """Failed cases by section, known defects left out."""
    results = stand.results(CASES)
    return Counter(result.case.section for result in results if RUN.mark(result) == "failed")


def take_away(node: Namespace, table: str, chain: str, taken: Callable[[str], bool]) -> None:
    for tool in TOOLS:
        rules = node.run(tool, "-t", table, "-S", chain).splitlines()[1:]
        kept = [rule for rule in rules if not taken(rule)]
        assert len(kept) < len(rules), f"{chain} has no such rule any more: change the plant"
        node.run(f"{tool}-restore", "--noflush", stdin="\n".join([f"*{table}", f":{chain} -", *kept, "COMMIT", ""]))


@pytest.mark.parametrize("plant", PLANTS)
def test_a_missing_rule_is_seen(plant: str, stand: Stand) -> None:
    table, chain, taken, section = PLANTS[plant]
    saved = {tool: stand.node.run(f"{tool}-save") for tool in TOOLS}
    try:
        take_away(stand.node, table, chain, taken)
        assert unexpected(stand)[section] > 0
    finally:
        for tool, text in saved.items():
            stand.node.run(f"{tool}-restore", stdin=text)


def test_with_all_rules_none_fails(stand: Stand) -> None:
    assert not unexpected(stand)
