"""The constant packet rules of this node, put together: which rules, in which families, with what iptables can do here.

Not for the main loop beside IPVS: iptables waits for a lock that other programs hold, and real servers must not wait
with it. `install` is called once before the first address is bound; from then on a thread of the agent calls `repair`.
With the iptables backend everything goes through these tables, so there the loop itself calls `repair`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from threading import Event

from ipvsagent.address import Family
from ipvsagent.config import Config
from ipvsagent.errors import KernelError, StartError
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel.ipset.client_sets import ClientSets
from ipvsagent.kernel.iptables.commands import Mode, RulesLocked, RulesRefused, find_variant
from ipvsagent.kernel.iptables.counts import RuleCounts
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.rule_table import Feature, RuleTable, remove_from_variant
from ipvsagent.kernel.iptables.translations import parse_translation
from ipvsagent.kernel.neighbours.obstacles import Obstacle, in_the_way
from ipvsagent.packet_filter.profiles import BESIDE_IPVS, INSTEAD_OF_IPVS, RuleProfile, families, rule_options
from ipvsagent.rows import TranslationRow
from ipvsagent.rows.packet_rules import INSIDE, RuleSet

log = logging.getLogger("ipvsagent")

LOOK_FOR_OBSTACLES_EVERY = 30.0  # seconds; a look reads the chains of all tables of nftables
READ_ALL_EVERY = 300  # looks: as long as a pass of the audit takes at most


_LACKING = [{"random_fully": fully, "self_match": match} for fully, match in product((True, False), repeat=2)]


class IptablesPacketFilter:
    """Begins with the rules that it would like best; what iptables refuses is found out when it does, because each
    trial is a process. Raises StartError if there is no iptables."""

    # tables: of every family, if they do more than hold these rules
    def __init__(self, config: Config, profile: RuleProfile = BESIDE_IPVS, tables: Sequence[RuleTable] = ()) -> None:
        self._config = config
        self._next: Config | None = None
        self._profile = profile
        self.variant = tables[0].variant if tables else find_variant()
        self._tables = list(tables) or [RuleTable(KernelRules(family, self.variant)) for family in families()]
        for table in self._tables:
            table.ignore_chains(profile.others, first=profile.yields)
        self._translations: frozenset[TranslationRow] | None = None
        self._wanted_translations: frozenset[TranslationRow] | None = None
        self.wake = Event()
        self._can_do: dict[Family, dict[str, bool]] = {}
        self._rules = {table.family: self._rule_set(table.family) for table in self._tables}
        self._looks = 0
        self._obstacles: Sequence[Obstacle] = ()
        self._obstacles_due = 0.0
        self._without_self_match: set[Family] = set()

    @property
    def description(self) -> str:
        return f"{self.variant.mode} iptables ({self.variant.reason})"

    def install(self) -> int:
        """Write what is missing; returns how many differences there were. Translations that are there stay until
        `translate` says otherwise.

        Raises KernelError, and StartError if a match that no rule set can do without is missing.
        """
        if self._translations is None:
            self._set_translations(self.held_translations())
        return self._install_all(self._tables)

    def repair(self) -> int:
        """As `install`, and next to nothing when nobody changed any rule since. To be called once a second.

        Legacy iptables does not tell of a rule that was replaced by one of the same size, so that now and then all are
        read."""
        self._looks += 1
        read_all = self.variant.mode is Mode.LEGACY and self._looks % READ_ALL_EVERY == 0
        return self._install_all([table for table in self._tables if read_all or table.changed()])

    def differences(self) -> list[str]:
        """What `install` would put right, a sentence each; only reads. Raises KernelError.

        Which features iptables lacks here is not tried: the rules that differ least are taken for those of this node.
        """
        found: list[str] = []
        if self._translations is None:
            self._set_translations(self.held_translations())
        for table in self._tables:
            family = table.family
            differing = table.verify(self._rules[family])
            if differing:
                differing = min((table.verify(self._rule_set(family, **lacks)) for lacks in _LACKING), key=len)
            found += [f"{family} {sentence}" for sentence in differing]
        return found

    def configure(self, config: Config) -> None:
        """The next `apply_pending` takes it up. Any thread may call this."""
        self._next = config

    def held_translations(self) -> frozenset[TranslationRow]:
        """Those that the kernel has, of the families whose rules can be read."""
        rules: list[str] = []
        for table in self._tables if self._profile is BESIDE_IPVS else ():
            with contextlib.suppress(KernelError):
                rules += table.rules_of_chain("nat", INSIDE)
        return frozenset(row for rule in rules if (row := parse_translation(rule)))

    def translate(self, rows: frozenset[TranslationRow]) -> None:
        """The next `apply_pending` takes them up, and no others. Any thread may call this; it wakes whoever waits for
        `wake`."""
        self._wanted_translations = rows
        self.wake.set()

    @property
    def pending(self) -> bool:
        """Whether `apply_pending` has something to write. Any thread may ask."""
        wanted = self._wanted_translations
        return self._next is not None or (wanted is not None and wanted != self._translations)

    def _set_translations(self, rows: frozenset[TranslationRow]) -> None:
        self._translations = rows
        for table in self._tables:
            self._rules[table.family] = self._rule_set(table.family, **self._can_do.get(table.family, {}))

    def apply_pending(self) -> None:
        """Write new translations, and the rules of a new configuration, if there are any. Raises as `install`, and is
        then to be called again."""
        wanted = self._wanted_translations
        if wanted is not None and wanted != self._translations:
            self._set_translations(wanted)
            try:
                self.install()
            except (KernelError, StartError):
                self._translations = None  # one family may have them; whatever is wanted next, it is written
                raise
        config = self._next
        if config is None:
            return
        self._config = config
        self._can_do.clear()
        self._rules = {table.family: self._rule_set(table.family) for table in self._tables}
        if self.install():
            log.info("packet rules are as the new configuration wants them")
        if self._next is config:
            self._next = None

    def serve(self) -> None:
        """Services are served by this backend: of the other one's rules those stay that its connections need. Raises as
        `install`."""
        for table in self._tables:
            table.ignore_chains(self._profile.holding, first=self._profile.yields)
        self.install()

    def take_over(self) -> None:
        """Services are served by this backend and in this variant: what the other ones left goes. Raises as `install`.

        A node changes its variant when it gets another kubelet or CNI plugin. Packets meet the rules of both, so that
        old ones would go on choosing endpoints that are gone."""
        for table in self._tables:
            table.ignore_chains()
        self.install()
        self._remove_other_variant()
        if self._profile is BESIDE_IPVS:
            with contextlib.closing(ClientSets()) as clients:
                clients.sweep(())

    def removals(self) -> list[str]:
        """What `remove` would do, as commands."""
        for table in self._tables:
            table.ignore_chains()
        return [line for table in self._tables for line in table.removals()]

    def remove(self) -> None:
        """What is ours, of both backends and in both variants."""
        for table in self._tables:
            table.ignore_chains()
            table.remove()
        self._remove_other_variant()

    def _remove_other_variant(self) -> None:
        for mode, table in product(Mode, self._tables):
            if mode is not self.variant.mode:
                remove_from_variant(table.family, mode)

    def findings(self) -> list[Finding]:
        """What cannot be done here, and what stands in the way."""
        found = [
            Finding(
                FindingKind.HOST,
                "packet rules",
                f"the policy of chain {chain} is DROP ({table.family}): our rules let the traffic of Services through, "
                "other traffic of pods needs rules of whoever set it",
            )
            for table in self._tables
            for chain in table.blocking
        ]
        for table in self._tables:
            found += _in_the_way(table)
        found += [obstacle.finding() for obstacle in self._obstacles_now()]
        if self._without_self_match:
            reason = (
                f"iptables cannot match with bpf ({', '.join(sorted(self._without_self_match))}), so a pod that "
                "reaches itself through a Service gets no answer; load the kernel module xt_bpf"
            )
            found.append(Finding(FindingKind.HOST, "packet rules", reason))
        return found

    def _obstacles_now(self) -> Sequence[Obstacle]:
        """Denials and redirections in tables of other programs, as looked at now and then."""
        now = time.monotonic()
        if now >= self._obstacles_due:
            self._obstacles_due = now + LOOK_FOR_OBSTACLES_EVERY
            bit = 1 << self._config.masquerade_bit
            self._obstacles = in_the_way(self.variant.mode, bit=bit, translated=self._profile is INSTEAD_OF_IPVS)
        return self._obstacles

    def on_failure(self, record: Callable[[Family, bool], None]) -> None:
        """Of every write that iptables refuses from now on, in the thread that writes; True: of Services alone."""
        for table in self._tables:
            table.kernel.failed = functools.partial(record, table.family)

    def counts(self) -> dict[Family, RuleCounts]:
        """Any thread may ask."""
        return {table.family: table.counts() for table in self._tables}

    def close(self) -> None:
        for table in self._tables:
            table.close()

    def _install_all(self, tables: Sequence[RuleTable]) -> int:
        """A family that fails keeps no other one from its rules; the first error is raised at the end."""
        count = 0
        errors: list[KernelError | StartError] = []
        for table in tables:
            try:
                count += self._install(table)
            except (KernelError, StartError) as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return count

    def _install(self, table: RuleTable) -> int:
        found = table.verify(self._rules[table.family])
        if not found:
            return 0
        try:
            table.apply(self._rules[table.family])
        except RulesLocked:
            raise
        except RulesRefused:
            self._degrade(table)
            table.apply(self._rules[table.family])
        return len(found)

    def _degrade(self, table: RuleTable) -> None:
        """Find out what iptables can do here, and leave out what it cannot."""
        for feature, module in self._profile.needed.items():
            if not table.supports(feature):
                why = table.refused.get(feature, "it gave no reason")
                raise StartError(
                    f"{self.variant.mode} iptables cannot use the match {feature} ({table.family}): {why}",
                    f"Load it on the host with `modprobe {module}`",
                )
        self_match = table.supports(Feature.BPF)
        can_do = {"random_fully": table.supports(Feature.RANDOM_FULLY), "self_match": self_match}
        self._can_do[table.family] = can_do
        self._rules[table.family] = self._rule_set(table.family, **can_do)
        (self._without_self_match.discard if self_match else self._without_self_match.add)(table.family)

    def _rule_set(self, family: Family, *, random_fully: bool = True, self_match: bool = True) -> RuleSet:
        options = rule_options(self._config, family, random_fully=random_fully, self_match=self_match)
        rows = [row for row in self._translations or () if row.source.family is family]
        return self._profile.rules(family, options, self._config, rows)


def _in_the_way(table: RuleTable) -> Iterator[Finding]:
    """Rules of others that keep ours from their purpose, and what an operator can do."""
    tool = "ip6tables" if table.family is Family.IPV6 else "iptables"
    for hook, unanswered in table.unanswered.items():
        for denial in unanswered:
            accepts = table.accepts.get(hook, "")
            reason = (
                f"rule {denial.index + 1} of chain {denial.chain} ({table.family}), `{denial.denial}`, denies "
                f"traffic of Services that comes to it from {hook}, for some interfaces or beside other traffic, and "
                f"is not overridden; `{tool} -I {denial.chain} {denial.index + 1} -j {accepts}` lets it through"
            )
            yield Finding(FindingKind.HOST, "packet rules", reason)
    for hook, rule in table.accepts_before.items():
        reason = (
            f"a rule in front of ours in chain {hook} ({table.family}) accepts packets, `{rule}`, so that a Service "
            "without endpoints, or a port of this host on a Service address, may answer where we would refuse; our "
            "rules are put in front again, at a slow pace"
        )
        yield Finding(FindingKind.HOST, "packet rules", reason)
