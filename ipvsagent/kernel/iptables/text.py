"""Compares the output of iptables-save with a rule set, and renders the text for iptables-restore. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from ipvsagent.kernel.iptables.defaults import Defaults, UnansweredDenial, accepts_in, defaults_of
from ipvsagent.kernel.iptables.save_format import save_lines, save_tables, split_rule
from ipvsagent.printable import printable
from ipvsagent.rows.packet_rules import (
    CHAIN_PREFIX,
    COMMENT_PREFIX,
    DEFAULT_COMMENT,
    EXEMPT_COMMENT,
    TABLES,
    Chain,
    Place,
    RuleSet,
    chain_lines,
)

_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_MARK = re.compile(rf'--comment "?{COMMENT_PREFIX}([0-9a-f]+)"?(?: |$)')
_PLACED = re.compile(rf'"({DEFAULT_COMMENT}|{EXEMPT_COMMENT})"')


class Held(Struct):
    """Describes one table as the kernel holds it."""

    table: str
    chains: dict[str, list[str]] = field(default_factory=dict)
    """The rules of our chains."""
    hooks: dict[str, list[str]] = field(default_factory=dict)
    """The rules of the built-in chains that have some."""
    others: dict[str, list[str]] = field(default_factory=dict)
    """The rules of other programs' chains; empty for other tables than filter."""
    held_by: dict[str, list[str]] = field(default_factory=dict)
    """Lines of other programs' rules that lead to chains of ours, by the chain they lead to."""
    policies: dict[str, str] = field(default_factory=dict)
    """The policies of built-in chains."""
    ignored: set[str] = field(default_factory=set)
    """Chains of ours that another part of the agent owns."""
    _foreign: dict[str, list[str]] = field(default_factory=dict)
    _defaults: dict[str, Defaults] = field(default_factory=dict)

    def placed(self, chain: str) -> list[str]:
        """Return the rules that we put into a chain that is not ours, except jumps to ignored chains."""
        return [rule for rule in self.rules(chain) if self.is_ours(chain, rule)]

    def defaults(self, hook: str) -> Defaults:
        """Return how the built-in chain denies packets that no rule of others decides on."""
        if self.table != "filter":
            return Defaults()
        if hook not in self._defaults:
            self._defaults[hook] = defaults_of(hook, self.policies.get(hook, ""), self.foreign())
        return self._defaults[hook]

    def unanswered(self, hook: str, accepts: str) -> tuple[UnansweredDenial, ...]:
        """Return the denials that no operator overrides by a jump to our chain `accepts`; their indices count all
        rules."""
        found: list[UnansweredDenial] = []
        for denial in self.defaults(hook).unanswered:
            rules = self.rules(denial.chain)
            own = [i for i, rule in enumerate(rules) if not _concerns_us(rule)]
            index = own[denial.index] if denial.index < len(own) else len(rules)
            if not any(_leads_to(rule) == accepts for rule in rules[:index]):
                found.append(replace(denial, index=index))
        return tuple(found)

    def accept_before(self, jump: str, hook: str) -> str:
        """Return a rule of others that accepts new connections before our jump, or ""."""
        rules = self.hooks.get(hook, [])
        before = rules[: rules.index(jump)] if jump in rules else rules
        return accepts_in([rule for rule in before if not _leads_to(rule)], self.foreign())

    def arranged(self, desired: RuleSet, chain: str, *, ignored_first: bool) -> list[str]:
        """Return all rules of a chain that is not ours as they should be: our jumps where `desired` has them, and all
        others as they are. ignored_first: jumps to ignored chains come before ours."""
        rules = [rule for rule in self.rules(chain) if not self.is_ours(chain, rule)]
        own = [rule for rule in rules if not _concerns_us(rule)]
        before_default: list[str] = []
        at = len(rules)
        for hook, jumps in desired.hooks_of(self.table, Place.DEFAULT).items():
            default = self.defaults(hook).default
            if default is not None and default.chain == chain:
                before_default = [jump.rule for jump in jumps]
                if default.index < len(own):
                    at = [i for i, rule in enumerate(rules) if not _concerns_us(rule)][default.index]
        ignored = [i + 1 for i, rule in enumerate(rules) if _leads_to(rule) and not _is_before_default(rule)]
        first = max(ignored, default=0) if ignored_first else 0
        in_front = [jump.rule for jump in desired.hooks_of(self.table).get(chain, ())]
        if self.table == "filter":
            in_front += [exemption.rule for exemption in desired.exemptions if exemption.chain == chain]
        return [*rules[:first], *in_front, *rules[first:at], *before_default, *rules[at:]]

    def rules(self, chain: str) -> list[str]:
        """Return all rules of a chain that is not ours."""
        return self.hooks.get(chain) or self.others.get(chain, [])

    def is_ours(self, chain: str, rule: str) -> bool:
        """Return whether we put a rule there; in a chain of another program only rules with our comment are ours."""
        if EXEMPT_COMMENT in rule:
            return True
        target = _leads_to(rule)
        return bool(target) and target not in self.ignored and (chain in _HOOKS or DEFAULT_COMMENT in rule)

    def foreign(self) -> dict[str, list[str]]:
        """Return the built-in chains and those of other programs, without our rules."""
        if not self._foreign:
            every = {**self.others, **self.hooks}
            self._foreign = {c: [rule for rule in rules if not _concerns_us(rule)] for c, rules in every.items()}
        return self._foreign


