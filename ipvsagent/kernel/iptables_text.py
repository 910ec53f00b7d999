"""What iptables-save prints, as far as it concerns us, and what to write to make it as wanted. Pure."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from msgspec import Struct, field

from ipvsagent.packet_rules import CHAIN_PREFIX, COMMENT_PREFIX, TABLES, Jump, RuleSet, chain_lines, insert_lines
from ipvsagent.printable import printable

_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_MARK = re.compile(rf'--comment "?{COMMENT_PREFIX}([0-9a-f]+)"?(?: |$)')
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_SETS_MARK = re.compile(r"-A (\S+) .*-j MARK --set-x?mark (0x[0-9a-f]+)")


class Held(Struct):
    """One table, as it is. chains: ours, with their rules. hooks: the rules of built-in chains.

    held_by: rules of other programs' chains that lead to ours, by the chain they lead to. policies: of built-in chains.
    """

    table: str
    chains: dict[str, list[str]] = field(default_factory=dict)
    hooks: dict[str, list[str]] = field(default_factory=dict)
    held_by: dict[str, list[str]] = field(default_factory=dict)
    policies: dict[str, str] = field(default_factory=dict)

    def jumps(self, hook: str) -> list[str]:
        """The rules of a built-in chain that lead to chains of ours."""
        return [rule for rule in self.hooks.get(hook, ()) if _leads_to(rule)]


def save_lines(text: str) -> Iterator[str]:
    """Lines of what `iptables-save` prints; a quoted comment with newlines in it ends none.

    It escapes quotes with a backslash (xtables_save_string of libxtables), and prints all other bytes as they are.
    """
    pending: list[str] = []
    is_open = False
    for line in text.removesuffix("\n").split("\n"):
        if '"' in line and _ESCAPED.sub("", line).count('"') % 2:
            is_open = not is_open
        pending.append(line)
        if not is_open:
            yield "\n".join(pending)
            pending.clear()
    yield from pending  # no quote ends them: lines as they look


def parse_all(text: str, keeps: Callable[[str], bool] = lambda chain: False) -> list[Held]:
    """The output of `iptables-save`, which makes no table that is not there; the tables that rules of ours are in.

    keeps: chains of ours that are another one's business.
    """
    found: dict[str, Held] = {table: Held(table) for table in TABLES}
    lines: list[str] = []
    for line in save_lines(text):
        if line.startswith("*"):
            lines = []
        lines.append(line)
        if line == "COMMIT" and lines[0].startswith("*") and (table := lines[0][1:]) in found:
            found[table] = parse_save(table, "\n".join(lines), keeps)
    return list(found.values())


def parse_save(table: str, text: str, keeps: Callable[[str], bool] = lambda chain: False) -> Held:
    """The part of it that is about one table."""
    held = Held(table)
    kept: set[str] = set()
    for line in save_lines(text):
        if line.startswith(f":{CHAIN_PREFIX}"):
            name = line[1:].split(" ", 1)[0]
            if keeps(name):
                kept.add(name)
            else:
                held.chains[name] = []
        elif line.startswith(":"):
            chain, _, policy = line[1:].partition(" ")
            if chain in _HOOKS:
                held.policies[chain] = policy.split(" ", 1)[0]
        elif line.startswith("-A "):
            chain, _, rule = line[3:].partition(" ")
            if chain in kept:
                continue
            if chain in held.chains:
                held.chains[chain].append(rule)
            elif chain in _HOOKS:
                if not kept or _leads_to(rule) not in kept:
                    held.hooks.setdefault(chain, []).append(rule)
            elif CHAIN_PREFIX in rule and (target := _leads_to(rule)):
                held.held_by.setdefault(target, []).append(line)
    return held


def marks_of_others(text: str) -> dict[str, int]:
    """Chains of other programs that mark packets before IPVS sees them, of what `iptables-save` prints: the bits that
    they set. Those of table nat are for what is masqueraded, and left out."""
    found: dict[str, int] = {}
    table = ""
    for line in save_lines(text):
        if line.startswith("*"):
            table = line[1:]
        elif (
            table in ("raw", "mangle")
            and not line.startswith(f"-A {CHAIN_PREFIX}")
            and (mark := _SETS_MARK.match(line))
        ):
            chain = printable(f"{table} {mark[1]}")
            found[chain] = found.get(chain, 0) | int(mark[2], 16)
    return {chain: bits for chain, bits in found.items() if bits and not chain.endswith("POSTROUTING")}


def differences(wanted: RuleSet, held: Iterable[Held]) -> list[str]:
    """What differs, each as a sentence that names table and chain; nothing if the kernel has what is wanted."""
    found = {one.table: one for one in held}
    sentences: list[str] = []
    for table in TABLES:
        one = found.get(table) or Held(table)
        names = set()
        for chain in wanted.chains_of(table):
            names.add(chain.name)
            if chain.name not in one.chains:
                sentences.append(f"{table}: chain {chain.name} is missing")
                continue
            sentences.extend(
                f"{table}: chain {chain.name}: {what}"
                for what in _rule_differences(chain.marked_rules(), one.chains[chain.name])
            )
        sentences.extend(
            f"{table}: chain {name} is of no use any more"
            for name, rules in one.chains.items()
            if name not in names and (rules or name not in one.held_by)
        )
        hooks = wanted.hooks_of(table)
        for hook in _HOOKS:
            jumps = hooks.get(hook, [])
            if not _is_in_place(jumps, one, hook):
                expected = ", ".join(jump.chain for jump in jumps)
                what = f"is to begin with the jump to {expected}" if jumps else "is to have no jump to a chain of ours"
                sentences.append(f"{table}: chain {hook} {what}, and only that")
    return sentences


def _rule_differences(wanted: Iterable[tuple[str, str]], held: list[str]) -> Iterator[str]:
    marks = [mark_of(rule) for rule in held]
    expected = dict(wanted)
    if marks == list(expected):
        return
    there = set(marks)
    for position, (mark, text) in enumerate(expected.items(), 1):
        if mark not in there:
            yield f"rule {position} is missing: {text}"
    for mark, rule in zip(marks, held, strict=True):
        if mark not in expected:
            yield f"a rule is not ours: {printable(rule)}"
    if there == expected.keys():
        yield "rules are repeated or out of order"


def mark_of(rule: str) -> str:
    """What its comment says; "" if it is not ours."""
    match = _MARK.search(rule)
    return match[1] if match else ""


def _is_in_place(jumps: list[Jump], held: Held, hook: str) -> bool:
    wanted = [str(jump) for jump in jumps]
    return held.jumps(hook) == wanted and held.hooks.get(hook, [])[: len(wanted)] == wanted


def update_text(wanted: RuleSet, held: Iterable[Held]) -> str:
    """For `iptables-restore --noflush`: all our chains anew, jumps that are not in place, stale chains away."""
    found = {one.table: one for one in held}
    lines: list[str] = []
    for table in TABLES:
        body = list(_table_lines(wanted, table, found.get(table) or Held(table)))
        if body:
            lines += [f"*{table}", *body, "COMMIT"]
    return "".join(f"{line}\n" for line in lines)


def _table_lines(wanted: RuleSet, table: str, held: Held) -> Iterator[str]:
    chains = wanted.chains_of(table)
    names = {chain.name for chain in chains}
    stale = [name for name in held.chains if name not in names]
    for name in stale:
        yield f":{name} - [0:0]"
    yield from chain_lines(chains)
    hooks = wanted.hooks_of(table)
    for hook in _HOOKS:
        jumps = hooks.get(hook, [])
        if not _is_in_place(jumps, held, hook):
            for rule, count in Counter(held.jumps(hook)).items():
                yield from [f"-D {hook} {rule}"] * count
            yield from insert_lines(hook, jumps)
    for name in stale:
        if name not in held.held_by:
            yield f"-X {name}"


def _leads_to(rule: str) -> str:
    """The chain of ours that a rule jumps or goes to, or nothing."""
    if CHAIN_PREFIX not in rule:
        return ""
    try:
        words = shlex.split(rule)
    except ValueError:
        return ""
    for option, value in pairwise(words):
        if option in ("-j", "-g") and value.startswith(CHAIN_PREFIX):
            return value
    return ""
