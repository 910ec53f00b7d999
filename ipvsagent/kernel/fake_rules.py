"""The fake kernel's packet rules: iptables-save and iptables-restore in memory, under the real `RuleTable`s."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Hashable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from ipvsagent.address import Family
from ipvsagent.kernel.client_sets import KIND
from ipvsagent.kernel.iptables import Feature, RuleTable
from ipvsagent.kernel.iptables_servers import ServerRules, ServerRuleTable
from ipvsagent.kernel.iptables_tool import Mode, RulesRefused, Variant
from ipvsagent.rows import SetSpec

if TYPE_CHECKING:
    from ipvsagent.kernel.fake import FakeKernel

Chains = dict[str, list[str]]
_BUILT_IN = {
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
}
_TARGETS = frozenset(
    ["ACCEPT", "DROP", "RETURN", "REJECT", "MARK", "CONNMARK", "MASQUERADE", "SNAT", "DNAT", "LOG", "SET"]
)
_WORDS = {Feature.BPF: "-m bpf", Feature.RANDOM_FULLY: "--random-fully", Feature.MARK_BY_SET: "--map-mark"}


class FakeRules(RuleTable):
    """`kernel.features` is what `supports` finds."""

    def __init__(self, kernel: FakeKernel, family: Family) -> None:
        super().__init__(family, Variant(Mode.NFT, "it is a fake"), tool=kernel.rule_tools[family])
        self._kernel = kernel

    def _tries(self, feature: Feature) -> bool:
        return feature in self._kernel.features


def server_rules(kernel: FakeKernel) -> ServerRules:
    """The `KernelTable` of the iptables backend: a new agent's, on the same kernel."""

    def make_sets(names: Collection[str]) -> None:
        for name in names:
            kernel.set_specs.setdefault(name, SetSpec(name, KIND, Family.IPV4))

    variant = Variant(Mode.NFT, "it is a fake")
    return ServerRules(ServerRuleTable(f, variant, tool=kernel.rule_tools[f], make_sets=make_sets) for f in Family)


class FakeRuleTool:
    """One family. Tests change `tables` as other programs would, by `restore` so that it counts as a change.

    Each table is one transaction, and one step for `crash_after`. refuses: lines that are refused; names_lines: whether
    the refusal says which it was, as iptables often does.
    """

    def __init__(self, kernel: FakeKernel) -> None:
        self.held: dict[str, Chains] = {table: {chain: [] for chain in chains} for table, chains in _BUILT_IN.items()}
        self._kernel = kernel
        self._generation = 0
        self.refuses: Callable[[str], bool] = lambda line: False
        self.names_lines = True

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
            lines += [f":{chain} {'ACCEPT' if chain in _BUILT_IN[name] else '-'} [0:0]" for chain in chains]
            lines += [f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules]
            lines.append("COMMIT")
        return "".join(f"{line}\n" for line in lines)

    def restore(self, text: str) -> None:
        self._kernel.calls += 1
        self._kernel.fail_rules()
        table = ""
        chains: Chains = {}
        for number, line in enumerate(text.splitlines(), 1):
            if line.startswith("*"):
                table = line[1:]
                chains = {name: list(rules) for name, rules in self.held[table].items()}
            elif line == "COMMIT":
                self._check(table, chains)
                self._kernel.step()
                self.held[table] = chains
                self._generation += 1
            else:
                if self.refuses(line):
                    raise RulesRefused("refused", line if self.names_lines else "", number=number * self.names_lines)
                try:
                    _execute(line, chains, _BUILT_IN[table])
                except (KeyError, ValueError, IndexError) as error:
                    raise RulesRefused(f"line {number} failed: {error}", line, number=number) from error

    def _check(self, table: str, chains: Chains) -> None:
        for chain, rules in chains.items():
            for rule in rules:
                for feature, words in _WORDS.items():
                    if words in rule and feature not in self._kernel.features:
                        raise RulesRefused(f"this kernel has no {feature}", f"-A {chain} {rule}")
                for option, value in pairwise(shlex.split(rule)):
                    if option in ("-j", "-g") and value not in chains and value not in _TARGETS:
                        raise RulesRefused(f"Chain '{value}' does not exist", f"-A {chain} {rule}")
                    if option in ("--match-set", "--map-set", "--add-set") and value not in self._kernel.set_specs:
                        raise RulesRefused(f"Set {value} doesn't exist.", f"-A {chain} {rule}")


def _execute(line: str, chains: Chains, built_in: Sequence[str]) -> None:
    """One line of restore text. Raises KeyError, ValueError or IndexError for what iptables would refuse."""
    command, _, rest = line.partition(" ")
    name, _, rule = rest.partition(" ")
    if command.startswith(":"):
        if command[1:] not in built_in:
            chains[command[1:]] = []
    elif command == "-A":
        chains[name].append(rule)
    elif command == "-I":
        position, _, rule = rule.partition(" ")
        if not 1 <= int(position) <= len(chains[name]) + 1:
            raise IndexError("Index of insertion too big")
        chains[name].insert(int(position) - 1, rule)
    elif command == "-D":
        chains[name].remove(rule)
    elif command == "-X":
        if name in built_in or chains[name] or any(name in shlex.split(r) for rules in chains.values() for r in rules):
            raise ValueError(f"chain {name} is in use")
        del chains[name]
    else:
        raise ValueError(f"unknown command {line!r}")
