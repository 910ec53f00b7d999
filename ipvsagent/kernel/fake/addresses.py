"""Simulates our interface and its addresses."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ipvsagent.address import Address
from ipvsagent.errors import KernelError
from ipvsagent.kernel.addresses import is_ipv6_link_local, is_loopback
from ipvsagent.rows import AddressRow, Failure, Keys, Observed, Op, Owner, Verb

if TYPE_CHECKING:
    from ipvsagent.kernel.fake.kernel import FakeKernel


class FakeAddressTable:
    """Simulates `AddressTable`."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.interface = "kube-ipvs0"
        self.bound: set[Address] = set()
        """What this agent has read or written, which another program may have changed since."""
        self._kernel = kernel

    def refresh(self) -> set[Address]:
        self._kernel.count_read()
        present = self._kernel.bound if self._kernel.interface else set()
        self.bound.clear()
        self.bound.update(a for a in present if not is_loopback(a) and not is_ipv6_link_local(a))
        return self.bound

    def read(self, keys: Keys) -> Iterator[Observed]:
        self.refresh()
        wanted = sorted(self.bound) if keys is None else [a for a in keys if isinstance(a, str) and a in self.bound]
        self._kernel.rows_read += len(wanted)
        return iter([Observed(AddressRow(address), Owner.OURS) for address in wanted])

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        return self._kernel.execute_all(ops, self._apply)

    def ensure_interface(self) -> None:
        if not self._kernel.interface:
            self._kernel.bound.clear()
            self._kernel.interface = True

    def has_interface(self) -> bool:
        return self._kernel.interface

    def remove_interface(self) -> None:
        self._kernel.interface = False
        self._kernel.bound.clear()
        self.bound.clear()

    def node_addresses(self) -> dict[Address, str]:
        return dict(self._kernel.node)

    def _apply(self, op: Op) -> KernelError | None:
        row = op.row
        if not isinstance(row, AddressRow):
            return KernelError.of(errno.EINVAL)
        if not self._kernel.interface:
            self.bound.clear()
            return None if op.verb is Verb.DELETE else KernelError.of(errno.ENODEV)
        if op.verb is Verb.DELETE:
            self._kernel.bound.discard(row.address)
            self.bound.discard(row.address)
            return None
        if row.address in ("::", "::1") or row.address.startswith("ff"):
            return KernelError.of(errno.EADDRNOTAVAIL)
        self._kernel.bound.add(row.address)
        self.bound.add(row.address)
        return None
