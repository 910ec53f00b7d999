"""Finds where a built-in chain denies the packets that no rule has decided on, in the output of iptables-save. Pure.

Our accepts override a default, and never a rule: they come directly before the default, after everything else. A
default is the policy DROP of a built-in chain, or an unconditional DROP or REJECT that serves as one: at the end of the
built-in chain (the rules that RHEL ships), in a chain that contains nothing else and is jumped to without a match (`ufw
default reject`), or at the end of a chain that every packet passes and that no others enter (the zone of firewalld that
no interface is bound to). Rules that log before a default are part of it. A denial that only packets of some interface
reach, or only those that no rule with a match returned before, is a rule of its owner, and not overridden. If it serves
as a default for those packets, it is an `UnansweredDenial`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum

from msgspec import Struct

from ipvsagent.kernel.iptables.save_format import split_rule, without_comment
from ipvsagent.printable import printable

Chains = Mapping[str, Sequence[str]]
"""Rules by chain, each as iptables-save prints it after `-A CHAIN `, without ours."""

_DENIAL = re.compile(r"-j (?:DROP|REJECT(?: --reject-with \S+)?)")
_LOG = re.compile(r"(?:-m limit(?: --limit \S+)?(?: --limit-burst \d+)? )?-j (?:LOG|NFLOG|ULOG)\b.*", re.DOTALL)
_SPARES = re.compile(r"(?:^| )(?:-g |-m (?:hash)?limit .*-j RETURN$|-m addrtype --dst-type LOCAL -j RETURN$)")
"""A denial after such a rule is not a default for Services: it applies to what no other chain handles (Calico's
dispatch), to what exceeds a limit, or to what is not addressed to this node (ufw)."""
_BY_INTERFACE = re.compile(r"(?:(?:! )?-[io] \S+ ?)+(-[jg] \S+)")
_PASSING_STATES = re.compile(r"--(?:ct)?state (?:(?:RELATED|ESTABLISHED|DNAT|SNAT)(?:,|\b))+(?= |$)")


class Default(Struct, frozen=True):
    """Describes a denial that our accepts override: they are inserted before rule `index` of `chain`."""

    chain: str
    index: int
    """Counted from 0, without rules of ours."""
    denial: str
    """The rule, or `policy DROP`."""


class UnansweredDenial(Struct, frozen=True):
    """Describes a denial that serves as a default for packets of some interface only, or in a chain that other packets
    also pass.

    It is rule `index` of `chain`, counted as in `Default`.
    """

    chain: str
    index: int
    denial: str


class _End(Enum):
    """Names how packets leave a chain that denies none by default; LEFT if some of them leave it early."""

    PASSED = 1
    LEFT = 2
    ACCEPTED = 3


class Defaults(Struct, frozen=True):
    """Holds the denials of one built-in chain."""

    default: Default | None = None
    unanswered: tuple[UnansweredDenial, ...] = ()
    """Denials on the way to the default."""


def defaults_of(hook: str, policy: str, chains: Chains) -> Defaults:
    """Return the denials of the built-in chain `hook` of table filter, whose policy is ACCEPT or DROP."""
    walk = _Walk(chains)
    end = walk.chain(hook, only_way=True)
    if isinstance(end, Default):
        return Defaults(end, tuple(walk.unanswered))
    if isinstance(end, UnansweredDenial):
        return Defaults(None, tuple(dict.fromkeys((*walk.unanswered, end))))
    if end is _End.ACCEPTED or policy != "DROP":
        return Defaults(None, tuple(walk.unanswered))
    chain, index = walk.way_to_policy(hook)
    if chain != hook:  # which packets of other chains may also pass
        return Defaults(None, (*walk.unanswered, UnansweredDenial(chain, index, "policy DROP")))
    index = walk.before_logging(chains.get(hook, ()), index)
    return Defaults(Default(hook, index, "policy DROP"), tuple(walk.unanswered))


class _Walk:
    """Follows the packets that no rule with a match decides on, through jumps without a match."""

    def __init__(self, chains: Chains) -> None:
        self._chains = chains
        self._references = Counter(
            target for rules in chains.values() for rule in rules if (target := split_rule(rule).target)
        )
        self.unanswered: list[UnansweredDenial] = []

    def way_to_policy(self, hook: str) -> tuple[str, int]:
        """Return the last chain that packets pass on the way to the policy of a built-in chain, and the index in it."""
        rules = self._chains.get(hook, ())
        for index, rule in enumerate(rules):
            bare = without_comment(rule)
            if bare == "-j RETURN":
                return hook, index
            if bare.startswith("-g ") and bare[3:] in self._chains:
                return self.way_to_policy(bare[3:])
        return hook, len(rules)

    def chain(self, name: str, *, only_way: bool) -> Default | UnansweredDenial | _End:
        """Follow packets through a chain. only_way: all undecided packets of the hook pass it, and no others do."""
        is_left = spares = False
        rules = self._chains.get(name, ())
        for index, rule in enumerate(rules):
            bare = without_comment(rule)
            if not bare.startswith(("-j ", "-g ")):
                is_left |= self._conditional(bare, name)
                spares |= bool(_SPARES.search(bare))
                continue
            verb, target = bare[1], bare[3:].partition(" ")[0]
            if _DENIAL.fullmatch(bare):
                if is_left and name in self._references:
                    if not spares:
                        self._record(UnansweredDenial(name, self.before_logging(rules, index), printable(rule)))
                    return _End.LEFT
                kind = Default if only_way else UnansweredDenial
                return kind(name, self.before_logging(rules, index), printable(rule))
            if target in ("ACCEPT", "QUEUE", "NFQUEUE"):
                return _End.LEFT if is_left else _End.ACCEPTED
            if target == "RETURN":
                break
            if target not in self._chains:
                continue
            end = self.chain(target, only_way=only_way and not is_left and self._references[target] == 1)
            if isinstance(end, (Default, UnansweredDenial)):
                if self._only_denies(target) and only_way:
                    return Default(name, self.before_logging(rules, index), printable(rule))
                if is_left and name in self._references:
                    self._record(UnansweredDenial(end.chain, end.index, end.denial))
                    return _End.LEFT
                return end
            if end is _End.ACCEPTED:
                return _End.LEFT if is_left else _End.ACCEPTED
            if verb == "g":
                break
        return _End.LEFT if is_left else _End.PASSED

    def _conditional(self, bare: str, name: str) -> bool:
        """Return whether packets may leave the chain by this rule, which has a match."""
        _, target, goto = split_rule(bare)
        if _BY_INTERFACE.fullmatch(bare) and target in self._chains and not self._only_denies(target):
            end = self.chain(target, only_way=False)
            if isinstance(end, UnansweredDenial):
                self._record(end)
        return target == "RETURN" or goto

    def _record(self, denial: UnansweredDenial) -> None:
        if denial not in self.unanswered:
            self.unanswered.append(denial)

    def _only_denies(self, name: str) -> bool:
        """Return whether a chain contains a denial and nothing else."""
        rules = [without_comment(rule) for rule in self._chains.get(name, ())]
        own = [rule for rule in rules if not _LOG.fullmatch(rule)]
        return bool(own) and all(_DENIAL.fullmatch(rule) or self._jumps_to_denial(rule) for rule in own)

    def _jumps_to_denial(self, bare: str) -> bool:
        target = bare[3:]
        return bare.startswith(("-j ", "-g ")) and target in self._chains and self._only_denies(target)

    def before_logging(self, rules: Sequence[str], index: int) -> int:
        """Return the index before the rules that log what a default denies, and before jumps to chains that only log.
        Empty chains may come between: ufw has two after its logging."""
        first = index
        while index and self._only_logs(bare := without_comment(rules[index - 1])):
            index -= 1
            if self._chains.get(bare[3:]) != []:
                first = index
        return first

    def _only_logs(self, bare: str) -> bool:
        if _LOG.fullmatch(bare):
            return True
        target = bare[3:]
        if not bare.startswith("-j ") or target not in self._chains:
            return False
        return all(self._only_logs(_without_match(rule)) for rule in self._chains[target])


def accepts_in(rules: Sequence[str], chains: Chains) -> str:
    """Return the first of these rules, or of the chains that they lead to, that accepts packets that begin a connection
    from another host; "" if none does."""
    seen: set[str] = set()

    def search(where: str, some: Sequence[str]) -> str:
        for rule in some:
            bare = without_comment(rule)
            target = split_rule(bare).target
            if "-i lo " in bare or _PASSING_STATES.search(bare):
                continue
            if target == "ACCEPT":
                return str(printable(f"{where}{rule}"))
            if target in chains and target not in seen:
                seen.add(target)
                found: str = search(f"-A {target} ", chains[target])
                if found:
                    return found
        return ""

    return search("", rules)


def _without_match(rule: str) -> str:
    """Return only the target of a rule that logs: which packets it logs does not affect what the chain decides."""
    bare = without_comment(rule)
    target = split_rule(bare).target
    return f"-j {target}" if target in ("LOG", "NFLOG", "ULOG") else bare
