"""This node, opened for the iptables backend: for kernels without IPVS, or where it is chosen."""

from __future__ import annotations

from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.backends.assembly import Recorder, pipeline_for, policy_options, set_sizes, socket_path
from ipvsagent.backends.backend import Listing
from ipvsagent.backends.hand_over import HandOver, Stage
from ipvsagent.backends.ipvs_retirement import Retirement
from ipvsagent.config import Config
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel import host
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.arp import Raised
from ipvsagent.kernel.conntrack_sysctls import set_conntrack
from ipvsagent.kernel.ipset.client_sets import ClientSets
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.iptables.commands import Variant, find_variant
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.server_chains import ServerChains, ServerRules
from ipvsagent.kernel.ipvs.ownership import Ledger, state_key
from ipvsagent.kernel.reserved_ports import ReservedPorts
from ipvsagent.kernel.sysctls import FORWARDING, LOCALHOST, ConnReuse, Setting, Sysctls, read_sysctl
from ipvsagent.packet_filter.iptables import IptablesPacketFilter
from ipvsagent.packet_filter.packet_filter import PacketFilter
from ipvsagent.packet_filter.profiles import INSTEAD_OF_IPVS, families, rule_options, serves_localhost
from ipvsagent.pipeline import Pipeline
from ipvsagent.policy.capabilities import IPTABLES, Capabilities
from ipvsagent.policy.virtual_servers import PolicyOptions
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.render.iptables.ipvs_rules import RuleOptions
from ipvsagent.render.iptables.nat_chains import IptablesRenderer
from ipvsagent.render.set_members import VIP_SETS, set_specs
from ipvsagent.rows import Op
from ipvsagent.status.chains import as_entries, names_of


