"""That a change of packet rules is noticed by a system call: on legacy iptables, in a network namespace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ipvsagent.address import Family
from ipvsagent.kernel.iptables import generation as iptables_generation
from ipvsagent.kernel.iptables.generation import LegacyGeneration
from tests.support.network_namespace import NetworkNamespace

TABLES = ("mangle", "nat", "filter")
CHAINS = ("INPUT", "FORWARD", "OUTPUT")


class Rules:
    def __init__(self, netns: NetworkNamespace, family: Family) -> None:
        self.tool = "ip6tables-legacy" if family is Family.IPV6 else "iptables-legacy"
        self.generation = LegacyGeneration(family)
        self._netns = netns
        for table in TABLES:
            self("-t", table, "-S")  # makes the table

    def __call__(self, *words: str) -> None:
        self._netns.run(self.tool, *words)

    @property
    def now(self) -> object:
        return self.generation.read(TABLES)


@pytest.fixture(params=Family, ids=str)
def rules(netns: NetworkNamespace, request: pytest.FixtureRequest) -> Iterator[Rules]:
    made = Rules(netns, request.param)
    yield made
    made.generation.close()


def test_nothing_changes_by_looking(rules: Rules) -> None:
    before = rules.now
    rules("-S")
    assert rules.now == before


@pytest.mark.parametrize("chain", CHAINS)
def test_a_policy_that_changes_is_seen_and_so_is_its_return(rules: Rules, chain: str) -> None:
    rules("-A", "INPUT", "-p", "tcp", "-j", "ACCEPT")
    rules("-N", "other")
    rules("-A", "other", "-p", "udp", "-j", "DROP")
    before = rules.now
    rules("-P", chain, "DROP")
    assert rules.now != before
    rules("-P", chain, "ACCEPT")
    assert rules.now == before


def test_each_policy_is_told_from_the_others(rules: Rules) -> None:
    found = set()
    for chain in CHAINS:
        rules("-P", chain, "DROP")
        found.add(rules.now)
        rules("-P", chain, "ACCEPT")
    assert len(found) == len(CHAINS)


@pytest.mark.parametrize("table", TABLES)
def test_a_rule_that_comes_is_seen_and_so_is_one_that_goes(rules: Rules, table: str) -> None:
    before = rules.now
    rules("-t", table, "-A", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
    assert rules.now != before
    rules("-t", table, "-D", "OUTPUT", "-p", "tcp", "-j", "ACCEPT")
    assert rules.now == before


def test_policies_of_a_very_large_table_are_looked_at_now_and_then(
    rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel would copy a large table at each look, and reports its size at every one."""
    monkeypatch.setattr(iptables_generation, "_MOST_ENTRIES", 100)
    before = rules.now
    rules("-P", "INPUT", "DROP")
    looks = [rules.now == before for _ in range(10)]
    assert looks == [True] * 9 + [False]
    before = rules.now
    rules("-A", "INPUT", "-j", "ACCEPT")
    assert rules.now != before
