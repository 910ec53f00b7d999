"""Drives the pipeline on the rule tables of iptables, in place of the agent's loop."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable

from ipvsagent.address import Family
from ipvsagent.cluster.objects import Changes, Object
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.kernel.fake.rules import server_rules
from ipvsagent.kernel.iptables.commands import RulesRefused
from ipvsagent.kernel.iptables.server_chains import ServerRules
from ipvsagent.model import VirtualServerId
from ipvsagent.pipeline import Pipeline
from ipvsagent.policy.capabilities import IPTABLES
from ipvsagent.policy.virtual_servers import PolicyOptions
from ipvsagent.reconcile.drain import Drains
from ipvsagent.reconcile.kernel_tables import KernelTables, TableHooks
from ipvsagent.render.iptables.ipvs_rules import RuleOptions
from ipvsagent.render.iptables.nat_chains import IptablesRenderer
from ipvsagent.render.iptables.nat_rules import nat_rule_set
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows import Observed
from ipvsagent.rows.packet_rules import RuleSet
from tests.support.generated_cluster import NODE

OPTIONS = {family: RuleOptions(pods_known=True) for family in Family}
RULES: dict[Family, RuleSet] = {family: nat_rule_set(family, OPTIONS[family]) for family in Family}


class Hooks(TableHooks):
    def __init__(self, servers: ServerRules, kernel: FakeKernel) -> None:
        self._servers = servers
        self._kernel = kernel

    def virtual_servers(self) -> Iterable[Observed]:
        return self._servers.read(None)

    def set_sizes(self) -> Counter[str]:
        return Counter(row.set for row in self._kernel.set_members)

    def take_externally_modified(self) -> Collection[VirtualServerId]:
        return self._servers.take_externally_modified()


class Agent:
    """A pipeline, and the part of the agent's loop that the laws depend on."""

    def __init__(self, kernel: FakeKernel, objects: Iterable[Object], now: float) -> None:
        kernel.restart()
        self.servers = server_rules(kernel)
        kernel.sets.ensure(set_specs())
        self.keep_rules(always=True)
        backend = KernelTables(
            IptablesRenderer(OPTIONS),
            self.servers,
            None,
            kernel.sets,
            hooks=Hooks(self.servers, kernel),
        )
        self.pipeline = Pipeline(NODE, PolicyOptions(capabilities=IPTABLES), backend, Drains())
        self.pipeline.apply_changes(Changes(upserts=tuple(objects), synced=True), now)
        self.written = self.pipeline.start(now).written

    def keep_rules(self, *, always: bool = False) -> None:
        for table in self.servers.tables:
            table.kernel._read_took = 0.0
            if (always or table.changed()) and table.verify(RULES[table.family]):
                table.apply(RULES[table.family])

    def round(self, now: float) -> int:
        with contextlib.suppress(RulesRefused):  # the loop makes a finding of it, and tries again
            self.keep_rules()
        written = self.pipeline.round(now).written
        return written + self.pipeline.audit.look(100, now).written
