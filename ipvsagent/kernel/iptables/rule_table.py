"""Our packet rules in the kernel, through iptables.

Goals, and how each is met:

1. Other programs' rules, chains, policies and counters stay as they are. Ours are chains of our prefix, and jumps to
   them; only these are ever written. Whatever has the prefix is ours.
2. No packet meets half of our rules: a table's chains and jumps are replaced in one transaction. Between tables the
   state is mixed for a moment; a crash there is repaired by the next `apply`.
3. What others deny stays denied. Refusals, marks and translations of ours stand in front, and decide on packets to
   Services alone; accepts stand directly before a chain's default, and only where that denies (`iptables_defaults.py`).
   Where others put a rule in front of ours, it is moved there again at a slow pace (`front_pace.py`), never in a race.
4. Somebody else's changes are noticed at the price of a system call (`changed`), and named (`verify`).

For one thread and the network namespace it was made in.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from enum import StrEnum
from typing import Protocol

from ipvsagent.address import Family
from ipvsagent.errors import KernelError, StartError
from ipvsagent.kernel.ipset.definitions import TRIAL, Definitions
from ipvsagent.kernel.iptables.commands import Mode, RulesRefused, Tool, Variant, find_variant
from ipvsagent.kernel.iptables.counts import RuleCounts, rules_in
from ipvsagent.kernel.iptables.defaults import UnansweredDenial
from ipvsagent.kernel.iptables.front_pace import FrontPace
from ipvsagent.kernel.iptables.text import Held, differences, is_displaced, parse_all, update_text
from ipvsagent.rows import SetSpec
from ipvsagent.rows.packet_rules import CHAIN_PREFIX, Place, RuleSet

_TRIES = 3
_SCRATCH = f"{CHAIN_PREFIX}TRY"
_PASSING = frozenset(
    [errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ETIMEDOUT]
)
"""They say how busy the node is, and nothing of what it can do."""


class Feature(StrEnum):
    """What a kernel or an iptables may lack."""

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


class RuleTool(Protocol):
    """What `RuleTable` needs of iptables; the fake has another."""

    def save(self) -> str: ...

    def restore(self, text: str) -> None: ...

    def generation(self, tables: Sequence[str]) -> Hashable: ...

    def follows(self, before: Hashable, now: Hashable, commits: int) -> bool: ...

    def close(self) -> None: ...


class RuleTable:
    """The rules of one address family, but for chains of ours that another backend needs for a while (`ignore_chains`).

    variant: None = the one the node uses; share it between families.

    refused: why a feature is not there. As last read: blocking: chains of policy DROP; unanswered: denials that accepts
    of ours cannot answer, by built-in chain; accepts: the chain of our accepts for each; accepts_before: rules of
    others that accept before our refusals see a packet, by built-in chain. failed: called for every write that iptables
    refuses, with whether it was of a part of the rules alone.
    lock_seconds: how long a write waits for other programs' writes. clock: in seconds.
    Raises StartError if there is no iptables.
    """

    def __init__(
        self,
        family: Family,
        variant: Variant | None = None,
        *,
        lock_seconds: float = 10.0,
        tool: RuleTool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.family = family
        self.variant = variant or find_variant()
        self._clock = clock
        self._pace = FrontPace()
        self._is_displaced = False
        self._kept_first = False
        self.refused: dict[Feature, str] = {}
        self._supported: set[Feature] = set()
        self._tool = tool or Tool(family, self.variant.mode, lock_seconds)
        self.blocking: tuple[str, ...] = ()
        self.unanswered: dict[str, tuple[UnansweredDenial, ...]] = {}
        self.accepts: dict[str, str] = {}
        self.accepts_before: dict[str, str] = {}
        self.failed: Callable[[bool], None] = lambda partial: None
        self._held_rules: dict[str, int] = {}
        self._written_rules = rules_in("")
        self._tables: list[str] = []
        self._seen: Hashable = None
        self.ignore_chains()

    def close(self) -> None:
        self._tool.close()

    def apply(self, wanted: RuleSet) -> None:
        """Writes all of it and reads it back. Raises RulesRefused, RulesLocked, KernelError."""
        found: list[str] = []
        for _ in range(_TRIES):
            held = self._read()
            moves = any(self._displaced(wanted, held))
            self._restore(update_text(wanted, held, kept_first=self._kept_first))
            if moves:
                self._pace.moved(self._clock())
            found = self.verify(wanted)
            if not found:
                return
        raise RulesRefused(f"the packet rules do not stay as they are written: {'; '.join(found)}")

    def verify(self, wanted: RuleSet) -> list[str]:
        """What the kernel has otherwise, a sentence each. If nothing, `changed` tells of changes from now on.

        Rules that others put in front of ours count when it is time to move ours to the front again.
        """
        self._seen = None  # whatever fails from here on: what differs is looked for again
        self._tables = wanted.tables()
        seen = self._tool.generation(self._tables)
        held = self._read()
        to_front = self._pace.may_move(self._clock())
        found = differences(wanted, held, to_front=to_front, kept_first=self._kept_first)
        self._note_neighbours(wanted, held)
        self._is_displaced = any(self._displaced(wanted, held))
        if not found:
            self._seen = seen
        return found

    def _displaced(self, wanted: RuleSet, held: Sequence[Held]) -> Iterator[str]:
        """Built-in chains in which others put rules in front of our jumps."""
        for one in held:
            for hook in wanted.hooks_of(one.table):
                if is_displaced(wanted, one, hook, kept_first=self._kept_first):
                    yield hook

    def _note_neighbours(self, wanted: RuleSet, held: Sequence[Held]) -> None:
        """What of others keeps ours from their purpose."""
        for one in held:
            if one.table == "filter":
                hooks = wanted.hooks_of("filter", Place.DEFAULT)
                self.accepts = {hook: jumps[0].chain for hook, jumps in hooks.items()}
                answers = self.accepts.items()
                self.unanswered = {hook: found for hook, accepts in answers if (found := one.unanswered(hook, accepts))}
                refusals = {hook: str(jumps[-1]) for hook, jumps in wanted.hooks_of("filter").items()}
                self.accepts_before = {h: rule for h, j in refusals.items() if (rule := one.accept_before(j, h))}

    def changed(self) -> bool:
        """Whether anybody changed the rules since `apply` or `verify` found them as wanted; also if none did, or that
        cannot be told."""
        if self._seen is None or (self._is_displaced and self._pace.may_move(self._clock())):
            return True
        try:
            return self._tool.generation(self._tables) != self._seen
        except KernelError:
            return True

    def counts(self) -> RuleCounts:
        """As last read and written. Any thread may ask."""
        return RuleCounts(self._held_rules, self._written_rules)

    def rules_of_chain(self, table: str, chain: str) -> list[str]:
        """The rules of a chain of ours, as iptables-save prints them; none of one that is not there. Raises
        KernelError."""
        return next((one.chains.get(chain, []) for one in self._read() if one.table == table), [])

    def remove(self) -> list[str]:
        """Removes all that is ours; the rules of other programs that keep a chain of ours, by then empty."""
        nothing = RuleSet(self.family)
        held = self._read()
        text = update_text(nothing, held)
        if text:
            self._restore(text)
        self._seen = None
        return [line for one in held for chain, lines in one.held_by.items() if chain in one.chains for line in lines]

    def removals(self) -> list[str]:
        """What `remove` would do, as commands: jumps first, then a line for each chain."""
        tool = "ip6tables" if self.family is Family.IPV6 else "iptables"
        held = self._read()
        places = [(one, chain) for one in held for chain in (*one.hooks, *one.others)]
        jumps = [f"-t {one.table} -D {chain} {rule}" for one, chain in places for rule in one.placed(chain)]
        chains = [
            f"-t {one.table} -X {chain}"
            for one in held
            for chain, rules in one.chains.items()
            if rules or chain not in one.held_by
        ]
        return [f"{tool} {line}" for line in (*jumps, *chains)]

    def supports(self, feature: Feature) -> bool:
        """Tried with a rule in a chain that no packet meets, until it works: a module may be loaded later.

        Raises RulesRefused, KernelError if it cannot be told now.
        """
        if feature not in self._supported and self._tries(feature):
            self._supported.add(feature)
        return feature in self._supported

    def _tries(self, feature: Feature) -> bool:
        table, rule = _TRIALS[feature]
        try:
            with_set = _TrialSet(self.family) if feature is Feature.SET else None
        except (StartError, KernelError) as error:
            if isinstance(error, KernelError) and error.code in _PASSING:
                raise
            self.refused[feature] = str(error)
            return False
        try:
            self._tool.restore(f"*{table}\n:{_SCRATCH} - [0:0]\n-A {_SCRATCH} {rule}\nCOMMIT\n")
            self._tool.restore(f"*{table}\n:{_SCRATCH} - [0:0]\n-X {_SCRATCH}\nCOMMIT\n")
        except RulesRefused as error:
            if error.code in _PASSING:
                raise
            self.refused[feature] = error.line
            return False
        finally:
            if with_set:
                with_set.close()
        return True

    def _restore_own(self, text: str, commits: int) -> None:
        """Writes what `verify` does not look at, and goes on knowing whether others wrote. commits: of the text."""
        untouched = self._seen is not None and not RuleTable.changed(self)
        self._restore(text, partial=True)
        if untouched:
            now = self._tool.generation(self._tables)
            self._seen = now if self._tool.follows(self._seen, now, commits) else None

    def _restore(self, text: str, *, partial: bool = False) -> None:
        try:
            self._tool.restore(text)
        except RulesRefused:
            self.failed(partial)
            raise
        self._written_rules = rules_in(text)

    def _read(self) -> list[Held]:
        return self._parsed(self._tool.save())

    def _keeps(self, chain: str) -> bool:
        """Whether a chain of ours is none of this table's business."""
        return self._leaves(chain)

    def ignore_chains(self, chains: Callable[[str], bool] = lambda chain: False, *, first: bool = False) -> None:
        """From now on these are left alone, and no others; the next `verify` finds what was. first: packets meet them
        before ours."""
        self._leaves = chains
        self._kept_first = first
        self._seen = None

    def _parsed(self, text: str) -> list[Held]:
        held = parse_all(text, self._keeps)
        self._held_rules = {one.table: sum(map(len, one.chains.values())) for one in held}
        self.blocking = tuple(
            f"{one.table} {chain}" for one in held for chain, policy in one.policies.items() if policy == "DROP"
        )
        return held


def remove_left(family: Family, mode: Mode) -> None:
    """What is ours in the kind of rules that this node does not use any more; none of it if that does not work here.

    Raises RulesRefused, RulesLocked.
    """
    try:
        tool = Tool(family, mode)
        text = tool.save()
    except (StartError, RulesRefused):
        return
    if removal := update_text(RuleSet(family), parse_all(text)):
        tool.restore(removal)


class _TrialSet:
    def __init__(self, family: Family) -> None:
        self._definitions = Definitions(timeout=10.0)
        self._definitions.destroy([TRIAL])
        self._definitions.create(SetSpec(TRIAL, "hash:ip", family))

    def close(self) -> None:
        self._definitions.destroy([TRIAL])
        self._definitions.socket.close()