def parse_all(text: str, ignores: Callable[[str], bool] = lambda chain: False) -> list[Held]:
    """Parse the output of `iptables-save`; return every table that may contain rules of ours, empty if it is missing.

    ignores: returns whether another part of the agent owns a chain of ours.
    """
    found: dict[str, Held] = {table: Held(table) for table in TABLES}
    for table, lines in save_tables(text):
        if table in found:
            found[table] = _parse_lines(table, lines, ignores)
    return list(found.values())


def parse_save(table: str, text: str, ignores: Callable[[str], bool] = lambda chain: False) -> Held:
    """Parse one table of the output."""
    return _parse_lines(table, save_lines(text), ignores)


def _parse_lines(table: str, lines: Iterable[str], ignores: Callable[[str], bool]) -> Held:
    held = Held(table)
    for line in lines:
        if line.startswith(f":{CHAIN_PREFIX}"):
            name = line[1:].split(" ", 1)[0]
            if ignores(name):
                held.ignored.add(name)
            else:
                held.chains[name] = []
        elif line.startswith(":"):
            chain, _, policy = line[1:].partition(" ")
            if chain in _HOOKS:
                held.policies[chain] = policy.split(" ", 1)[0]
            elif table == "filter":
                held.others[chain] = []
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            if chain in held.ignored:
                continue
            if COMMENT_PREFIX in rule:
                rule = _PLACED.sub(r"\1", rule)  # iptables-save quotes it
            if chain in held.chains:
                held.chains[chain].append(rule)
            elif chain in _HOOKS:
                held.hooks.setdefault(chain, []).append(rule)
            else:
                if CHAIN_PREFIX in rule and DEFAULT_COMMENT not in rule and (target := _leads_to(rule)):
                    held.held_by.setdefault(target, []).append(line)
                if table == "filter":
                    held.others.setdefault(chain, []).append(rule)
    return held


def differences(
    desired: RuleSet, held: Iterable[Held], *, to_front: bool = True, ignored_first: bool = False
) -> list[str]:
    """Return what differs, each as a sentence that names table and chain.

    to_front: a jump that others put rules in front of counts as different. ignored_first: as in `Held.arranged`.
    """
    found = {one.table: one for one in held}
    sentences: list[str] = []
    for table in TABLES:
        one = found.get(table) or Held(table)
        names = set()
        for chain in desired.chains_of(table):
            names.add(chain.name)
            if chain.name not in one.chains:
                sentences.append(f"{table}: chain {chain.name} is missing")
                continue
            sentences.extend(
                f"{table}: chain {chain.name}: {what}" for what in _rule_differences(chain, one.chains[chain.name])
            )
        sentences.extend(
            f"{table}: chain {name} is no longer needed"
            for name, rules in one.chains.items()
            if name not in names and (rules or name not in one.held_by)
        )
        for name in _chains_with_jumps(desired, one):
            if to_front or not is_displaced(desired, one, name, ignored_first=ignored_first):
                sentences.extend(_jump_differences(desired, one, name, ignored_first=ignored_first))
    return sentences


def _chains_with_jumps(desired: RuleSet, held: Held) -> Iterator[str]:
    """Yield the built-in chains, and those of others that have a jump of ours or should have one."""
    yield from _HOOKS
    defaults = (held.defaults(hook).default for hook in desired.hooks_of(held.table, Place.DEFAULT))
    named = {default.chain for default in defaults if default} | {e.chain for e in desired.exemptions}
    yield from (chain for chain in held.others if chain in named or held.placed(chain))


def is_displaced(desired: RuleSet, held: Held, chain: str, *, ignored_first: bool = False) -> bool:
    """Return whether nothing is wrong with our jumps in a chain except that rules of others precede them."""
    in_front = [jump.rule for jump in desired.hooks_of(held.table).get(chain, ())]
    rules, arranged = held.rules(chain), held.arranged(desired, chain, ignored_first=ignored_first)
    return (
        rules != arranged
        and [rule for rule in held.placed(chain) if not _is_before_default(rule)] == in_front
        and [rule for rule in rules if rule not in in_front] == [rule for rule in arranged if rule not in in_front]
    )


