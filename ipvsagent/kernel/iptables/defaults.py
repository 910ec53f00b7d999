"""What a built-in chain does with packets that no rule has decided on, from what iptables-save prints. Pure.

An accept of ours answers a default, and never a rule: it stands directly before the default, behind everything else.
A default is the policy DROP of a built-in chain, or an unconditional DROP or REJECT that stands for one: at the end of
the built-in chain (the rules that RHEL ships), in a chain that is nothing but that and is jumped to without a match
(`ufw default reject`), or at the end of a chain that every packet passes, and by no other way (the zone of firewalld
that no interface is bound to). Logging before a default belongs to it. A denial that only packets of some interface
meet, or those that no rule with a match sent back before, is a rule of its owner's, and an `UnansweredDenial` if it
stands for a default there.
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
"""Rules by chain, each as iptables-save prints it after `-A CHAIN `, without those of ours."""

_DENIAL = re.compile(r"-j (?:DROP|REJECT(?: --reject-with \S+)?)")
_LOG = re.compile(r"(?:-m limit(?: --limit \S+)?(?: --limit-burst \d+)? )?-j (?:LOG|NFLOG|ULOG)\b.*", re.DOTALL)
_SPARES = re.compile(r"(?:^| )(?:-g |-m (?:hash)?limit .*-j RETURN$|-m addrtype --dst-type LOCAL -j RETURN$)")
"""After it a denial is for what no other chain is for (Calico's dispatch), for what is too much, or for what is not
sent to this node (ufw), which is no default for Services."""
_BY_INTERFACE = re.compile(r"(?:(?:! )?-[io] \S+ ?)+(-[jg] \S+)")
_PASSING_STATES = re.compile(r"--(?:ct)?state (?:(?:RELATED|ESTABLISHED|DNAT|SNAT)(?:,|\b))+(?= |$)")


class Default(Struct, frozen=True):
    """Accepts stand before rule `index` of `chain`, counted from 0 without rules of ours. denial: what they answer."""

    chain: str
    index: int
    denial: str


class UnansweredDenial(Struct, frozen=True):
    """A denial that stands for a default, but for packets of some interface alone, or in a chain that other packets
    pass, too: rule `index` of `chain`, counted as in `Default`."""

    chain: str
    index: int
    denial: str


class _End(Enum):
    """How packets leave a chain that denies none by default. LEFT: some of them leave it early."""

    PASSED = 1
    LEFT = 2
    ACCEPTED = 3


class Defaults(Struct, frozen=True):
    """Of one built-in chain: the default that accepts answer, None if there is none, and unanswered on the way."""

    default: Default | None = None
    unanswered: tuple[UnansweredDenial, ...] = ()


def defaults_of(hook: str, policy: str, chains: Chains) -> Defaults:
    """The default of the built-in chain `hook` of table filter, whose policy is ACCEPT or DROP."""
    walk = _Walk(chains)
    end = walk.chain(hook, only_way=True)
    if isinstance(end, Default):
        return Defaults(end, tuple(walk.unanswered))
    if isinstance(end, UnansweredDenial):
        return Defaults(None, tuple(dict.fromkeys((*walk.unanswered, end))))
    if end is _End.ACCEPTED or policy != "DROP":
        return Defaults(None, tuple(walk.unanswered))
    chain, index = walk.way_to_policy(hook)
    if chain != hook:  # where packets of other chains may come through
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
        """The last chain, and the place in it, that packets pass on their way to the policy of a built-in chain."""
        rules = self._chains.get(hook, ())
        for index, rule in enumerate(rules):
            bare = without_comment(rule)
            if bare == "-j RETURN":
                return hook, index
            if bare.startswith("-g ") and bare[3:] in self._chains:
                return self.way_to_policy(bare[3:])
        return hook, len(rules)

    def chain(self, name: str, *, only_way: bool) -> Default | UnansweredDenial | _End:
        """only_way: all packets of the hook that come here pass this chain, and no others do."""
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
                        self._note(UnansweredDenial(name, self.before_logging(rules, index), printable(rule)))
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
                    self._note(UnansweredDenial(end.chain, end.index, end.denial))
                    return _End.LEFT
                return end
            if end is _End.ACCEPTED:
                return _End.LEFT if is_left else _End.ACCEPTED
            if verb == "g":
                break
        return _End.LEFT if is_left else _End.PASSED

    def _conditional(self, bare: str, name: str) -> bool:
        """Whether packets may leave the chain by a rule that has a match."""
        _, target, goto = split_rule(bare)
        if _BY_INTERFACE.fullmatch(bare) and target in self._chains and not self._only_denies(target):
            end = self.chain(target, only_way=False)
            if isinstance(end, UnansweredDenial):
                self._note(end)
        return target == "RETURN" or goto

    def _note(self, denial: UnansweredDenial) -> None:
        if denial not in self.unanswered:
            self.unanswered.append(denial)

    def _only_denies(self, name: str) -> bool:
        """Whether a chain is a default and nothing else."""
        rules = [without_comment(rule) for rule in self._chains.get(name, ())]
        own = [rule for rule in rules if not _LOG.fullmatch(rule)]
        return bool(own) and all(_DENIAL.fullmatch(rule) or self._jumps_to_denial(rule) for rule in own)

    def _jumps_to_denial(self, bare: str) -> bool:
        target = bare[3:]
        return bare.startswith(("-j ", "-g ")) and target in self._chains and self._only_denies(target)

    def before_logging(self, rules: Sequence[str], index: int) -> int:
        """The place before rules that log what a default denies, and before jumps to chains that do no more. Chains
        that are empty do not come between: ufw has two behind its logging."""
        place = index
        while index and self._only_logs(bare := without_comment(rules[index - 1])):
            index -= 1
            if self._chains.get(bare[3:]) != []:
                place = index
        return place

    def _only_logs(self, bare: str) -> bool:
        if _LOG.fullmatch(bare):
            return True
        target = bare[3:]
        if not bare.startswith("-j ") or target not in self._chains:
            return False
        return all(self._only_logs(_without_match(rule)) for rule in self._chains[target])


def accepts_in(rules: Sequence[str], chains: Chains) -> str:
    """The first of these rules, or of the chains that they lead to, that accepts packets which begin a connection from
    another host; "" if none does."""
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
    """The rule's target alone, if it logs: which packets a chain logs makes no difference to what it decides."""
    bare = without_comment(rule)
    target = split_rule(bare).target
    return f"-j {target}" if target in ("LOG", "NFLOG", "ULOG") else bare
