"""The fake kernel's translations: the real table, over rules that outlive the agent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ipvsagent.kernel.iptables.translations import TranslationTable
from ipvsagent.rows import Failure, Keys, Observed, Op, TranslationRow

if TYPE_CHECKING:
    from ipvsagent.kernel.fake.kernel import FakeKernel


class FakeTranslationTable(TranslationTable):
    """What is written is wanted; it takes effect by `FakeKernel.keep_rules`, and is lost with an agent that dies
    before."""

    def __init__(self, kernel: FakeKernel) -> None:
        super().__init__(lambda: kernel.translated, self._want)
        self._kernel = kernel
        self.wanted: frozenset[TranslationRow] | None = None

    def _want(self, rows: frozenset[TranslationRow]) -> None:
        self.wanted = rows

    def read(self, keys: Keys) -> Iterator[Observed]:
        self._kernel.count_read()
        found = list(super().read(keys))
        self._kernel.rows_read += len(found)
        return iter(found)

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        self._kernel.calls += 1
        for op in ops:
            self._kernel.note(op)
            super().write([op])
        return []
