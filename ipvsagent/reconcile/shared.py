"""Rows that several virtual servers need: one count per row; 0 to 1 and 1 to 0 are the kernel operations.

Counts come from what is wanted, never from the kernel, so a lost or stray row is only ever a difference to repair.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ipvsagent.model import VirtualServer, VirtualServerId
from ipvsagent.reconcile.backend import Renderer
from ipvsagent.reconcile.retry import RetryQueue
from ipvsagent.rows import AddressRow, Op, Verb


class SharedRows:
    """`retry` holds the rows whose kernel state is not certain."""

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._counts: dict[AddressRow, int] = {}
        self._counted: dict[VirtualServerId, VirtualServer] = {}
        self.retry: RetryQueue[AddressRow] = RetryQueue()

    def wants(self, row: AddressRow) -> bool:
        return row in self._counts

    def __iter__(self) -> Iterator[AddressRow]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def move(self, server_id: VirtualServerId, server: VirtualServer | None) -> list[Op]:
        """Count for `server` what was counted for the id before; returns the rows that begin or cease to be needed."""
        old = self._counted.get(server_id)
        if old is server:
            return []
        gained = self._renderer.shared(server) if server else ()
        lost = self._renderer.shared(old) if old else ()
        if server:
            self._counted[server_id] = server
        else:
            self._counted.pop(server_id, None)
        if gained == lost:
            return []
        ops = []
        for row in gained:
            self._counts[row] = self._counts.get(row, 0) + 1
            if self._counts[row] == 1:
                ops.append(Op(Verb.ADD, row))
        for row in lost:
            self._counts[row] -= 1
            if not self._counts[row]:
                del self._counts[row]
                ops.append(Op(Verb.DELETE, row))
        return ops

    def repair(self, present: set[AddressRow], asked: Iterable[AddressRow] | None = None) -> list[Op]:
        """Ops that make the kernel agree, given which of the `asked` rows (None = all) are present."""
        if asked is None:
            asked = self._counts.keys() | present
        ops = []
        for row in asked:
            if self.wants(row) and row not in present:
                ops.append(Op(Verb.ADD, row))
            elif not self.wants(row) and row in present:
                ops.append(Op(Verb.DELETE, row))
        return ops
