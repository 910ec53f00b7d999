"""Holds what is known of virtual servers in the kernel, and the ops that change them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from ipvsagent.model import VirtualServerId
from ipvsagent.reconcile.kernel_tables import server_of
from ipvsagent.rows import Failure, Observed, Op, RealServerRow, Verb


class Read(Struct, frozen=True):
    """Means that a virtual server was read from the kernel."""

    rows: Sequence[Observed] = ()
    """What the kernel holds; empty if there is no such virtual server."""


class Believed(Struct, frozen=True):
    """Means that a virtual server was not read: the kernel holds what is believed, which is nothing for a new one."""


NOT_THERE = Read()
BELIEVED = Believed()


class Batch(Struct):
    """Collects the ops of several virtual servers on their way to the kernel."""

    ids: list[VirtualServerId] = []
    additions: list[Op] = []
    """The ops that are not deletions."""
    deletions: list[Op] = []
    failed: dict[VirtualServerId, list[Failure]] = {}

    def record_failures(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            self.failed.setdefault(server_of(failure.op.row), []).append(failure)

    def without_virtual_server(self) -> set[VirtualServerId]:
        """Return the virtual servers that the kernel refused to add."""
        return {
            server_id
            for server_id, failures in self.failed.items()
            if any(type(f.op.row) is not RealServerRow and f.op.verb is Verb.ADD for f in failures)
        }
