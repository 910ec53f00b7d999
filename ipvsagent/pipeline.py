"""Runs the pipeline: changes in, kernel state out.

`run`, `plan`, `cleanup` and the tests are this pipeline with different ends: a source or none; real tables, tables that
only record, or the fake kernel. It is pure, given the tables and `now`. Calls return findings by origin, for a
`FindingBook`.
"""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from ipvsagent.address import Address
from ipvsagent.cluster.objects import Changes, ServiceKey
from ipvsagent.cluster.table import ServiceTable
from ipvsagent.config import Network, parse_network
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import VirtualServer
from ipvsagent.policy.desired import DesiredState, Rank, Replaced, rank_of
from ipvsagent.policy.health_checks import HealthCheck, HealthChecks
from ipvsagent.policy.node import NodeFacts, node_facts
from ipvsagent.policy.virtual_servers import PolicyOptions, virtual_servers_for
from ipvsagent.reconcile.audit import Audit
from ipvsagent.reconcile.drain import Drains
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.reconcile.reconciler import Reconciler
from ipvsagent.reconcile.report import Report
from ipvsagent.render.set_members import health_check_members, pod_members, routed_members
from ipvsagent.rows import RouteRow

NOBODY: Rank = (0.0, "", "")
"""The rank of a deleted Service."""

Origins = list[tuple[object, tuple[Finding, ...]]]
"""What is wrong now at each origin, which replaces what the same origin reported before."""