def _jump_differences(desired: RuleSet, held: Held, chain: str, *, ignored_first: bool) -> Iterator[str]:
    rules, arranged = held.rules(chain), held.arranged(desired, chain, ignored_first=ignored_first)
    if rules == arranged:
        return
    names = ", ".join(jump.chain for jump in desired.hooks_of(held.table).get(chain, ()))
    where = f"{held.table}: chain {chain} should"
    without = [[rule for rule in some if not _is_before_default(rule)] for some in (rules, arranged)]
    if chain not in _HOOKS and without[0] != without[1]:
        exempted = any(exemption.chain == chain for exemption in desired.exemptions)
        yield f"{where} {'begin with an' if exempted else 'have no'} exemption of Services"
        return
    if without[0] != without[1]:
        what = f"begin with the jump to {names} and have no other" if names else "have no jump to a chain"
        yield f"{where} {what} of ours"
        return
    for rule in filter(_is_before_default, arranged):
        yield f"{where} have the jump to {_leads_to(rule)} directly before its default"
    for rule in filter(_is_before_default, rules):
        if rule not in arranged:
            yield f"{where} have no jump to {_leads_to(rule)}: it denies nothing by default"


def _is_before_default(rule: str) -> bool:
    return DEFAULT_COMMENT in rule and bool(_leads_to(rule))


def _rule_differences(chain: Chain, held: list[str]) -> Iterator[str]:
    marks = [mark_of(rule) for rule in held]
    expected = dict(chain.marked_rules())
    there = set(marks)
    if marks == list(expected) or (not chain.ordered and len(marks) == len(there) and there == expected.keys()):
        return
    for position, (mark, text) in enumerate(expected.items(), 1):
        if mark not in there:
            yield f"rule {f'{position} ' if chain.ordered else ''}is missing: {text}"
    for mark, rule in zip(marks, held, strict=True):
        if mark not in expected:
            yield f"a rule is not ours: {printable(rule)}"
    if there == expected.keys():
        yield "rules are repeated or out of order"


def mark_of(rule: str) -> str:
    """Return the mark in a rule's comment; "" if the rule is not ours."""
    match = _MARK.search(rule)
    return match[1] if match else ""


def update_text(desired: RuleSet, held: Iterable[Held], *, ignored_first: bool = False) -> str:
    """Return the text for `iptables-restore --noflush` that writes all our chains, moves jumps that are not in place,
    and removes stale chains."""
    found = {one.table: one for one in held}
    lines: list[str] = []
    for table in TABLES:
        body = list(_table_lines(desired, table, found.get(table) or Held(table), ignored_first=ignored_first))
        if body:
            lines += [f"*{table}", *body, "COMMIT"]
    return "".join(f"{line}\n" for line in lines)


def _table_lines(desired: RuleSet, table: str, held: Held, *, ignored_first: bool) -> Iterator[str]:
    chains = desired.chains_of(table)
    names = {chain.name for chain in chains}
    stale = [name for name in held.chains if name not in names]
    for name in stale:
        yield f":{name} - [0:0]"
    present = {
        chain.name: held.chains[chain.name] for chain in chains if not chain.ordered and chain.name in held.chains
    }
    yield from chain_lines([chain for chain in chains if chain.name not in present])
    for chain in chains:
        if chain.name in present:
            yield from _update_unordered(chain, present[chain.name])
    for name in _chains_with_jumps(desired, held):
        arranged = held.arranged(desired, name, ignored_first=ignored_first)
        if arranged != held.rules(name):
            yield from (f"-D {name} {rule}" for rule in held.placed(name))
            yield from _insertions(name, arranged, held)
    for name in stale:
        if name not in held.held_by:
            yield f"-X {name}"


def _update_unordered(chain: Chain, held: Iterable[str]) -> Iterator[str]:
    """Yield the lines that add and delete single rules of a chain whose order does not matter."""
    missing = dict(chain.marked_rules())
    for rule in held:
        if missing.pop(mark_of(rule), None) is None:
            yield f"-D {chain.name} {rule}"
    yield from (f"-A {chain.name} {text}" for text in missing.values())


def _insertions(chain: str, arranged: Sequence[str], held: Held) -> Iterator[str]:
    """Yield the lines that insert our rules into a chain without them, so that it becomes `arranged`. Each position
    counts the insertions before it."""
    there = [rule for rule in held.rules(chain) if not held.is_ours(chain, rule)]
    for position, rule in enumerate(arranged, 1):
        if position > len(there) or there[position - 1] != rule:
            there.insert(position - 1, rule)
            yield f"-I {chain} {position} {rule}"


def _concerns_us(rule: str) -> bool:
    """Return whether a rule in a chain that is not ours exempts Services from it, or leads to a chain of ours."""
    return EXEMPT_COMMENT in rule or bool(_leads_to(rule))


def _leads_to(rule: str) -> str:
    """Return the chain of ours that a rule jumps or goes to, or ""."""
    target = split_rule(rule).target if CHAIN_PREFIX in rule else ""
    return target if target.startswith(CHAIN_PREFIX) else ""
