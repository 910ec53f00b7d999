"""Implements the iptables backend, for kernels without IPVS, or where an operator chooses it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Self

from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.backends.assembly import Recorder, ledger_path, pipeline_for, policy_options, set_sizes, socket_path
from ipvsagent.backends.backend import Listing
from ipvsagent.backends.checks import BackendChecks, setting_check
from ipvsagent.backends.hand_over import HandOver, Stage
from ipvsagent.backends.ipvs_retirement import Retirement
from ipvsagent.backends.kernel_handles import IptablesHandles, open_iptables_handles
from ipvsagent.config import Config
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel import host
from ipvsagent.kernel.conntrack_sysctls import set_conntrack
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.iptables.commands import Variant
from ipvsagent.kernel.iptables.server_chains import ServerRules
from ipvsagent.kernel.ipvs.ownership import Ledger
from ipvsagent.kernel.sysctls import FORWARDING, LOCALHOST, ConnReuse, Setting, Sysctls, read_sysctl
from ipvsagent.model import VirtualServerId
from ipvsagent.packet_filter.packet_filter import PacketFilter
from ipvsagent.packet_filter.profiles import INSTEAD_OF_IPVS, rule_options, serves_localhost
from ipvsagent.packet_filter.selection import open_packet_filter
from ipvsagent.pipeline import Pipeline
from ipvsagent.policy.capabilities import IPTABLES, Capabilities
from ipvsagent.policy.virtual_servers import PolicyOptions
from ipvsagent.reconcile.kernel_tables import KernelTables, TableHooks
from ipvsagent.render.iptables.ipvs_rules import RuleOptions
from ipvsagent.render.iptables.nat_chains import IptablesRenderer
from ipvsagent.render.set_members import VIP_SETS, set_specs
from ipvsagent.rows import Failure, Observed, Op
from ipvsagent.status.chains import as_entries, names_of


class IptablesBackend:
    """Serves Services by chains of iptables."""

    name = "iptables"
    rules_in_loop = True

    def __init__(self, config: Config, kernel: IptablesHandles, why: tuple[Finding, ...] = ()) -> None:
        """why: the finding that explains why it is this backend, if it was not chosen."""
        self.config = config
        self.socket_path = socket_path(config)
        self.addresses = kernel.addresses
        self.sets = kernel.sets
        self.servers = kernel.servers
        self.saved = kernel.saved
        self.unset_limits: tuple[Finding, ...] = ()
        self._why = why
        self._retirement: Retirement | None = None
        self._hand_over = HandOver()
        self._sysctls = Sysctls()
        self._guarded = False
        self._renderer = renderer(config)

    @classmethod
    def open(cls, config: Config, why: tuple[Finding, ...] = (), variant: Variant | None = None) -> Self:
        """Open the kernel of this network namespace, which only reads it. Raises StartError.

        variant: what `find_variant` returned, if a caller has just called it.
        """
        return cls(config, open_iptables_handles(config, variant), why)

    @property
    def findings(self) -> tuple[Finding, ...]:
        return (*self._why, *unused_scheduler(self.config))

    def kernel_tables(self) -> KernelTables:
        hooks = ChainHooks(self.servers, self.sets)
        return KernelTables(self._renderer, self.servers, None, self.sets, hooks=hooks)

    @property
    def capabilities(self) -> Capabilities:
        return capabilities_of(self.config)

    def check(self) -> BackendChecks:
        return BackendChecks(tuple(setting_check(setting) for setting in self.settings()))

    def removals(self) -> list[Op]:
        ops: list[Op] = []
        tables = KernelTables(self._renderer, Recorder(self.servers, ops))
        iptables_pipeline(self.config, tables, window=0).start(0.0)
        return ops

    def remove(self) -> list[Failure]:
        """Do nothing: chains are removed with the packet rules."""
        return []

    def packet_filter(self) -> PacketFilter:
        """Open the constant rules, on the tables of the virtual servers: one reading serves both."""
        return open_packet_filter(self.config, INSTEAD_OF_IPVS, self.servers.tables)

    def pipeline(self, tables: KernelTables, *, window: float) -> Pipeline:
        return iptables_pipeline(self.config, tables, window=window)

    def dry_pipeline(self, ops: list[Op]) -> Pipeline:
        tables = KernelTables(self._renderer, Recorder(self.servers, ops), None, Recorder(self.sets, ops))
        return iptables_pipeline(self.config, tables, window=0)

    def settings(self) -> list[Setting]:
        """Return the kernel settings that this configuration needs; LOCALHOST only while the rule that guards
        127.0.0.0/8 is installed."""
        return [FORWARDING, LOCALHOST] if self._guarded else [FORWARDING]

    def keep_settings(self, now: float) -> tuple[list[Finding], list[str]]:
        return self._sysctls.keep(self.settings(), now)

    def conn_reuse(self) -> ConnReuse | None:
        return None

    @property
    def rules_pending(self) -> bool:
        return False  # the loop writes them itself

    def node_addresses(self) -> dict[Address, str]:
        return self.addresses.node_addresses()

    def listing(self, *, counters: bool) -> Listing:
        """Return the chains of virtual servers. Nothing counts their connections."""
        rows = tuple(self.servers.read(None))
        return Listing(None, 0, tuple(as_entries(rows)), names_of(rows))

    def findings_on_others(self) -> tuple[Finding, ...]:
        return self.retirement().findings()

    def repair_addresses(self) -> int:
        return 0  # none is bound

    def prepare(self) -> None:
        """Set up the host, and look for what IPVS served on this node before. Raises StartError."""
        self._sysctls.set(self.settings())
        self.set_limits()
        self._retirement = self.retirement()
        self._retirement.begin()
        self._hand_over = HandOver(self._retirement)

    def retirement(self) -> Retirement:
        """Return the retirement of what IPVS served on this node before."""
        return Retirement(self.config, self.addresses, Ledger(ledger_path(self.config)), self.sets)

    def prepare_host(self) -> None:
        """Do the part of `prepare` that may need more than CAP_NET_ADMIN. This includes the packet rules if
        route_localnet would open 127.0.0.0/8 to other hosts without them. Raises StartError."""
        self._sysctls.set(self.settings())
        self.set_limits()
        if serves_localhost(self.config) and not LOCALHOST.holds(read_sysctl(LOCALHOST.name)):
            self.sets.ensure(set_specs())
            rules = self.packet_filter()
            rules.install()
            self.unset_limits += self.after_rules_installed()

    def after_rules_installed(self) -> tuple[Finding, ...]:
        """Serve node ports on 127.0.0.1, if they are asked for."""
        if self._guarded or not serves_localhost(self.config):
            return ()
        self.saved.localhost.record([LOCALHOST])
        unset = self._sysctls.set([LOCALHOST])
        self._guarded = not unset
        return tuple(unset)

    def scheduler_works(self, name: str) -> bool:
        return True  # it has no effect: endpoints are chosen at random

    def policy(self, config: Config) -> PolicyOptions:
        return policy_options(config, capabilities=capabilities_of(config))

    def reconfigure(self, config: Config) -> bool:
        self.config = config
        if self._retirement:
            self._retirement.configure(config)
        self.set_limits()
        return self._renderer.configure(options_of(config))

    def set_limits(self) -> None:
        limits = (*set_conntrack(self.config), *host.set_oom_score(self.config.oom_score_adj))
        if not serves_localhost(self.config):
            self._guarded = False
            limits += self.saved.localhost.try_restore()
        self.unset_limits = limits

    def retire_others(self, now: float, rules: PacketFilter) -> tuple[Finding, ...]:
        """Remove what the IPVS backend left on this node, as its connections end. Raises KernelError, StartError."""
        unset = self.after_rules_installed()
        if self._hand_over.stage is Stage.DONE:
            return unset + self.saved.raised.try_restore() + self.saved.reserved.try_restore()
        return unset + self._hand_over.advance(now, rules)

    def ledger_findings(self) -> tuple[Finding, ...]:
        return ()  # the ledger is the IPVS backend's


class ChainHooks(TableHooks):
    """Adapts kernel tables to virtual servers that are chains of iptables."""

    def __init__(self, servers: ServerRules, sets: SetTable) -> None:
        self._servers = servers
        self._sets = sets

    def prepare(self) -> None:
        self._sets.ensure(set_specs())

    def virtual_servers(self) -> Iterable[Observed]:
        return self._servers.read(None)

    def set_sizes(self) -> Mapping[str, int] | None:
        return {name: size for name, size in set_sizes(self._sets).items() if name not in VIP_SETS}

    def take_externally_modified(self) -> Collection[VirtualServerId]:
        return self._servers.take_externally_modified()


def unused_scheduler(config: Config) -> tuple[Finding, ...]:
    """Return a finding if `--scheduler` asks for a scheduler."""
    if config.scheduler == Config().scheduler:
        return ()
    reason = f"{config.scheduler} has no effect: on iptables endpoints are chosen at random"
    return (Finding(FindingKind.CONFIGURATION, "--scheduler", reason),)


def capabilities_of(config: Config) -> Capabilities:
    """Return the capabilities of this backend, as configured."""
    return replace(IPTABLES, localhost_node_ports=serves_localhost(config))


def renderer(config: Config) -> IptablesRenderer:
    return IptablesRenderer(options_of(config))


def options_of(config: Config) -> dict[Family, RuleOptions]:
    return {family: rule_options(config, family) for family in Family}


def iptables_pipeline(config: Config, tables: KernelTables, *, window: float) -> Pipeline:
    return pipeline_for(config, tables, window=window, capabilities=capabilities_of(config))


def empty_iptables_recorder(config: Config, ops: list[Op]) -> KernelTables:
    """Return the tables of an empty kernel that record into `ops`, for a dry run on any machine."""
    return KernelTables(renderer(config), Recorder(None, ops), None, Recorder(None, ops))
