"""The fake kernel's ipsets."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from ipvsagent.errors import KernelError
from ipvsagent.rows import Failure, Keys, Observed, Op, Owner, SetMemberRow, SetSpec, Verb

if TYPE_CHECKING:
    from ipvsagent.kernel.fake import FakeKernel

PREFIX = "IPVSAGENT"
HASH_FULL = 4352  # IPSET_ERR_HASH_FULL


class FakeSetTable:
    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel
        self._sizes: Counter[str] = Counter()

    def read(self, keys: Keys) -> Iterator[Observed]:
        kernel = self._kernel
        kernel.count_read()
        if keys is None:
            wanted = sorted(row for row in kernel.set_members if row.set.startswith(PREFIX))
        else:
            wanted = [row for row in keys if isinstance(row, SetMemberRow) and row in kernel.set_members]
        kernel.rows_read += len(wanted)
        return iter([Observed(row, Owner.OURS) for row in wanted])

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        self._kernel.calls += 1
        self._sizes = Counter(row.set for row in self._kernel.set_members)
        failures = []
        for op in ops:
            error = self._kernel.execute(op, self._apply)
            if error is not None:
                failures.append(Failure(op, error))
        return failures

    def ensure(self, specs: Iterable[SetSpec]) -> None:
        """Members of a set that gets another definition stay."""
        for spec in specs:
            self._kernel.set_specs[spec.name] = spec

    def remove(self, names: Iterable[str] | None = None) -> None:
        """Destroys sets of ours with their members; None = all."""
        kernel = self._kernel
        gone = {name for name in kernel.set_specs if name.startswith(PREFIX)} if names is None else set(names)
        kernel.set_specs = {name: spec for name, spec in kernel.set_specs.items() if name not in gone}
        kernel.set_members = {row for row in kernel.set_members if row.set not in gone}

    def _apply(self, op: Op) -> KernelError | None:
        kernel, row = self._kernel, op.row
        if not isinstance(row, SetMemberRow):
            return KernelError.of(errno.EINVAL)
        if op.verb is Verb.DELETE:
            if row in kernel.set_members:
                self._sizes[row.set] -= 1
                kernel.set_members.remove(row)
            return None
        spec = kernel.set_specs.get(row.set)
        if spec is None:
            return KernelError.of(errno.ENOENT, f"there is no set {row.set}")
        if row not in kernel.set_members:
            if self._sizes[row.set] >= spec.max_elements:
                return KernelError.of(HASH_FULL, f"set {row.set} is full: {spec.max_elements} elements")
            self._sizes[row.set] += 1
            kernel.set_members.add(row)
        return None
