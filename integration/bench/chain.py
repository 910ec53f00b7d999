"""The agent's chain in this process: what its loop does to a message, without its threads and waits.

The steps are those of `Loop.turn` and `Loop._take`; what differs is said in `changed`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from integration.bench.cluster import SERVICE_CIDR, THIS_NODE
from integration.bench.stand import INTERFACE
from ipvsagent.address import Address
from ipvsagent.agent.log import record_and_log
from ipvsagent.backends.assembly import pipeline_for
from ipvsagent.backends.ipvs import IpvsBackend
from ipvsagent.cluster.objects import Changes
from ipvsagent.config import Config
from ipvsagent.findings import FindingBook
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.reconcile.report import Report
from ipvsagent.rows import Failure, Op
from ipvsagent.status.snapshot import in_sync


class Chain:
    """A pipeline and what the loop does around it. addresses: of this node's other interfaces."""

    def __init__(self, config: Config, backend: KernelTables, addresses: Callable[[], Iterable[Address]]) -> None:
        self.pipeline = pipeline_for(config, backend, window=0)
        self.backend = backend
        self._addresses = addresses
        self._book = FindingBook()
        self._now = 0.0

    def take(self, changes: Changes) -> None:
        self._now += 1.0
        record_and_log(self._book, self.pipeline.apply_changes(changes, self._now))

    def begin(self) -> None:
        """This node's addresses: before the first message."""
        record_and_log(self._book, self.pipeline.set_node_addresses(dict.fromkeys(self._addresses(), "eth0")))

    def start(self) -> Report:
        report = self.pipeline.begin(self._now)
        record_and_log(self._book, report.findings)
        return report

    def changed(self, changes: Changes) -> Report:
        """From event to acknowledgement. The window for endpoints that move between slices is 0 here, or a deletion
        would be a matter of waiting."""
        self.take(changes)
        report = self.pipeline.round(self._now)
        record_and_log(self._book, [("tables", ())])
        record_and_log(self._book, report.findings)
        in_sync(self.pipeline)
        return report


class NodeChain(Chain):
    """Opens and prepares the node. `ipvs`, `addresses` and `sets` know how long writing took. routed: in route mode."""

    def __init__(self, state: Path, *, routed: bool = False) -> None:
        config = Config(
            node_name=THIS_NODE,
            interface=INTERFACE,
            state_dir=state,
            route_mode=routed,
            service_cidrs=(ip_network(SERVICE_CIDR),) if routed else (),
        )
        self.node = IpvsBackend.open(config)
        self.node.prepare()
        self.ipvs, self.addresses = Clocked(self.node.ipvs), Clocked(self.node.addresses)
        self.sets = Clocked(self.node.sets)
        super().__init__(config, self.node.kernel_tables(), self.node.addresses.node_addresses)

    def held(self) -> int:
        """Rows in the kernel: virtual and real servers, addresses, members of sets."""
        return sum(1 for table in (self.node.ipvs, self.node.addresses, self.node.sets) for _ in table.read(None))


class Clocked:
    """Counts the seconds that a table's `write` takes."""

    def __init__(self, table: Any) -> None:
        self.seconds = 0.0
        self._write = table.write
        table.write = self

    def __call__(self, ops: Sequence[Op]) -> list[Failure]:
        began = time.perf_counter()
        failures: list[Failure] = self._write(ops)
        self.seconds += time.perf_counter() - began
        return failures
