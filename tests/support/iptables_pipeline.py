"""Drives the pipeline on the rule tables of iptables, in place of the agent's loop."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable

from ipvsagent.address import Family
from ipvsagent.cluster.objects import Changes, Object
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.kernel.fake.rules import server_rules
from ipvsagent.kernel.iptables.commands import RulesRefused
from ipvsagent.pipeline import Pipeline
from ipvsagent.policy.capabilities import IPTABLES
from ipvsagent.policy.virtual_servers import PolicyOptions
from ipvsagent.reconcile.drain import Drains
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.render.iptables.ipvs_rules import RuleOptions
from ipvsagent.render.iptables.nat_chains import IptablesRenderer
from ipvsagent.render.iptables.nat_rules import nat_rule_set
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows.packet_rules import RuleSet
from tests.support.generated_cluster import NODE

OPTIONS = {family: RuleOptions(pods_known=True) for family in Family}
RULES: dict[Family, RuleSet] = {family: nat_rule_set(family, OPTIONS[family]) for family in Family}


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
            listing=lambda: self.servers.read(None),
            set_sizes=lambda: Counter(row.set for row in kernel.set_members),
            touched=self.servers.touched,
        )
        self.pipeline = Pipeline(NODE, PolicyOptions(capabilities=IPTABLES), backend, Drains())
        self.pipeline.take(Changes(upserts=tuple(objects), synced=True), now)
        self.written = self.pipeline.start(now).written

    def keep_rules(self, *, always: bool = False) -> None:
        for table in self.servers.tables:
            table._read_took = 0.0
            if (always or table.changed()) and table.verify(RULES[table.family]):
                table.apply(RULES[table.family])

    def round(self, now: float) -> int:
        with contextlib.suppress(RulesRefused):  # the loop makes a finding of it, and tries again
            self.keep_rules()
        written = self.pipeline.round(now).written
        return written + self.pipeline.audit.look(100, now).written