class IptablesBackend:
    """The same for the agent as `Node`; opening it only reads. Raises StartError. findings: why it is this one.
    variant: what `find_variant` said a moment ago, if anybody asked it."""

    name = "iptables"
    rules_in_loop = True

    def __init__(self, config: Config, findings: tuple[Finding, ...] = (), variant: Variant | None = None) -> None:
        self._why = findings
        host.require_privilege()
        self.config = config
        key = state_key()
        self.socket_path = socket_path(config)
        self.ledger_path = config.state_dir / f"{key}.ledger"
        self.addresses = AddressTable(config.interface)
        self.sets = SetTable(leaves=VIP_SETS)
        self.unset_limits: tuple[Finding, ...] = ()
        self._retirement: Retirement | None = None
        self._hand_over = HandOver()
        self._sysctls = Sysctls()
        self.raised = Raised(config.state_dir / f"{key}.raised")
        self.localhost = Raised(config.state_dir / f"{key}.localhost")
        self.reserved = ReservedPorts(config.state_dir / f"{key}.reserved")
        self._guarded = False
        self._clients = ClientSets()
        variant = variant or find_variant()
        self.servers = ServerRules(ServerChains(KernelRules(f, variant), self._clients.make) for f in families())
        self._renderer = renderer(config)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Why it is this backend, and what of the configuration it has no use for."""
        return (*self._why, *unused_scheduler(self.config))

    def kernel_tables(self) -> KernelTables:
        """Writes, and makes sets when they are missing."""
        return KernelTables(
            self._renderer,
            self.servers,
            None,
            self.sets,
            prepare=lambda: self.sets.ensure(set_specs()),
            listing=lambda: self.servers.read(None),
            set_sizes=lambda: {name: size for name, size in set_sizes(self.sets).items() if name not in VIP_SETS},
            touched=self.servers.take_externally_modified,
        )

    def recorder(self, ops: list[Op]) -> KernelTables:
        """The same kernel, for a dry run."""
        return KernelTables(self._renderer, Recorder(self.servers, ops), None, Recorder(self.sets, ops))

    def chain_recorder(self, ops: list[Op]) -> KernelTables:
        """For a dry run that is about virtual servers alone."""
        return KernelTables(self._renderer, Recorder(self.servers, ops), None)

    def packet_filter(self) -> PacketFilter:
        """On the tables of virtual servers: one reading serves both."""
        return IptablesPacketFilter(self.config, INSTEAD_OF_IPVS, self.servers.tables)

    def pipeline(self, tables: KernelTables, *, window: float) -> Pipeline:
        return iptables_pipeline(self.config, tables, window=window)

    def dry_pipeline(self, ops: list[Op]) -> Pipeline:
        """What `run` would write goes into `ops`; the kernel is read only."""
        return iptables_pipeline(self.config, self.recorder(ops), window=0)

    def settings(self) -> list[Setting]:
        """Kernel settings that this configuration asks for; LOCALHOST once the rule stands that guards 127.0.0.0/8."""
        return [FORWARDING, LOCALHOST] if self._guarded else [FORWARDING]

    def keep_settings(self, now: float) -> tuple[list[Finding], list[str]]:
        """Put right what somebody changed since: findings, and the names of what was changed."""
        return self._sysctls.keep(self.settings(), now)

    def conn_reuse(self) -> ConnReuse | None:
        return None

    @property
    def rules_pending(self) -> bool:
        """The loop writes them itself."""
        return False

    def node_addresses(self) -> dict[Address, str]:
        """Addresses on interfaces other than ours, with the interface's name. Raises KernelError."""
        return self.addresses.node_addresses()

    def listing(self, *, counters: bool) -> Listing:
        """Chains of virtual servers; nothing counts their connections."""
        rows = tuple(self.servers.read(None))
        return Listing(None, 0, tuple(as_entries(rows)), names_of(rows))

    def left_by_others(self) -> tuple[Finding, ...]:
        """What IPVS served here before."""
        return self.retirement().findings()

    def repair_addresses(self) -> int:
        """None is bound."""
        return 0

    def prepare(self) -> None:
        """What a writing agent needs of the host; raises StartError with a remedy. Stays when the agent ends.

        Also looks for what IPVS served here before, which goes as its connections do.
        """
        self._sysctls.set(self.settings())
        self.set_limits()
        self._retirement = self.retirement()
        self._retirement.begin()
        self._hand_over = HandOver(self._retirement)

    def retirement(self) -> Retirement:
        """Of what IPVS served here before."""
        return Retirement(self.config, self.addresses, Ledger(self.ledger_path), self.sets)

    def prepare_host(self) -> None:
        """The part of it that may need more than CAP_NET_ADMIN, for an agent that comes later. The packet rules are
        written, too, where a setting would open 127.0.0.0/8 to other hosts without them."""
        self._sysctls.set(self.settings())
        self.set_limits()
        if serves_localhost(self.config) and not LOCALHOST.holds(read_sysctl(LOCALHOST.name)):
            self.sets.ensure(set_specs())
            rules = self.packet_filter()
            rules.install()
            self.unset_limits += self.after_rules_installed()

    def after_rules_installed(self) -> tuple[Finding, ...]:
        """What has to wait for them is done: 127.0.0.1 serves node ports. What could not be done is said."""
        if self._guarded or not serves_localhost(self.config):
            return ()
        self.localhost.note([LOCALHOST])
        unset = self._sysctls.set([LOCALHOST])
        self._guarded = not unset
        return tuple(unset)

    def scheduler_works(self, name: str) -> bool:
        """None is asked for: endpoints are chosen at random."""
        return True

    def policy(self, config: Config) -> PolicyOptions:
        return policy_options(config, capabilities=capabilities_of(config))

    def reconfigure(self, config: Config) -> bool:
        """Take up what may change while the agent runs; whether chains of virtual servers become others by it."""
        self.config = config
        if self._retirement:
            self._retirement.configure(config)
        self.set_limits()
        return self._renderer.configure(options_of(config))

    def set_limits(self) -> None:
        """What traffic can do without, if it has to; `unset_limits` says what could not be set."""
        limits = (*set_conntrack(self.config), *host.set_oom_score(self.config.oom_score_adj))
        if not serves_localhost(self.config):
            self._guarded = False
            limits += self.localhost.restored()
        self.unset_limits = limits

    def retire_others(self, now: float, rules: PacketFilter) -> tuple[Finding, ...]:
        """What the IPVS backend left here goes, as its connections end. Raises KernelError, StartError.

        Called when the packet rules are as they should be.
        """
        unset = self.after_rules_installed()
        if self._hand_over.stage is Stage.DONE:
            return unset + self.raised.restored() + self.reserved.restored()
        return unset + self._hand_over.advance(now, rules)

    def ledger_findings(self) -> tuple[Finding, ...]:
        """What is in it was noted by the IPVS backend."""
        return ()


def unused_scheduler(config: Config) -> tuple[Finding, ...]:
    """One finding if a scheduler is asked for, for all Services."""
    if config.scheduler == Config().scheduler:
        return ()
    reason = f"{config.scheduler} has no effect: on iptables endpoints are chosen at random"
    return (Finding(FindingKind.CONFIGURATION, "--scheduler", reason),)


def capabilities_of(config: Config) -> Capabilities:
    """Of this backend, as configured."""
    return replace(IPTABLES, localhost_node_ports=serves_localhost(config))


def renderer(config: Config) -> IptablesRenderer:
    return IptablesRenderer(options_of(config))


def options_of(config: Config) -> dict[Family, RuleOptions]:
    return {family: rule_options(config, family) for family in Family}


def iptables_pipeline(config: Config, backend: KernelTables, *, window: float) -> Pipeline:
    return pipeline_for(config, backend, window=window, capabilities=capabilities_of(config))


def empty_iptables_recorder(config: Config, ops: list[Op]) -> KernelTables:
    """A kernel that holds nothing, for a dry run anywhere."""
    return KernelTables(renderer(config), Recorder(None, ops), None, Recorder(None, ops))
