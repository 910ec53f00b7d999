"""Injects faults into calls of kernel tables: the call of a given number fails before, after or in the middle of its
work, or the agent dies there.

The tables of the fake and of the real kernel are wrapped alike; `Calls` counts over all of them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from itertools import islice
from typing import Any

from ipvsagent.errors import KernelError
from ipvsagent.kernel.fake.kernel import Killed
from ipvsagent.kernel.netlink import OutcomeUnknown
from ipvsagent.rows import Failure, Op

# What the agent asks of its tables, beside `write`.
QUERIES = ("read", "refresh", "services", "state", "members", "node_addresses")
MAKERS = ("ensure", "ensure_interface")


class Trouble(StrEnum):
    REFUSED = "nothing is done, and the call fails"
    UNANSWERED = "all is done, and the call fails"
    BROKEN_OFF = "half is done, and the call fails"
    OPS_REFUSED = "every op of the call is refused"
    KILLED_BEFORE = "the agent dies before it"
    KILLED_AFTER = "the agent dies when it is done"
    KILLED_HALFWAY = "the agent dies in the middle of it"

    @property
    def kills(self) -> bool:
        return self.name.startswith("KILLED")


class Calls:
    """Counts calls, of which `many` fail from number `begin` on, counted from 0; None = no call fails."""

    def __init__(self, begin: int | None = None, trouble: Trouble = Trouble.REFUSED, many: int = 1) -> None:
        self.made = 0
        self.begin = begin
        self.trouble = trouble
        self.many = many
        self.struck: list[str] = []

    def next(self, name: str) -> Trouble | None:
        number, self.made = self.made, self.made + 1
        if self.begin is None or not self.begin <= number < self.begin + self.many:
            return None
        self.struck.append(name)
        return self.trouble


class Interrupted:
    """A table whose calls can be interrupted; all other attributes are those of the table."""

    def __init__(self, table: Any, calls: Calls) -> None:
        self._table = table
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._table, name)
        if name in QUERIES:
            return self._around(name, found, list_halves=name in ("read", "services", "members"))
        return self._around(name, found, list_halves=False) if name in MAKERS else found

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        trouble = self._calls.next("write")
        if trouble is Trouble.OPS_REFUSED:
            return [Failure(op, KernelError.of(errno.ENOMEM)) for op in ops]
        if trouble in (Trouble.BROKEN_OFF, Trouble.KILLED_HALFWAY):
            self._table.write(ops[: len(ops) // 2])
            raise _end(trouble)
        if trouble in (Trouble.REFUSED, Trouble.KILLED_BEFORE):
            raise _end(trouble)
        failures: list[Failure] = self._table.write(ops)
        if trouble is not None:
            raise _end(trouble)
        return failures

    def _around(self, name: str, call: Callable[..., Any], list_halves: bool) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            trouble = self._calls.next(name)
            if trouble is None:
                return call(*arguments, **options)
            if list_halves and trouble in (Trouble.BROKEN_OFF, Trouble.KILLED_HALFWAY):
                return _half(list(call(*arguments, **options)), trouble)
            if trouble in (Trouble.UNANSWERED, Trouble.KILLED_AFTER):
                done = call(*arguments, **options)
                if list_halves:
                    list(done)
            raise _end(trouble)

        return called


def _half(found: list[Any], trouble: Trouble) -> Iterator[Any]:
    yield from islice(found, len(found) // 2)
    raise _end(trouble)


def _end(trouble: Trouble) -> BaseException:
    if trouble.kills:
        return Killed()
    if trouble in (Trouble.UNANSWERED, Trouble.BROKEN_OFF):
        return OutcomeUnknown(errno.ENOBUFS)
    return KernelError.of(errno.ENOMEM)
