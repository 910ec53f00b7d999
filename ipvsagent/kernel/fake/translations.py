"""Simulates translations: the real table, on rules that outlive the agent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ipvsagent.kernel.iptables.translations import TranslationTable
from ipvsagent.rows import Failure, Keys, Observed, Op, TranslationRow

if TYPE_CHECKING:
    from ipvsagent.kernel.fake.kernel import FakeKernel


class FakeTranslationTable(TranslationTable):
    """Delays what is written until `FakeKernel.keep_rules`. It is lost if the agent dies before that."""

    def __init__(self, kernel: FakeKernel) -> None:
        super().__init__(lambda: kernel.translated, self._set_desired)
        self._kernel = kernel
        self.desired: frozenset[TranslationRow] | None = None
        """What was written; None if nothing was."""

    def _set_desired(self, rows: frozenset[TranslationRow]) -> None:
        self.desired = rows

    def read(self, keys: Keys) -> Iterator[Observed]:
        self._kernel.count_read()
        found = list(super().read(keys))
        self._kernel.rows_read += len(found)
        return iter(found)

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        self._kernel.calls += 1
        for op in ops:
            self._kernel.record(op)
            super().write([op])
        return []
