"""Simulates packet rules: iptables-save and iptables-restore in memory, used by the real `RuleTable`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Hashable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ipvsagent.address import Family
from ipvsagent.kernel.ipset.client_sets import KIND
from ipvsagent.kernel.iptables.commands import Mode, RulesRefused, Variant
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.rule_table import Feature, RuleTable
from ipvsagent.kernel.iptables.server_chains import ServerChains, ServerRules
from ipvsagent.rows import SetSpec

if TYPE_CHECKING:
    from ipvsagent.kernel.fake.kernel import FakeKernel

Chains = dict[str, list[str]]
_BUILT_IN = {
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
_TARGETS = frozenset(
    ["ACCEPT", "DROP", "RETURN", "REJECT", "MARK", "CONNMARK", "MASQUERADE", "SNAT", "DNAT", "LOG", "SET"]
)
_COMMENT = re.compile(r'(?:^| )-m comment --comment ("(?:[^"\\]|\\.)*"|\S+)')
_TARGET = re.compile(r"(?:^| )-[jg] ")
_WORD = re.compile(r"[-\w]+")
_WORDS = {Feature.BPF: "-m bpf", Feature.RANDOM_FULLY: "--random-fully"}


class FakeRules(RuleTable):
    """Extends `RuleTable`, and supports `kernel.features`."""

    def __init__(self, kernel: FakeKernel, family: Family) -> None:
        super().__init__(fake_rules(kernel, family))
        self._fake = kernel

    def _try(self, feature: Feature) -> bool:
        return feature in self._fake.features


def fake_rules(kernel: FakeKernel, family: Family) -> KernelRules:
    return KernelRules(family, Variant(Mode.NFT, "it is a fake"), tool=kernel.rule_tools[family])


def server_rules(kernel: FakeKernel) -> ServerRules:
    """Return the `KernelTable` of the iptables backend, as a new agent on the same kernel opens it."""

    def make_sets(names: Collection[str]) -> None:
        for name in names:
            kernel.set_specs.setdefault(name, SetSpec(name, KIND, Family.IPV4))

    return ServerRules(ServerChains(fake_rules(kernel, family), make_sets) for family in Family)


class FakeRuleTool:
    """Holds the rules of one family. Tests change rules and policies as another program would, by `restore`.

    Each table is one transaction, and one step for `crash_after`.
    """

    def __init__(self, kernel: FakeKernel) -> None:
        self.held: dict[str, Chains] = {table: {chain: [] for chain in chains} for table, chains in _BUILT_IN.items()}
        self.policies = {table: dict.fromkeys(chains, "ACCEPT") for table, chains in _BUILT_IN.items()}
        self._kernel = kernel
        self._generation = 0
        self.refuses: Callable[[str], bool] = lambda line: False
        """Which lines are refused."""
        self.names_lines = True
        """Whether the refusal names the line, as iptables often does."""

    def close(self) -> None:
        pass

    def generation(self, tables: Sequence[str]) -> Hashable:
        return self._generation

    def follows(self, before: Hashable, now: Hashable, commits: int) -> bool:
        assert isinstance(before, int) and isinstance(now, int)
        return now - before <= commits

    def save(self) -> str:
        self._kernel.calls += 1
        self._kernel.fail_rules()
        lines: list[str] = []
        for name, chains in self.held.items():
            lines.append(f"*{name}")
            lines += [f":{chain} {self.policies[name].get(chain, '-')} [0:0]" for chain in chains]
            lines += [f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules]
            lines.append("COMMIT")
        return "".join(f"{line}\n" for line in lines)

    def restore(self, text: str) -> None:
        self._kernel.calls += 1
        self._kernel.fail_rules()
        table = ""
        chains: Chains = {}
        policies: dict[str, str] = {}
        written: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith("*"):
                table = line[1:]
                chains = {name: list(rules) for name, rules in self.held[table].items()}
                policies = dict(self.policies[table])
            elif line == "COMMIT":
                self._check(table, chains, written)
                self._kernel.step()
                self.held[table], self.policies[table] = chains, policies
                self._generation += 1
            else:
                if self.refuses(line):
                    raise RulesRefused("refused", line if self.names_lines else "", number=number * self.names_lines)
                try:
                    _execute(line, chains, policies)
                    written[_as_printed(line)] = line
                except (KeyError, ValueError, IndexError) as error:
                    raise RulesRefused(f"line {number} failed: {error}", line, number=number) from error

    def _check(self, table: str, chains: Chains, written: dict[str, str]) -> None:
        """Raise RulesRefused for a rule that the kernel would refuse.

        written: the lines of this restore, by how iptables-save prints them.
        """
        for chain, rules in chains.items():
            for rule in rules:
                line = written.get(f"-A {chain} {rule}", f"-A {chain} {rule}")
                for feature, words in _WORDS.items():
                    if words in rule and feature not in self._kernel.features:
                        raise RulesRefused(f"this kernel has no {feature}", line)
                for option, value in pairwise(shlex.split(rule)):
                    if option in ("-j", "-g") and value not in chains and value not in _TARGETS:
                        raise RulesRefused(f"Chain '{value}' does not exist", line)
                    if option in ("--match-set", "--map-set", "--add-set") and value not in self._kernel.set_specs:
                        raise RulesRefused(f"Set {value} doesn't exist.", line)


def _execute(line: str, chains: Chains, policies: dict[str, str]) -> None:
    """Execute one line of restore text. Raises KeyError, ValueError or IndexError for what iptables would refuse."""
    command, _, rest = line.partition(" ")
    name, _, rule = rest.partition(" ")
    if command.startswith(":"):
        if command[1:] not in policies:
            chains[command[1:]] = []
        elif name != "-":
            _set_policy(command[1:], name, policies)
    elif command == "-P":
        _set_policy(name, rule, policies)
    elif command == "-A":
        chains[name].append(_as_printed(rule))
    elif command == "-I":
        position, _, rule = rule.partition(" ")
        if not 1 <= int(position) <= len(chains[name]) + 1:
            raise IndexError("Index of insertion too big")
        chains[name].insert(int(position) - 1, _as_printed(rule))
    elif command == "-D":
        chains[name].remove(_as_printed(rule))
    elif command == "-X":
        if name in policies or chains[name] or any(name in shlex.split(r) for rules in chains.values() for r in rules):
            raise ValueError(f"chain {name} is in use")
        del chains[name]
    else:
        raise ValueError(f"unknown command {line!r}")


def _as_printed(rule: str) -> str:
    """Return a rule as iptables-save prints it: the comment precedes the target, in quotes unless it is a word."""
    if " -m comment --comment " not in f" {rule}":
        return rule
    comment = _COMMENT.search(rule)
    assert comment
    text = comment[1].removeprefix('"').removesuffix('"')
    rest = f"{rule[: comment.start()]}{rule[comment.end() :]}".strip()
    target = _TARGET.search(rest)
    at = target.start() if target else len(rest)
    words = [rest[:at], "-m comment --comment", text if _WORD.fullmatch(text) else f'"{text}"', rest[at:]]
    return " ".join(word.strip() for word in words if word.strip())


def _set_policy(chain: str, policy: str, policies: dict[str, str]) -> None:
    if chain not in policies or policy not in ("ACCEPT", "DROP"):
        raise ValueError(f"no policy {policy!r} for chain {chain}")
    policies[chain] = policy
