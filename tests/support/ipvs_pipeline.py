"""Drives the pipeline on IPVS tables, in place of the agent's loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ipvsagent.address import Address
from ipvsagent.cluster.objects import EVERYTHING_KNOWN, BlindSpots, Changes, Object
from ipvsagent.kernel.fake.kernel import FakeKernel
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.pipeline import Pipeline
from ipvsagent.policy.capabilities import IPVS
from ipvsagent.policy.virtual_servers import PolicyOptions
from ipvsagent.reconcile.drain import Drains
from ipvsagent.reconcile.kernel_tables import KernelTables, TableHooks
from ipvsagent.render.ipvs import IpvsRenderer
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows import Observed, RealServerRow, Row, VirtualServerRow
from tests.support.generated_cluster import NODE

TIMEOUT, WINDOW = 60.0, 0.1
FOREIGN = VirtualServerId(Protocol.TCP, Address("203.0.113.5"), 80)
FOREIGN_MARK = VirtualServerId(Protocol.FWM, Address("0.0.0.0"), 0x1DD00000)
FOREIGN_ROWS = (
    VirtualServerRow(FOREIGN, "wlc", 0, 0),
    RealServerRow(FOREIGN, Address("203.0.113.9"), 80),
    VirtualServerRow(FOREIGN_MARK, "wlc", 0, 0),
    RealServerRow(FOREIGN_MARK, Address("203.0.113.9"), 80),
)


def pipeline_on(kernel: Any) -> Pipeline:
    class Hooks(TableHooks):
        def prepare(self) -> None:
            kernel.addresses.ensure_interface()
            kernel.sets.ensure(set_specs())

        def virtual_servers(self) -> Iterable[Observed]:
            return kernel.ipvs.services()

        def set_sizes(self) -> Counter[str]:
            return Counter(row.set for row in kernel.set_members)

        def adopt(self, servers: Iterable[VirtualServerId]) -> None:
            kernel.ownership.adopt(servers)

    backend = KernelTables(
        IpvsRenderer(),
        kernel.ipvs,
        kernel.addresses,
        kernel.sets,
        translations=kernel.translations,
        hooks=Hooks(),
    )
    return Pipeline(NODE, PolicyOptions(scheduler="rr", capabilities=IPVS), backend, Drains(TIMEOUT, WINDOW))


class Agent:
    """A pipeline, and the part of the agent that the laws depend on: time, start, rounds, and the packet rules."""

    rules_wait = False
    """Whether packet rules are not written, as while another program holds the lock of iptables."""

    def __init__(self, kernel: Any, objects: Iterable[Object], now: float, blind: BlindSpots) -> None:
        self.kernel = kernel
        kernel.restart()
        kernel.addresses.refresh()
        self.pipeline = pipeline_on(kernel)
        self.pipeline.set_node_addresses(kernel.addresses.node_addresses())
        self.pipeline.apply_changes(Changes(upserts=tuple(objects), synced=True, blind=blind), now)
        self.written = self.pipeline.start(now).written
        kernel.keep_rules()

    def round(self, now: float) -> int:
        written = self.pipeline.round(now).written
        if not self.rules_wait:
            self.kernel.keep_rules()
        return written


def fresh_snapshot(objects: Iterable[Object]) -> frozenset[Row]:
    kernel = FakeKernel()
    kernel.put(*FOREIGN_ROWS)
    agent = Agent(kernel, objects, 0.0, EVERYTHING_KNOWN)
    made = kernel.snapshot() - set(FOREIGN_ROWS)
    assert agent.written == len(made), "a first programming writes each row once"
    return made
