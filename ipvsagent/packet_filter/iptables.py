"""Keeps the constant packet rules of this node through iptables, in all families, as far as iptables supports them.

With IPVS the main loop must not call this: iptables waits for a lock that other programs hold, and real servers must
not wait with it. `install` is called once before the first address is bound; from then on a thread of the agent calls
`repair`. With the iptables backend all writes go through these tables anyway, so the loop itself calls `repair`.
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
from ipvsagent.kernel.iptables.commands import COMMAND, Mode, RulesLocked, RulesRefused, find_variant
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.rule_table import Feature, RuleTable, remove_from_variant
from ipvsagent.kernel.iptables.translations import parse_translation
from ipvsagent.kernel.neighbours.obstacles import Obstacle, find_obstacles
from ipvsagent.packet_filter.profiles import BESIDE_IPVS, INSTEAD_OF_IPVS, RuleProfile, families, rule_options
from ipvsagent.rows import TranslationRow
from ipvsagent.rows.packet_rules import INSIDE, RuleCounts, RuleSet

log = logging.getLogger("ipvsagent")

LOOK_FOR_OBSTACLES_EVERY = 30.0  # seconds; each time the chains of all nftables tables are read
READ_ALL_EVERY = 300  # calls of `repair`: as long as a pass of the audit takes at most


_LACKING = [{"random_fully": fully, "self_match": match} for fully, match in product((True, False), repeat=2)]


class IptablesPacketFilter:
    """Begins with all rules; only when iptables refuses them does it find out what iptables supports, because each
    trial starts a process."""

    def __init__(self, config: Config, profile: RuleProfile = BESIDE_IPVS, tables: Sequence[RuleTable] = ()) -> None:
        """tables: one of every family, if they are shared with the chains of virtual servers. Raises StartError if
        iptables is not installed."""
        self._config = config
        self._next: Config | None = None
        self._profile = profile
        self.variant = tables[0].variant if tables else find_variant()
        self._tables = list(tables) or [RuleTable(KernelRules(family, self.variant)) for family in families()]
        for table in self._tables:
            table.ignore_chains(profile.is_others, first=profile.others_first)
        self._translations: frozenset[TranslationRow] | None = None
        self._desired_translations: frozenset[TranslationRow] | None = None
        self.wake = Event()
        self._supported: dict[Family, dict[str, bool]] = {}
        self._rules = {table.family: self._rule_set(table.family) for table in self._tables}
        self._repairs = 0
        self._obstacles: Sequence[Obstacle] = ()
        self._obstacles_due = 0.0
        self._without_self_match: set[Family] = set()

    @property
    def description(self) -> str:
        return f"{self.variant.mode} iptables ({self.variant.reason})"

    def install(self) -> int:
        """Write the rules that differ; return the number of differences. Translations in the kernel stay until
        `translate` replaces them.

        Raises KernelError, and StartError if a required match is missing.
        """
        if self._translations is None:
            self._set_translations(self.held_translations())
        return self._install_all(self._tables)

    def repair(self) -> int:
        """Do the same as `install`, at almost no cost if no rule was changed. Call it once a second.

        Legacy iptables does not show that a rule was replaced by one of the same size, so every `READ_ALL_EVERY`
        calls all rules are read."""
        self._repairs += 1
        read_all = self.variant.mode is Mode.LEGACY and self._repairs % READ_ALL_EVERY == 0
        return self._install_all([table for table in self._tables if read_all or table.changed()])

    def differences(self) -> list[str]:
        """Return what `install` would repair, one sentence each, without a write. Raises KernelError.

        It does not try which features iptables lacks, but compares with the rule set that differs least.
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
        """Make the next `apply_pending` use this configuration. Any thread may call this."""
        self._next = config

    def held_translations(self) -> frozenset[TranslationRow]:
        """Return the translations in the kernel, of the families whose rules can be read."""
        rules: list[str] = []
        for table in self._tables if self._profile is BESIDE_IPVS else ():
            with contextlib.suppress(KernelError):
                rules += table.rules_of_chain("nat", INSIDE)
        return frozenset(row for rule in rules if (row := parse_translation(rule)))

    def translate(self, rows: frozenset[TranslationRow]) -> None:
        """Make the next `apply_pending` write these translations in place of all others, and set `wake`. Any thread
        may call this."""
        self._desired_translations = rows
        self.wake.set()

    @property
    def pending(self) -> bool:
        """Return whether `apply_pending` has something to write. Any thread may read this."""
        desired = self._desired_translations
        return self._next is not None or (desired is not None and desired != self._translations)

    def _set_translations(self, rows: frozenset[TranslationRow]) -> None:
        self._translations = rows
        for table in self._tables:
            self._rules[table.family] = self._rule_set(table.family, **self._supported.get(table.family, {}))

    def apply_pending(self) -> None:
        """Write new translations, and the rules of a new configuration, if there are any. Raises what `install`
        raises; the caller should then call it again."""
        desired = self._desired_translations
        if desired is not None and desired != self._translations:
            self._set_translations(desired)
            try:
                self.install()
            except (KernelError, StartError):
                self._translations = None  # one family may have them, so the next set is written in any case
                raise
        config = self._next
        if config is None:
            return
        self._config = config
        self._supported.clear()
        self._rules = {table.family: self._rule_set(table.family) for table in self._tables}
        if self.install():
            log.info("updated the packet rules for the new configuration")
        if self._next is config:
            self._next = None

    def serve(self) -> None:
        """Remove rules of the other backend, now that this one serves Services, except those that its connections
        still need. Raises what `install` raises."""
        for table in self._tables:
            table.ignore_chains(self._profile.is_draining, first=self._profile.others_first)
        self.install()

    def take_over(self) -> None:
        """Remove all rules that the other backend left, and those in the other variant. Raises what `install` raises.

        A node changes its variant when it gets another kubelet or CNI plugin. Packets pass the rules of both, so stale
        rules would keep choosing endpoints that no longer exist."""
        for table in self._tables:
            table.ignore_chains()
        self.install()
        self._remove_other_variant()
        if self._profile is BESIDE_IPVS:
            with contextlib.closing(ClientSets()) as clients:
                clients.sweep(())

    def removals(self) -> list[str]:
        """Return what `remove` would do, as commands."""
        for table in self._tables:
            table.ignore_chains()
        return [line for table in self._tables for line in table.removals()]

    def remove(self) -> None:
        """Remove our rules of both backends, in both variants."""
        for table in self._tables:
            table.ignore_chains()
            table.remove()
        self._remove_other_variant()

    def _remove_other_variant(self) -> None:
        for mode, table in product(Mode, self._tables):
            if mode is not self.variant.mode:
                remove_from_variant(table.family, mode)

    def findings(self) -> list[Finding]:
        """Return what the rules cannot do on this node, and which rules of others obstruct them."""
        found = [
            Finding(
                FindingKind.HOST,
                "packet rules",
                f"the policy of chain {chain} is DROP ({table.family}): our rules accept the traffic of Services; "
                "other traffic of pods needs rules of the program that set the policy",
            )
            for table in self._tables
            for chain in table.blocking
        ]
        for table in self._tables:
            found += _foreign_rule_findings(table)
        found += [obstacle.finding() for obstacle in self._obstacles_now()]
        if self._without_self_match:
            reason = (
                f"iptables cannot match with bpf ({', '.join(sorted(self._without_self_match))}), so a pod that "
                "connects to itself through a Service gets no answer; load the kernel module xt_bpf"
            )
            found.append(Finding(FindingKind.HOST, "packet rules", reason))
        return found

    def _obstacles_now(self) -> Sequence[Obstacle]:
        """Return denials and redirections in tables of other programs, as last read."""
        now = time.monotonic()
        if now >= self._obstacles_due:
            self._obstacles_due = now + LOOK_FOR_OBSTACLES_EVERY
            bit = 1 << self._config.masquerade_bit
            self._obstacles = find_obstacles(self.variant.mode, bit=bit, translated=self._profile is INSTEAD_OF_IPVS)
        return self._obstacles

    def on_failure(self, record: Callable[[Family, bool], None]) -> None:
        """Call `record` for every write that iptables refuses from now on, in the thread that writes. Its second
        argument is whether the write was of virtual servers only."""
        for table in self._tables:
            table.kernel.failed = functools.partial(record, table.family)

    def counts(self) -> dict[Family, RuleCounts]:
        """Return the numbers of rules by family. Any thread may call this."""
        return {table.family: table.counts() for table in self._tables}

    def close(self) -> None:
        for table in self._tables:
            table.close()

    def _install_all(self, tables: Sequence[RuleTable]) -> int:
        """Install the rules of every table, even if one fails; raise the first error at the end."""
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
        """Find out what iptables supports on this node, and omit the other rules."""
        for feature, module in self._profile.required.items():
            if not table.supports(feature):
                why = table.refused.get(feature, "no reason was given")
                raise StartError(
                    f"{self.variant.mode} iptables cannot use the match {feature} ({table.family}): {why}",
                    f"Load it on the host with `modprobe {module}`",
                )
        self_match = table.supports(Feature.BPF)
        supported = {"random_fully": table.supports(Feature.RANDOM_FULLY), "self_match": self_match}
        self._supported[table.family] = supported
        self._rules[table.family] = self._rule_set(table.family, **supported)
        (self._without_self_match.discard if self_match else self._without_self_match.add)(table.family)

    def _rule_set(self, family: Family, *, random_fully: bool = True, self_match: bool = True) -> RuleSet:
        options = rule_options(self._config, family, random_fully=random_fully, self_match=self_match)
        rows = [row for row in self._translations or () if row.source.family is family]
        return self._profile.rules(family, options, self._config, rows)


def _foreign_rule_findings(table: RuleTable) -> Iterator[Finding]:
    """Yield findings on rules of others that override ours, with what an operator can do."""
    tool = COMMAND[table.family]
    for hook, unanswered in table.unanswered.items():
        for denial in unanswered:
            accepts = table.accepts.get(hook, "")
            reason = (
                f"rule {denial.index + 1} of chain {denial.chain} ({table.family}), `{denial.denial}`, denies "
                f"traffic of Services that reaches it from {hook}; our rules do not override it, because it applies to "
                f"some interfaces only or also to other traffic; `{tool} -I {denial.chain} {denial.index + 1} "
                f"-j {accepts}` accepts the traffic of Services"
            )
            yield Finding(FindingKind.HOST, "packet rules", reason)
    for hook, rule in table.accepts_before.items():
        reason = (
            f"a rule before ours in chain {hook} ({table.family}) accepts packets, `{rule}`, so a Service without "
            "endpoints, or a port of this host on a Service address, may answer where our rules would refuse; our "
            "rules are moved to the front again, at a slow pace"
        )
        yield Finding(FindingKind.HOST, "packet rules", reason)