class Pipeline:
    """Keeps what the source reported, what is desired, and what is believed about the kernel."""

    def __init__(self, node_name: str, options: PolicyOptions, tables: KernelTables, drains: Drains) -> None:
        self.table = ServiceTable()
        self.desired = DesiredState()
        self.reconciler = Reconciler(self.desired, tables, drains)
        self.audit = Audit(self.reconciler, tables)
        self.node_name = node_name
        self._drains = drains
        self._options = options
        self._interfaces: Mapping[Address, str] = {}
        self._facts_findings: tuple[Finding, ...] = ()
        self._facts = NodeFacts(name=node_name)
        self._nodes_revision = 0
        self._dirty: set[ServiceKey] = set()
        self._missing_schedulers: dict[ServiceKey, str] = {}
        self._health_checks = HealthChecks(self.desired)
        self._set_static_rows(0.0)

    def apply_changes(self, changes: Changes, now: float) -> Origins:
        """Apply a message of the source. The next `start` or `round` recomputes and writes what it makes dirty."""
        self._dirty |= self.table.apply(changes)
        self.reconciler.set_blind_spots(self.table.blind, now)
        origins: Origins = []
        if self.table.nodes_revision != self._nodes_revision:
            self._nodes_revision = self.table.nodes_revision
            self._dirty |= self._refresh_facts()
            self._set_static_rows(now)
            origins.append(("nodes", self._facts_findings))
        if self.node_name not in self.table.nodes:
            origins.append(self._node_unknown())
        elif changes.synced:
            origins.append(("node", ()))
        return origins

    def set_node_addresses(self, interfaces: Mapping[Address, str]) -> Origins:
        """Set the addresses on this node's other interfaces, with the names of these."""
        before, self._interfaces = self._interfaces, dict(interfaces)
        self._dirty |= self._refresh_facts()
        if before.keys() != self._interfaces.keys():
            self._dirty |= self._health_checks.addresses_changed()
        self._set_static_rows(0.0)
        return [("nodes", self._facts_findings)]

    def reconfigure(self, options: PolicyOptions, drain_timeout: float, now: float) -> Origins:
        """Apply a changed configuration: everything is recomputed, as at a start. A drain under way keeps its
        deadline."""
        self._drains.timeout = drain_timeout
        if options == self._options:
            return []
        self._options = options
        self._refresh_facts()
        self._dirty |= set(self.table.services)
        self._set_static_rows(now)
        return [("nodes", self._facts_findings)]

    def mark_all_suspect(self, now: float) -> None:
        """Have the next round read and compare every virtual server: the renderer makes other rows than before."""
        self.reconciler.states.mark_all_suspect(now)

    def retry_missing_schedulers(self) -> None:
        """Recompute Services that asked for a scheduler which the kernel lacked and now has, as loading a module
        changes no object. Asks the kernel once for each missing name."""
        if self._missing_schedulers:
            missing = set(self._missing_schedulers.values())
            available = {name for name in missing if self._options.scheduler_works(name)}
            self._dirty.update(key for key, name in self._missing_schedulers.items() if name in available)

    def begin(self, now: float, report: Report | None = None) -> Report:
        """Do the first `start`: program what everything else needs before the rest is even computed
        (kubernetes/kubernetes#133773). Not for a dry run, which would report it twice. Raises KernelError and
        StartError."""
        report = Report() if report is None else report
        urgent = sorted((key for key in self._dirty if self._urgency(key) is not None), key=self._urgency_first)
        if urgent:
            self._recompute(urgent, report)
            self.reconciler.program([i for key in urgent for i in self.desired.ids_of(key)], now, report)
        return self.start(now, report)

    def start(self, now: float, report: Report | None = None) -> Report:
        """Make the kernel what is desired, whatever it holds. Raises KernelError and StartError.

        `report` is filled as far as the work gets, even if this raises.
        """
        report = Report() if report is None else report
        self._recompute(self._in_order(), report)
        self.reconciler.start(now, report)
        return report

    def round(self, now: float, report: Report | None = None) -> Report:
        """Do what has become due since `start` or the last round. Raises KernelError; `report` is as in `start`."""
        report = Report() if report is None else report
        self._recompute(self._in_order(), report)
        self.reconciler.round(now, report)
        return report

    def next_due(self) -> float | None:
        """Return when `round` has something to do; None = not before the next change."""
        return 0.0 if self._dirty else self.reconciler.next_due()

    def _urgency(self, key: ServiceKey) -> int | None:
        """Return 0 for the API server, 1 for DNS, None for everything else."""
        if key == ("default", "kubernetes"):
            return 0
        service = self.table.services.get(key)
        dns = service and key.namespace == "kube-system" and any(port.port == 53 for port in service.ports)
        return 1 if dns else None

    def _urgency_first(self, key: ServiceKey) -> tuple[int | None, ServiceKey]:
        return self._urgency(key), key

    def has_interface_address(self, address: Address) -> bool:
        return address in self._interfaces

    @property
    def health_checks(self) -> dict[ServiceKey, HealthCheck]:
        """Return the health checks that this node answers. A change replaces the value."""
        return self._health_checks.answered

    @property
    def node_port_addresses(self) -> tuple[Address, ...] | None:
        """Return the addresses on which the operator chose to serve node ports; None = all."""
        return self._facts.node_port_addresses if self._options.node_ports_on else None

    def _set_static_rows(self, now: float) -> None:
        """Set the rows that are needed whatever virtual servers there are: routes of route mode, networks of pods and
        of the pods here, and addresses on which load balancers check the health of Services.

        Not every network plugin gives pods addresses of their Node's pod CIDRs. These CIDRs are believed if an
        interface of the node has such an address, and if nothing else is known.
        """
        node = self.table.nodes.get(self.node_name)
        own = [parse_network(text) for text in node.pod_cidrs] if node else []
        pods = own if self._options.pods_of_node else self._options.pod_networks
        here = [ipaddress.ip_address(address) for address in self._interfaces]
        home: list[Network] = []
        for version in (4, 6):
            of_node = [network for network in own if network.version == version]
            of_cluster = [network for network in pods if network.version == version]
            in_use = any(address in network for address in here for network in of_node)
            home += of_node if in_use or not of_cluster else of_cluster
        checks = [
            row
            for _, check in sorted(self.health_checks.items())
            for row in health_check_members(check.answers_on(self._facts.node_port_addresses), [check.port])
        ]
        routes = self._facts.routes
        ranges = routed_members(route.network for route in routes)
        delivered = [RouteRow(str(route.network), route.source) for route in routes]
        self.reconciler.set_static_rows((*pod_members(pods, home), *checks, *ranges, *delivered), now)

    def _refresh_facts(self) -> set[ServiceKey]:
        """Recompute what policy knows of the node. If that has changed, which is rare, return every Service."""
        facts, self._facts_findings = node_facts(
            self.node_name,
            self.table.nodes,
            self._interfaces,
            self._options.node_ports_on,
            self._options.primary_address,
            self._options.route_networks,
            localhost=self._options.capabilities.localhost_node_ports,
            pod_networks=self._options.pod_networks,
        )
        if facts == self._facts:
            return set()
        self._facts = facts
        return set(self.table.services)

    def _node_unknown(self) -> tuple[object, tuple[Finding, ...]]:
        if not self.table.synced:
            return ("node", ())
        known = ", ".join(sorted(self.table.nodes)[:5]) or "none"
        finding = Finding(
            FindingKind.NODE_UNKNOWN,
            f"Node {self.node_name}",
            f"no Node object has this name (known Nodes: {known}), so this node's zone and the addresses of other "
            "nodes are not known; --hostname-override sets the name",
        )
        return ("node", (finding,))

    def _recompute(self, dirty: Iterable[ServiceKey], report: Report) -> None:
        """Recompute the virtual servers of these Services, and of those that win or lose an address by it."""
        affected: set[ServiceKey] = set()
        try:
            queue = deque(dirty)
            while queue:
                key = queue.popleft()
                self._health_checks.replace(
                    key, self.table.services.get(key), self.table.slices_of(key), self.node_name
                )
                replaced = self._recompute_service(key, report)
                self._health_checks.virtual_servers_changed(key, replaced)
                affected |= replaced.affected | {key}
                queue.extend(replaced.passed - self._dirty)  # clients are translated to what a Service has won alone
                self._dirty |= replaced.passed
        finally:
            if not self._dirty:
                self._dirty = set()  # a set that once held every Service stays slow to iterate over
            moved, findings = self._health_checks.recompute(self._facts.node_port_addresses, self._is_local)
            if moved:
                self._set_static_rows(0.0)
            report.findings.extend((("health check", key), found) for key, found in findings)
            report.findings.extend((("claims", key), tuple(self.desired.shadowed(key))) for key in affected)

    def _in_order(self) -> list[ServiceKey]:
        """Return everything dirty: deleted Services, then the oldest first. Two runs write in the same order, and no
        Service wins an address that an older one is yet to claim."""

        def seniority(key: ServiceKey) -> tuple[Rank, ServiceKey]:
            service = self.table.services.get(key)
            return rank_of(service) if service else NOBODY, key

        return sorted(self._dirty, key=seniority)

    def _recompute_service(self, key: ServiceKey, report: Report) -> Replaced:
        service = self.table.services.get(key)
        self._missing_schedulers.pop(key, None)
        if service is None:
            replaced = self.desired.replace(key, NOBODY, ())
            report.findings.append((("policy", key), ()))
        else:
            outcome = virtual_servers_for(
                service, self.table.slices_of(key), self._facts, self._options, self.table.is_cluster_ip
            )
            if outcome.missing_scheduler:
                self._missing_schedulers[key] = outcome.missing_scheduler
            rank = rank_of(service)
            servers = [self._translated(key, rank, server) for server in outcome.virtual_servers]
            replaced = self.desired.replace(key, rank, servers)
            report.findings.append((("policy", key), outcome.findings))
        self._dirty.discard(key)
        self.reconciler.mark_dirty(replaced.changed)
        return replaced

    def _translated(self, key: ServiceKey, rank: Rank, server: VirtualServer) -> VirtualServer:
        """Return the virtual server, without `inside` if an older Service has won that one: it has other endpoints."""
        if server.inside is None or self.desired.would_win(key, rank, server.inside):
            return server
        return replace(server, inside=None)

    def _is_local(self, address: Address) -> bool:
        """Return whether a Service's address that is served here is local: on an interface, ours or another, or by a
        route."""
        return address in self._interfaces or (
            self._options.capabilities.binds and address not in self._facts.own_addresses
        )
