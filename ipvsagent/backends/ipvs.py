"""Implements the IPVS backend: the kernel tables of this node, and the pipeline that writes them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Self

from ipvsagent.address import Address
from ipvsagent.backends.assembly import Recorder, pipeline_for, policy_options, set_sizes, socket_path
from ipvsagent.backends.backend import Listing
from ipvsagent.backends.checks import BackendChecks, setting_check
from ipvsagent.backends.hand_over import HandOver
from ipvsagent.backends.ipvs_checks import (
    arp_checks,
    scheduler_check,
    source_ports_check,
    timeout_checks,
    virtual_servers_check,
)
from ipvsagent.backends.kernel_handles import IpvsHandles, open_ipvs_handles
from ipvsagent.config import Config
from ipvsagent.findings import Finding
from ipvsagent.kernel import host
from ipvsagent.kernel.arp import answers, lan_interfaces, silence
from ipvsagent.kernel.conntrack_sysctls import set_conntrack
from ipvsagent.kernel.iptables.translations import TranslationTable
from ipvsagent.kernel.ipvs.timeouts import established_setting, idle_timeouts
from ipvsagent.kernel.kube_proxy import sets as kube_proxy_sets
from ipvsagent.kernel.links import links
from ipvsagent.kernel.reserved_ports import RESERVED
from ipvsagent.kernel.sysctls import STRICT_ARP, ConnReuse, Setting, Sysctls, conn_reuse, needed
from ipvsagent.model import VirtualServerId
from ipvsagent.packet_filter.packet_filter import PacketFilter
from ipvsagent.packet_filter.profiles import BESIDE_IPVS
from ipvsagent.packet_filter.selection import open_packet_filter
from ipvsagent.pipeline import Pipeline
from ipvsagent.policy.annotations import LINUX_SCHEDULERS
from ipvsagent.policy.capabilities import IPVS, Capabilities
from ipvsagent.policy.virtual_servers import PolicyOptions
from ipvsagent.reconcile.kernel_tables import KernelTables, TableHooks
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows import Failure, Observed, Op, TranslationRow, VirtualServerRow
from ipvsagent.status.ipvsadm_order import grouped


class IpvsBackend:
    """Serves Services by IPVS."""

    name = "ipvs"
    rules_in_loop = False
    findings: tuple[Finding, ...] = ()

    def __init__(self, config: Config, kernel: IpvsHandles) -> None:
        self.config = config
        self.socket_path = socket_path(config)
        self.addresses = kernel.addresses
        self.routes = kernel.routes
        self.ownership = kernel.ownership
        self.ipvs = kernel.ipvs
        self.sets = kernel.sets
        self.saved = kernel.saved
        self.translations = kernel.translations or TranslationTable(self._held_translations, self._translate)
        self.unset_limits: tuple[Finding, ...] = ()
        self._filter: PacketFilter | None = None
        self._hand_over = HandOver()
        self._sysctls = Sysctls()
        self._timeouts_set = (0, 0, 0)
        self._schedulers: dict[str, tuple[bool, float]] = {}

    @classmethod
    def open(cls, config: Config, *, load_modules: bool = False) -> Self:
        """Open the kernel of this network namespace, which only reads it. Raises StartError, and IpvsAbsent if it has
        no IPVS.

        load_modules: whether ip_vs may be loaded.
        """
        return cls(config, open_ipvs_handles(config, load_modules=load_modules))

    def kernel_tables(self) -> KernelTables:
        return KernelTables(
            IpvsRenderer(),
            self.ipvs,
            self.addresses,
            self.sets,
            routes=self.routes,
            translations=self.translations,
            hooks=_IpvsHooks(self),
        )

    @property
    def capabilities(self) -> Capabilities:
        return IPVS

    def check(self) -> BackendChecks:
        checks = [
            scheduler_check(self.config.scheduler),
            virtual_servers_check(self.ipvs.services()),
            *(setting_check(setting) for setting in self.settings()),
            source_ports_check(self.config.service_node_port_range),
        ]
        timeouts = idle_timeouts(self.ipvs)
        checks += timeout_checks(timeouts)
        arp = tuple(answers(links(), self.lan_interfaces(), self.config.interface))
        checks += arp_checks(self.config, len(self.addresses.odd), arp)
        return BackendChecks(tuple(checks), timeouts, arp)

    def removals(self) -> list[Op]:
        ops: list[Op] = []
        recorders = [Recorder(table, ops) for table in (self.ipvs, self.addresses, self.sets, self.routes)]
        servers, addresses, sets, routes = recorders
        self._remove(KernelTables(IpvsRenderer(), servers, addresses, sets, routes=routes))
        return ops

    def remove(self) -> list[Failure]:
        return self._remove(KernelTables(IpvsRenderer(), self.ipvs, self.addresses, self.sets, routes=self.routes))

    def _remove(self, tables: KernelTables) -> list[Failure]:
        """Remove everything from these tables. Translations are not among them: they are removed with the packet
        rules."""
        return pipeline_for(self.config, tables, window=0).start(0.0).failures

    def packet_filter(self) -> PacketFilter:
        """Open the packet rules beside IPVS. From then on, they hold the translations of this node, too. Raises
        StartError."""
        self._filter = open_packet_filter(self.config, BESIDE_IPVS)
        return self._filter

    def _held_translations(self) -> frozenset[TranslationRow]:
        return (self._filter or self.packet_filter()).held_translations()

    def _translate(self, rows: frozenset[TranslationRow]) -> None:
        if self._filter:
            self._filter.translate(rows)

    @property
    def rules_pending(self) -> bool:
        return self._filter is not None and self._filter.pending

    def pipeline(self, tables: KernelTables, *, window: float) -> Pipeline:
        return pipeline_for(self.config, tables, window=window, scheduler_works=self.scheduler_works)

    def after_rules_installed(self) -> tuple[Finding, ...]:
        """Remove sets to which only the rules of older agents referred. Raises KernelError."""
        self.sets.sweep(set_specs())
        return ()

    def retire_others(self, now: float, rules: PacketFilter) -> tuple[Finding, ...]:
        """Remove what the iptables backend left on this node. Connection tracking keeps its connections. Raises
        KernelError, StartError."""
        return self._hand_over.advance(now, rules)

    def dry_pipeline(self, ops: list[Op]) -> Pipeline:
        return pipeline_for(self.config, self.recorder(ops), window=0, scheduler_works=self.scheduler_known)

    def recorder(self, ops: list[Op]) -> KernelTables:
        """Return tables that read the kernel and record into `ops` what is written."""
        return KernelTables(
            IpvsRenderer(),
            Recorder(self.ipvs, ops),
            Recorder(self.addresses, ops),
            Recorder(self.sets, ops),
            routes=Recorder(self.routes, ops),
            translations=Recorder(self.translations, ops),
        )

    def ledger_findings(self) -> tuple[Finding, ...]:
        return self.ownership.ledger.findings()

    def scheduler_works(self, name: str) -> bool:
        """Return whether the kernel accepts a scheduler, by trying it once. One that was refused is tried again after a
        minute, because its module may have been loaded."""
        works, asked = self._schedulers.get(name, (False, float("-inf")))
        if not works and time.monotonic() - asked > 60:
            works = host.scheduler_works(name)
            self._schedulers[name] = (works, time.monotonic())
        return works

    def scheduler_known(self, name: str) -> bool:
        """Return whether the kernel has a scheduler, without trying it: by its modules, or by what is in use. If the
        modules cannot be listed, all schedulers of Linux count."""
        listed = host.scheduler_listed(name)
        if listed is None:
            listed = name in LINUX_SCHEDULERS
        return listed or any(
            isinstance(seen.row, VirtualServerRow) and seen.row.scheduler == name for seen in self.ipvs.services()
        )

    def settings(self) -> list[Setting]:
        config = self.config
        settings = list(needed())
        if config.idle_timeout:
            settings.append(established_setting(config.idle_timeout))
        if config.strict_arp:
            settings += STRICT_ARP
        elif not config.answer_arp:
            settings += silence(self.lan_interfaces())
        return settings

    def conn_reuse(self) -> ConnReuse | None:
        return conn_reuse()

    def lan_interfaces(self) -> list[str]:
        """Return the interfaces on which other machines may ask for a Service address by ARP."""
        addresses = self.addresses.elsewhere  # up to date: the main loop reads them again when one changes
        if addresses is None:
            addresses = self.addresses.node_addresses()
        return lan_interfaces(links(), addresses, self.config.cluster_cidrs, self.config.interface)

    def keep_settings(self, now: float) -> tuple[list[Finding], list[str]]:
        settings = self.settings()
        self.saved.raised.record(settings)
        findings, changed = self._sysctls.keep(settings, now)
        node_ports = self.config.service_node_port_range
        if not self.unset_limits and not self.saved.reserved.holds(node_ports):
            self.set_limits()
            if self.saved.reserved.holds(node_ports):
                changed.append(RESERVED)
        return findings, changed

    def node_addresses(self) -> dict[Address, str]:
        return self.addresses.node_addresses()

    def listing(self, *, counters: bool) -> Listing:
        info = self.ipvs.info()
        return Listing(info.version, info.table_size, tuple(grouped(self.ipvs.read(None, counters=counters))))

    def findings_on_others(self) -> tuple[Finding, ...]:
        """Return nothing: rules of the iptables backend are among the differences of the packet rules."""
        return ()

    def repair_addresses(self) -> int:
        self.addresses.refresh()
        return self.addresses.mend()

    def prepare(self) -> None:
        self.prepare_host()
        self._set_timeouts()
        _IpvsHooks(self).prepare()
        self.repair_addresses()
        self.adopt_ours()

    def adopt_ours(self) -> None:
        """Claim the virtual servers that are ours by their addresses or by kube-proxy's sets, before an address is
        removed. Raises KernelError."""
        kube_proxy_sets.claim_kube_proxy_servers(self.ownership, self.sets, self.addresses)
        self.ownership.reconcile_ledger(self.ipvs.services())

    def prepare_host(self) -> None:
        host.require_scheduler(self.config.scheduler)
        settings = self.settings()
        self.saved.raised.record(settings)
        self._sysctls.set(settings)
        self.set_limits()

    def policy(self, config: Config) -> PolicyOptions:
        return policy_options(config, self.scheduler_works)

    def reconfigure(self, config: Config) -> bool:
        self.config = config
        self.ownership.set_excluded(map(str, config.excluded))
        self.set_limits()
        if _timeouts(config) != self._timeouts_set:
            self._set_timeouts()
        return False

    def _set_timeouts(self) -> None:
        timeouts = _timeouts(self.config)
        if any(timeouts):
            self.ipvs.set_timeouts(*timeouts)
        self._timeouts_set = timeouts

    def set_limits(self) -> None:
        limits = (*set_conntrack(self.config), *host.set_oom_score(self.config.oom_score_adj))
        # route_localnet is restored while the rule that guards 127.0.0.0/8 exists: the iptables backend's rules stay
        # until IPVS serves.
        findings = self.saved.localhost.try_restore() + self.saved.reserved.reserve(self.config.service_node_port_range)
        if self.config.answer_arp or self.config.strict_arp:
            findings += self.saved.raised.try_restore()
        self.unset_limits = limits + findings


class _IpvsHooks(TableHooks):
    def __init__(self, backend: IpvsBackend) -> None:
        self._backend = backend

    def prepare(self) -> None:
        self._backend.addresses.ensure_interface()
        self._backend.sets.ensure(set_specs())

    def virtual_servers(self) -> Iterable[Observed]:
        return self._backend.ipvs.services()

    def set_sizes(self) -> Mapping[str, int]:
        return set_sizes(self._backend.sets)

    def adopt(self, servers: Iterable[VirtualServerId]) -> None:
        self._backend.ownership.adopt(servers)


def _timeouts(config: Config) -> tuple[int, int, int]:
    """Return the timeouts of IPVS in seconds: idle TCP, TCP after a FIN, UDP. 0 leaves the kernel's value unchanged."""
    return int(config.idle_timeout or config.tcp_timeout), int(config.tcp_fin_timeout), int(config.udp_timeout)
