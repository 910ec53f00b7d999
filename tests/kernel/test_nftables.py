"""Tables, chains and rules of nftables: parsed from what a kernel sent once, and read from the kernel that is here.

tests/data/packet_filters/recorded.txt holds the bodies of its answers for recorded.nft, on a little-endian machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvsagent.kernel.iptables.commands import Mode
from ipvsagent.kernel.neighbours.verdicts import ALL, SOME, Case, Step, Verdict
from ipvsagent.kernel.nftables.messages import (
    BaseChain,
    Table,
    names_destination,
    parse_base_chain,
    parse_rule,
    parse_table,
    port_of,
    redirects,
    step_of,
)
from ipvsagent.kernel.nftables.tables import base_chains, rules, tables
from tests.support.iptables import skip_unless_native

DATA = Path(__file__).parent.parent / "data" / "packet_filters"
BIT = 0x4000


def recorded(word: str) -> Iterator[tuple[bytes, int, int]]:
    for line in (DATA / "recorded.txt").read_text().splitlines():
        kind, data = line.split()
        if kind == word:
            body = b"\0" * 16 + bytes.fromhex(data)  # behind a netlink header
            yield body, 16, len(body)


def steps_of(chain: str) -> list[Step]:
    return [step_of(rule, BIT) for body in recorded("rule") if (rule := parse_rule(*body)).chain == chain]


def accepting(*cases: Case) -> Step:
    return Step(frozenset(cases), Verdict.ACCEPT)


def test_tables_and_chains():
    assert [parse_table(*body) for body in recorded("table")] == [Table("inet", "wall"), Table("bridge", "aside")]
    chains = [parse_base_chain(*body) for body in recorded("chain")]
    wall = Table("inet", "wall")
    assert chains == [
        BaseChain(wall, "input", "filter", "input", 10, drops=True),
        None,
        None,
        BaseChain(wall, "published", "nat", "prerouting", -100),
        None,
    ]


def test_what_each_rule_decides():
    assert steps_of("input") == [
        accepting(Case.ANSWERS),
        accepting(Case.ANSWERS),
        accepting(Case.ANSWERS),
        accepting(Case.TRANSLATED),
        accepting(Case.SERVICES),
        accepting(Case.SERVICES),
        accepting(Case.OTHER),
        Step(SOME, Verdict.DENY),
        accepting(Case.OTHER),
        Step(frozenset([Case.LOCAL]), Verdict.RETURN),
        Step(SOME, Verdict.RETURN),
        accepting(Case.OTHER),
        Step(ALL, Verdict.JUMP, "checks"),
        Step(ALL, Verdict.GOTO, "refuse"),
    ]
    assert steps_of("checks") == [Step(ALL, Verdict.RETURN)]
    assert steps_of("refuse") == [Step(ALL, Verdict.DENY)]


def test_redirects():
    found = [rule for body in recorded("rule") if (rule := parse_rule(*body)).chain == "published"]
    assert all(redirects(rule) for rule in found)
    assert [port_of(rule) for rule in found] == [8080, 443, 53, 443]
    assert [names_destination(rule) for rule in found] == [False, True, False, True]


@pytest.mark.parametrize("word", ["table", "chain", "rule"])
def test_a_message_that_breaks_off_is_read_as_far_as_it_goes(word):
    parse = {"table": parse_table, "chain": parse_base_chain, "rule": parse_rule}[word]
    for data, start, end in recorded(word):
        for shorter in range(start + 4, end):
            found = parse(data[:shorter], start, shorter)
            if word == "rule":
                step_of(found, BIT), port_of(found), names_destination(found), redirects(found)


@pytest.mark.parametrize("file", ["recorded.nft", "firewalld-eth0.nft"])
def test_as_nft_lists_it(netns, file):
    skip_unless_native(Mode.NFT)
    netns.run("nft", "-f", str(DATA / file))
    netns.run("iptables-nft", "-P", "FORWARD", "DROP")
    listed = json.loads(netns.run("nft", "-j", "list", "ruleset"))["nftables"]
    said = [each["chain"] for each in listed if "hook" in each.get("chain", {})]
    assert base_chains() == sorted(
        BaseChain(Table(c["family"], c["table"]), c["name"], c["type"], c["hook"], c["prio"], c["policy"] == "drop")
        for c in said
        if c["family"] != "bridge"
    )
    said_rules = [each["rule"] for each in listed if "rule" in each]
    for table in tables():
        of_table = [rule for rule in said_rules if (rule["family"], rule["table"]) == (table.family, table.name)]
        found = rules(table)
        assert sum(map(len, found.values())) == len(of_table)
        for chain in found:
            said_verdicts = [_says(rule["expr"]) for rule in of_table if rule["chain"] == chain]
            assert [str(step_of(rule, BIT).verdict) for rule in found[chain]] == said_verdicts


def test_rules_of_a_table_that_is_not_there(netns):
    assert rules(Table("inet", "nowhere")) == {}


def _says(expressions: list[dict[str, object]]) -> str:
    """The verdict of a rule as `nft -j` prints it; of a vmap, that it accepts."""
    for expression in expressions:
        for word in ("accept", "drop", "reject", "return", "jump", "goto", "vmap"):
            if word in expression:
                return {"drop": "deny", "reject": "deny", "vmap": "accept"}.get(word, word)
    return "none"
