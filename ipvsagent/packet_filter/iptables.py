"""The constant packet rules of this node, put together: which rules, in which families, with what iptables can do here.

Not for the main loop beside IPVS: iptables waits for a lock that other programs hold, and real servers must not wait
with it. `install` is called once before the first address is bound; from then on the agent calls `repair` in a thread
of its own, with a `PacketFilter` of its own. With the iptables backend everything goes through these tables, so there
the loop itself calls `repair`.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from threading import Event

from msgspec import Struct

from ipvsagent.address import Family
from ipvsagent.config import Config
from ipvsagent.errors import KernelError, StartError
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel.ipset.client_sets import ClientSets
from ipvsagent.kernel.iptables.chains import is_servers
from ipvsagent.kernel.iptables.commands import Mode, RulesLocked, RulesRefused, find_variant
from ipvsagent.kernel.iptables.counts import RuleCounts
from ipvsagent.kernel.iptables.rule_table import Feature, RuleTable, remove_left
from ipvsagent.kernel.iptables.translations import parse_translation
from ipvsagent.kernel.neighbours.obstacles import Obstacle, in_the_way
from ipvsagent.render.iptables.ipvs_rules import Detector, RuleOptions, rule_set
from ipvsagent.render.iptables.nat_rules import nat_rule_set
from ipvsagent.rows import TranslationRow
from ipvsagent.rows.packet_rules import INSIDE, RuleSet

log = logging.getLogger("ipvsagent")

LOOK_FOR_OBSTACLES_EVERY = 30.0  # seconds; a look reads the chains of all tables of nftables
READ_ALL_EVERY = 300  # looks: as long as a pass of the audit takes at most


class Kind(Struct, frozen=True):
    """Which rules. needed: features that none of them can do without, with the module that has them. others: chains of
    the other backend, which serves until this one does; yields: packets meet those before ours. holding: of these,
    those that its connections need afterwards."""

    rules: Callable[[Family, RuleOptions, Config, Iterable[TranslationRow]], RuleSet]
    needed: Mapping[Feature, str]
    others: Callable[[str], bool]
    yields: bool
    holding: Callable[[str], bool]


_LACKING = [{"random_fully": fully, "self_match": match} for fully, match in product((True, False), repeat=2)]


def _chains_of(rules: RuleSet) -> frozenset[str]:
    return frozenset(chain.name for chain in rules.chains)


_BESIDE = _chains_of(rule_set(Family.IPV4, RuleOptions()))
_INSTEAD = _chains_of(nat_rule_set(Family.IPV4, RuleOptions()))
BESIDE_IPVS = Kind(
    lambda family, options, config, translations: rule_set(family, options, translations),
    {Feature.SET: "xt_set", Feature.IPVS: "xt_ipvs", Feature.CONNMARK: "xt_connmark"},
    others=lambda chain: chain in _INSTEAD or is_servers(chain),
    yields=True,
    holding=lambda chain: False,
)
INSTEAD_OF_IPVS = Kind(
    lambda family, options, config, translations: nat_rule_set(
        family, options, localhost=serves_localhost(config), drop_invalid=not config.conntrack_be_liberal
    ),
    {Feature.SET: "xt_set", Feature.CONNMARK: "xt_connmark"},
    others=lambda chain: chain in _BESIDE,
    yields=False,
    # What begins a connection is marked, dropped or accepted before it comes to where it is translated.
    holding=lambda chain: chain in _BESIDE and not chain.startswith(("IPVSAGENT-MARK-", "IPVSAGENT-SERVICES", INSIDE)),
)


def serves_localhost(config: Config) -> bool:
    """Node ports on 127.0.0.1, if addresses of node ports were not chosen otherwise."""
    chosen = config.node_port_addresses
    loopback = not chosen or any(_has_loopback(text) for text in chosen)
    return config.localhost_node_ports and loopback


def families() -> tuple[Family, ...]:
    """Those that this kernel has."""
    return (Family.IPV4, Family.IPV6) if Path("/proc/net/if_inet6").exists() else (Family.IPV4,)


def _has_loopback(text: str) -> bool:
    return text != "primary" and ipaddress.ip_address("127.0.0.1") in ipaddress.ip_network(text, strict=False)


class PacketFilter:
    """Begins with the rules that it would like best; what iptables refuses is found out when it does, because each
    trial is a process. Raises StartError if there is no iptables."""

    # tables: of every family, if they do more than hold these rules
    def __init__(self, config: Config, kind: Kind = BESIDE_IPVS, tables: Sequence[RuleTable] = ()) -> None:
        self._config = config
        self._next: Config | None = None
        self._kind = kind
        self.variant = tables[0].variant if tables else find_variant()
        self._tables = list(tables) or [RuleTable(family, self.variant) for family in families()]
        for table in self._tables:
            table.leave(kind.others, first=kind.yields)
        self._translations: frozenset[TranslationRow] | None = None
        self._wanted_translations: frozenset[TranslationRow] | None = None
        self.wake = Event()
        self._can_do: dict[Family, dict[str, bool]] = {}
        self._rules = {table.family: self._rule_set(table.family) for table in self._tables}
        self._looks = 0
        self._obstacles: Sequence[Obstacle] = ()
        self._obstacles_due = 0.0
        self._without_self_match: set[Family] = set()

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
        """The next `follow` takes it up. Any thread may call this."""
        self._next = config

    def held_translations(self) -> frozenset[TranslationRow]:
        """Those that the kernel has, of the families whose rules can be read."""
        rules: list[str] = []
        for table in self._tables if self._kind is BESIDE_IPVS else ():
            with contextlib.suppress(KernelError):
                rules += table.rules_of_chain("nat", INSIDE)
        return frozenset(row for rule in rules if (row := parse_translation(rule)))

    def translate(self, rows: frozenset[TranslationRow]) -> None:
        """The next `follow` takes them up, and no others. Any thread may call this; it wakes whoever waits for
        `wake`."""
        self._wanted_translations = rows
        self.wake.set()

    @property
    def pending(self) -> bool:
        """Whether `follow` has something to write. Any thread may ask."""
        wanted = self._wanted_translations
        return self._next is not None or (wanted is not None and wanted != self._translations)

    def _set_translations(self, rows: frozenset[TranslationRow]) -> None:
        self._translations = rows
        for table in self._tables:
            self._rules[table.family] = self._rule_set(table.family, **self._can_do.get(table.family, {}))

    def follow(self) -> None:
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
            table.leave(self._kind.holding, first=self._kind.yields)
        self.install()

    def take_over(self) -> None:
        """Services are served by this backend and in this variant: what the other ones left goes. Raises as `install`.

        A node changes its variant when it gets another kubelet or CNI plugin. Packets meet the rules of both, so that
        old ones would go on choosing endpoints that are gone."""
        for table in self._tables:
            table.leave()
        self.install()
        self._remove_other_variant()
        if self._kind is BESIDE_IPVS:
            with contextlib.closing(ClientSets()) as clients:
                clients.sweep(())

    def removals(self) -> list[str]:
        """What `remove` would do, as commands."""
        for table in self._tables:
            table.leave()
        return [line for table in self._tables for line in table.removals()]

    def remove(self) -> None:
        """What is ours, of both backends and in both variants."""
        for table in self._tables:
            table.leave()
            table.remove()
        self._remove_other_variant()

    def _remove_other_variant(self) -> None:
        for mode, table in product(Mode, self._tables):
            if mode is not self.variant.mode:
                remove_left(table.family, mode)

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
            self._obstacles = in_the_way(self.variant.mode, bit=bit, translated=self._kind is INSTEAD_OF_IPVS)
        return self._obstacles

    def tell_failures(self, tell: Callable[[Family, bool], None]) -> None:
        """Of every write that iptables refuses from now on, in the thread that writes; True: of Services alone."""
        for table in self._tables:
            table.failed = functools.partial(tell, table.family)

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
            self._make_do(table)
            table.apply(self._rules[table.family])
        return len(found)

    def _make_do(self, table: RuleTable) -> None:
        """Find out what iptables can do here, and leave out what it cannot."""
        for feature, module in self._kind.needed.items():
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
        return self._kind.rules(family, options, self._config, rows)


def _in_the_way(table: RuleTable) -> Iterator[Finding]:
    """Rules of others that keep ours from their purpose, and what an operator can do."""
    tool = "ip6tables" if table.family is Family.IPV6 else "iptables"
    for hook, obstacles in table.obstacles.items():
        for obstacle in obstacles:
            accepts = table.accepts.get(hook, "")
            reason = (
                f"rule {obstacle.index + 1} of chain {obstacle.chain} ({table.family}), `{obstacle.denial}`, denies "
                f"traffic of Services that comes to it from {hook}, for some interfaces or beside other traffic, and "
                f"is not overridden; `{tool} -I {obstacle.chain} {obstacle.index + 1} -j {accepts}` lets it through"
            )
            yield Finding(FindingKind.HOST, "packet rules", reason)
    for hook, rule in table.accepts_before.items():
        reason = (
            f"a rule in front of ours in chain {hook} ({table.family}) accepts packets, `{rule}`, so that a Service "
            "without endpoints, or a port of this host on a Service address, may answer where we would refuse; our "
            "rules are put in front again, at a slow pace"
        )
        yield Finding(FindingKind.HOST, "packet rules", reason)


def rule_options(
    config: Config,
    family: Family,
    *,
    random_fully: bool = True,
    self_match: bool = True,
) -> RuleOptions:
    version = 6 if family is Family.IPV6 else 4
    detector = Detector(config.detect_local)
    return RuleOptions(
        masquerade_all=config.masquerade_all,
        masquerade_bit=config.masquerade_bit,
        detector=detector,
        interface=config.pod_interface,
        pods_known=detector is Detector.NODE_CIDR or any(n.version == version for n in config.cluster_cidrs),
        random_fully=random_fully,
        self_match=self_match,
    )
