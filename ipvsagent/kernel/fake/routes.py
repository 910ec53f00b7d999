"""The fake kernel's routes to ranges of Service addresses."""

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
    """Mimics `RouteTable`: there is one route a range, and a new source replaces the old one, as in the kernel."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.networks: set[Network] = set()
        self._kernel = kernel

    def read(self, keys: Keys) -> Iterator[Observed]:
        self._kernel.count_read()
        self._note()
        found = [row for _, row in sorted(self._kernel.routes.items()) if keys is None or row in set(keys)]
        self._kernel.rows_read += len(found)
        return iter([Observed(row, Owner.OURS) for row in found])

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        failures = self._kernel.execute_all(ops, self._apply)
        self._note()
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

    def _note(self) -> None:
        self.networks.clear()
        self.networks.update(ipaddress.ip_network(network) for network in self._kernel.routes)
