"""Writes the constant packet rules of one address family through iptables.

Goals, and how each is met:

1. Rules, chains, policies and counters of other programs stay as they are. Ours are chains with our prefix, jumps to
   them, and exemptions in kube-proxy's chains; only these are ever written. Whatever has the prefix is ours.
2. No packet traverses a half-written table: the chains and jumps of a table are replaced in one transaction. Between
   tables the state is mixed for a moment; after a crash there, the next `apply` repairs it.
3. What a rule of others denies stays denied. Our refusals, marks and translations come first, and apply to packets to
   Services alone; accepts come directly before a chain's default, and only where that denies (`defaults.py`). Where
   others put a rule in front of ours, ours is moved to the front again at a slow pace (`front_pace.py`), never in a
   race.
4. Changes by others are noticed at the cost of a few system calls (`changed`), and named (`verify`).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Protocol

from ipvsagent.address import Family
from ipvsagent.errors import KernelError, StartError
from ipvsagent.kernel.ipset.definitions import TRIAL, Definitions
from ipvsagent.kernel.iptables.commands import COMMAND, IptablesCommands, Mode, RulesRefused, Variant
from ipvsagent.kernel.iptables.defaults import UnansweredDenial
from ipvsagent.kernel.iptables.front_pace import FrontPace
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.text import Held, differences, is_displaced, parse_all, update_text
from ipvsagent.rows import SetSpec
from ipvsagent.rows.packet_rules import CHAIN_PREFIX, Place, RuleCounts, RuleSet

_TRIES = 3
_SCRATCH = f"{CHAIN_PREFIX}TRY"
_TEMPORARY = frozenset(
    [errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ETIMEDOUT]
)
"""Errors that show how busy the node is, not what it supports."""


class Feature(StrEnum):
    """Names a match or target that the kernel or iptables may lack."""

    BPF = "bpf"
    RANDOM_FULLY = "random-fully"
    IPVS = "ipvs"
    SET = "set"
    CONNMARK = "connmark"
    TCP_RESET = "tcp-reset"


_TRIALS = {
    Feature.BPF: ("mangle", '-m bpf --bytecode "1,6 0 0 0" -j RETURN'),
    Feature.RANDOM_FULLY: ("nat", "-j MASQUERADE --random-fully"),
    Feature.IPVS: ("mangle", "-m ipvs --ipvs -j RETURN"),
    Feature.SET: ("mangle", f"-m set --match-set {TRIAL} dst -j RETURN"),
    Feature.CONNMARK: ("mangle", "-m connmark --mark 0x1/0x1 -j CONNMARK --set-xmark 0x1/0x1"),
    Feature.TCP_RESET: ("filter", "-p tcp -j REJECT --reject-with tcp-reset"),
}
"""Table and rule to try each feature with."""


class ChainOwner(Protocol):
    """Owns further chains of ours, which a `RuleTable` leaves alone; both parse the same output."""

    read_pause: float
    """`changed` returns False for this multiple of the time that the last reading took."""

    def owns(self, chain: str) -> bool: ...

    def parse(self, text: str) -> None:
        """Parse the output of iptables-save."""

    def prepare(self) -> None:
        """Create the chains that the constant rules jump to; remove those that nothing jumps to. Raises
        RulesRefused, RulesLocked."""

    def differences(self) -> list[str]:
        """Return what `prepare` would repair, one sentence each."""

    def rule_count(self) -> int:
        """Return the number of rules in table nat."""


class _NoOwner:
    """Owns no chains."""

    read_pause = 0.0

    def owns(self, chain: str) -> bool:
        return False

    def parse(self, text: str) -> None:
        pass

    def prepare(self) -> None:
        pass

    def differences(self) -> list[str]:
        return []

    def rule_count(self) -> int:
        return 0


class RuleTable:
    """Writes and verifies the constant rules of one address family.

    It leaves alone the chains of another owner, and those that another backend needs for a while (`ignore_chains`).
    """

    family: Family
    variant: Variant
    kernel: KernelRules

    refused: dict[Feature, str]
    """Why a feature is missing."""

    blocking: tuple[str, ...]
    """Built-in chains with policy DROP, as last read."""
    unanswered: dict[str, tuple[UnansweredDenial, ...]]
    """Denials that our accepts cannot override, by built-in chain, as last verified."""
    accepts: dict[str, str]
    """Our ACCEPT chain for each built-in chain, as last verified."""
    accepts_before: dict[str, str]
    """Rules of others that accept packets before our refusals, by built-in chain, as last verified."""

    def __init__(
        self,
        kernel: KernelRules,
        other: ChainOwner | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """other: another owner of chains. clock: returns seconds."""
        self.family = kernel.family
        self.variant = kernel.variant
        self.kernel = kernel
        self.refused = {}
        self.blocking = ()
        self.unanswered = {}
        self.accepts = {}
        self.accepts_before = {}
        self._other = other or _NoOwner()
        self._clock = clock
        self._pace = FrontPace()
        self._any_displaced = False
        self._supported: set[Feature] = set()
        self._held_counts: dict[str, int] = {}
        self.ignore_chains()

    def close(self) -> None:
        self.kernel.close()

    def apply(self, desired: RuleSet) -> None:
        """Write all rules and verify them. Raises RulesRefused, RulesLocked, KernelError."""
        self._other.prepare()
        found: list[str] = []
        for _ in range(_TRIES):
            held = self._read()
            moves = any(self._displaced_hooks(desired, held))
            self.kernel.restore(update_text(desired, held, ignored_first=self._ignored_first))
            if moves:
                self._pace.moved(self._clock())
            found = self.verify(desired)
            if not found:
                return
        raise RulesRefused(
            f"the packet rules still differ right after writing them ({_TRIES} attempts): {'; '.join(found)}"
        )

    def verify(self, desired: RuleSet) -> list[str]:
        """Return what differs in the kernel, one sentence each. If nothing does, `changed` reports later changes.

        Rules that others put in front of ours count as differences only once ours may be moved again. Raises
        RulesRefused, KernelError.
        """
        generation = self.kernel.begin_verification(desired.tables())
        held = self._read()
        to_front = self._pace.may_move(self._clock())
        found = differences(desired, held, to_front=to_front, ignored_first=self._ignored_first)
        found += self._other.differences()
        self._inspect_foreign_rules(desired, held)
        self._any_displaced = any(self._displaced_hooks(desired, held))
        if not found:
            self.kernel.mark_verified(generation)
        return found

    def _displaced_hooks(self, desired: RuleSet, held: Sequence[Held]) -> Iterator[str]:
        """Yield the built-in chains in which others put rules in front of our jumps."""
        for table in held:
            for hook in desired.hooks_of(table.table):
                if is_displaced(desired, table, hook, ignored_first=self._ignored_first):
                    yield hook

    def _inspect_foreign_rules(self, desired: RuleSet, held: Sequence[Held]) -> None:
        """Record which rules of others override ours."""
        for one in held:
            if one.table == "filter":
                hooks = desired.hooks_of("filter", Place.DEFAULT)
                self.accepts = {hook: jumps[0].chain for hook, jumps in hooks.items()}
                answers = self.accepts.items()
                self.unanswered = {hook: found for hook, accepts in answers if (found := one.unanswered(hook, accepts))}
                refusals = {hook: str(jumps[-1]) for hook, jumps in desired.hooks_of("filter").items()}
                self.accepts_before = {h: rule for h, j in refusals.items() if (rule := one.accept_before(j, h))}

    def changed(self) -> bool:
        """Return whether the rules should be verified again; False during `read_pause`."""
        if self.kernel.may_skip_reading(self._other.read_pause):
            return False
        return (self._any_displaced and self._pace.may_move(self._clock())) or self.kernel.modified()

    def counts(self) -> RuleCounts:
        """Return the numbers of rules as last read and written. Any thread may call this."""
        held = {**self._held_counts, "nat": self._held_counts.get("nat", 0) + self._other.rule_count()}
        return RuleCounts(held, self.kernel.written)

    def rules_of_chain(self, table: str, chain: str) -> list[str]:
        """Return the rules of a chain of ours, as iptables-save prints them; an empty list if it does not exist.
        Raises KernelError."""
        return next((one.chains.get(chain, []) for one in self._read() if one.table == table), [])

    def remove(self) -> list[str]:
        """Remove all that is ours. A chain that rules of other programs lead to stays, empty; return those rules.

        Raises RulesRefused, RulesLocked.
        """
        held = self._read()
        text = update_text(RuleSet(self.family), held)
        if text:
            self.kernel.restore(text)
        self.kernel.mark_unverified()
        return [line for one in held for chain, lines in one.held_by.items() if chain in one.chains for line in lines]

    def removals(self) -> list[str]:
        """Return what `remove` would do, as commands: jumps first, then a line for each chain."""
        held = self._read()
        places = [(one, chain) for one in held for chain in (*one.hooks, *one.others)]
        jumps = [f"-t {one.table} -D {chain} {rule}" for one, chain in places for rule in one.placed(chain)]
        chains = [
            f"-t {one.table} -X {chain}"
            for one in held
            for chain, rules in one.chains.items()
            if rules or chain not in one.held_by
        ]
        return [f"{COMMAND[self.family]} {line}" for line in (*jumps, *chains)]

    def supports(self, feature: Feature) -> bool:
        """Return whether a feature is supported. Until it is, every call tries it with a rule in an unused chain,
        because a module may be loaded later.

        Raises RulesRefused, KernelError if that cannot be found out now.
        """
        if feature not in self._supported and self._try(feature):
            self._supported.add(feature)
        return feature in self._supported

    def _try(self, feature: Feature) -> bool:
        table, rule = _TRIALS[feature]
        try:
            with_set = _TrialSet(self.family) if feature is Feature.SET else None
        except (StartError, KernelError) as error:
            if isinstance(error, KernelError) and error.code in _TEMPORARY:
                raise
            self.refused[feature] = str(error)
            return False
        try:
            self.kernel.tool.restore(f"*{table}\n:{_SCRATCH} - [0:0]\n-A {_SCRATCH} {rule}\nCOMMIT\n")
            self.kernel.tool.restore(f"*{table}\n:{_SCRATCH} - [0:0]\n-X {_SCRATCH}\nCOMMIT\n")
        except RulesRefused as error:
            if error.code in _TEMPORARY:
                raise
            self.refused[feature] = error.line
            return False
        finally:
            if with_set:
                with_set.close()
        return True

    def ignore_chains(self, ignored: Callable[[str], bool] = lambda chain: False, *, first: bool = False) -> None:
        """From now on ignore these chains of ours, and no others; the next `verify` reports chains ignored until now.

        first: packets traverse the ignored chains before ours.
        """
        self._ignored = ignored
        self._ignored_first = first
        self.kernel.mark_unverified()

    def _read(self) -> list[Held]:
        return self.kernel.read(self._parse)

    def _parse(self, text: str) -> list[Held]:
        self._other.parse(text)
        held = parse_all(text, lambda chain: self._other.owns(chain) or self._ignored(chain))
        self._held_counts = {one.table: sum(map(len, one.chains.values())) for one in held}
        self.blocking = tuple(
            f"{one.table} {chain}" for one in held for chain, policy in one.policies.items() if policy == "DROP"
        )
        return held


def remove_from_variant(family: Family, mode: Mode) -> None:
    """Remove our rules from a variant that this node no longer uses; do nothing if that variant does not work here.

    Raises RulesRefused, RulesLocked.
    """
    try:
        tool = IptablesCommands(family, mode)
        text = tool.save()
    except (StartError, RulesRefused):
        return
    if removal := update_text(RuleSet(family), parse_all(text)):
        tool.restore(removal)


class _TrialSet:
    """Creates an ipset to try a match with."""

    def __init__(self, family: Family) -> None:
        self._definitions = Definitions(timeout=10.0)
        self._definitions.destroy([TRIAL])
        self._definitions.create(SetSpec(TRIAL, "hash:ip", family))

    def close(self) -> None:
        self._definitions.destroy([TRIAL])
        self._definitions.close()
