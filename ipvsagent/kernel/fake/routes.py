"""Simulates routes to ranges of Service addresses."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ipvsagent.config import Network
from ipvsagent.errors import KernelError
from ipvsagent.rows import Failure, Keys, Observed, Op, Owner, RouteRow, Verb

if TYPE_CHECKING:
    from ipvsagent.kernel.fake.kernel import FakeKernel


class FakeRouteTable:
    """Simulates `RouteTable`. A range has one route; a new source replaces the previous one, as in the kernel."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.networks: set[Network] = set()
        self._kernel = kernel

    def refresh(self) -> set[Network]:
        self._kernel.count_read()
        self._update_networks()
        return self.networks

    def read(self, keys: Keys) -> Iterator[Observed]:
        self.refresh()
        found = [row for _, row in sorted(self._kernel.routes.items()) if keys is None or row in set(keys)]
        self._kernel.rows_read += len(found)
        return iter([Observed(row, Owner.OURS) for row in found])

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        failures = self._kernel.execute_all(ops, self._apply)
        self._update_networks()
        return failures

    def _apply(self, op: Op) -> KernelError | None:
        row = op.row
        if not isinstance(row, RouteRow):
            return KernelError.of(errno.EINVAL)
        if op.verb is not Verb.DELETE:
            if row.source and row.source not in self._kernel.node:
                return KernelError.of(errno.EINVAL)
            self._kernel.routes[row.network] = row
        elif self._kernel.routes.get(row.network) == row:
            del self._kernel.routes[row.network]
        return None

    def _update_networks(self) -> None:
        self.networks.clear()
        self.networks.update(ipaddress.ip_network(network) for network in self._kernel.routes)
