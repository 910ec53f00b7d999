"""Simulates ipsets."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from ipvsagent.errors import KernelError
from ipvsagent.kernel.ipset.members import key_of, pack_member
from ipvsagent.kernel.ipset.messages import BUSY, HASH_FULL, SetHeader, refusal
from ipvsagent.kernel.ipset.table import cannot_replace, is_ours
from ipvsagent.rows import Failure, Keys, Observed, Op, Owner, SetMemberRow, SetSpec, Verb

if TYPE_CHECKING:
    from ipvsagent.kernel.fake.kernel import FakeKernel


class FakeSetTable:
    """Simulates `SetTable`."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel
        self._sizes: Counter[str] = Counter()

    def close(self) -> None:
        pass

    def read(self, keys: Keys) -> Iterator[Observed]:
        kernel = self._kernel
        kernel.count_read()
        if keys is None:
            wanted = sorted(row for row in kernel.set_members if is_ours(row.set))
        else:
            wanted = [row for row in keys if isinstance(row, SetMemberRow) and row in kernel.set_members]
        kernel.rows_read += len(wanted)
        return iter([Observed(row, Owner.OURS) for row in wanted])

    def members(self, names: Iterable[str]) -> list[SetMemberRow]:
        kernel = self._kernel
        kernel.count_read()
        asked = [name for name in names if name in kernel.set_specs]
        return sorted(row for row in kernel.set_members if row.set in asked)

    def others(self, kinds: Mapping[str, str]) -> list[SetMemberRow]:
        specs = self._kernel.set_specs
        names = [name for name, kind in kinds.items() if name in specs and specs[name].kind == kind]
        return sorted(row for row in self._kernel.set_members if row.set in names)

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        self._sizes = Counter(row.set for row in self._kernel.set_members)
        return self._kernel.execute_all(ops, self._apply)

    def ensure(self, specs: Iterable[SetSpec]) -> None:
        kernel = self._kernel
        for spec in specs:
            held = kernel.set_specs.get(spec.name)
            if held is not None and held != spec:
                self._replace(held, spec)
            kernel.set_specs[spec.name] = spec

    def state(self) -> dict[str, SetHeader]:
        self._kernel.count_read()
        sizes = Counter(row.set for row in self._kernel.set_members)
        return {
            spec.name: SetHeader(
                *(spec.name, spec.kind, spec.family, spec.max_elements, spec.skbinfo, False),
                sizes[spec.name],
                self._kernel.set_references(spec.name),
            )
            for spec in self._kernel.set_specs.values()
            if is_ours(spec.name)
        }

    def remove(self, names: Iterable[str] | None = None) -> None:
        kernel = self._kernel
        gone = [name for name in kernel.set_specs if is_ours(name)] if names is None else list(names)
        busy = [name for name in gone if kernel.set_references(name)]
        for name in set(gone) - set(busy):
            kernel.set_specs.pop(name, None)
            kernel.set_members = {row for row in kernel.set_members if row.set != name}
        if busy:
            raise refusal(KernelError.of(BUSY), busy[0])

    def sweep(self, specs: Iterable[SetSpec]) -> None:
        kernel = self._kernel
        known = {spec.name for spec in specs}
        for name in [n for n in kernel.set_specs if is_ours(n) and n not in known]:
            del kernel.set_specs[name]
            kernel.set_members = {row for row in kernel.set_members if row.set != name}

    def _replace(self, held: SetSpec, spec: SetSpec) -> None:
        kernel = self._kernel
        members = {row for row in kernel.set_members if row.set == spec.name}
        if (held.kind, held.family) != (spec.kind, spec.family):
            if kernel.set_references(spec.name):
                raise cannot_replace(spec.name, "rules use it, and sets of different kinds cannot be swapped")
            kernel.set_members -= members
        elif len(members) > spec.max_elements:
            raise cannot_replace(spec.name, f"its {len(members)} members do not fit")
        elif not spec.skbinfo:
            kernel.set_members -= members
            kernel.set_members |= {SetMemberRow(row.set, key_of(row.member)) for row in members}

    def _apply(self, op: Op) -> KernelError | None:
        kernel, row = self._kernel, op.row
        if not isinstance(row, SetMemberRow):
            return KernelError.of(errno.EINVAL)
        spec = kernel.set_specs.get(row.set)
        if spec is None:
            return None if op.verb is Verb.DELETE else refusal(KernelError.of(errno.ENOENT), row.set)
        try:
            pack_member(spec.kind, spec.family, row.member)
        except ValueError as error:
            return KernelError.of(errno.EINVAL, f"not sent: {error}")
        if op.verb is Verb.DELETE:
            if row in kernel.set_members:
                self._sizes[row.set] -= 1
                kernel.set_members.remove(row)
            return None
        if row in kernel.set_members:
            return None
        key = key_of(row.member)
        if " " in row.member or spec.skbinfo:
            replaced = {old for old in kernel.set_members if old.set == row.set and key_of(old.member) == key}
        else:
            replaced = set()
        if self._sizes[row.set] - len(replaced) >= spec.max_elements:
            return refusal(KernelError.of(HASH_FULL), row.set, spec.max_elements)
        self._sizes[row.set] += 1 - len(replaced)
        kernel.set_members -= replaced
        kernel.set_members.add(row)
        return None
