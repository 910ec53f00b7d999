"""A backend: how virtual servers become rows, and the kernel tables that hold those rows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol, cast

from ipvsagent.errors import KernelError
from ipvsagent.model import VirtualServer, VirtualServerId
from ipvsagent.rows import (
    AddressRow,
    Failure,
    KernelTable,
    Keys,
    Observed,
    Op,
    Owner,
    RealServerRow,
    RouteRow,
    Row,
    SetMemberRow,
    SharedRow,
    TranslationRow,
    Verb,
    VirtualServerRow,
)
from ipvsagent.rows.nat_chains import ChainsRow


class Renderer(Protocol):
    """rows: those of the virtual server alone. shared: those that other virtual servers may need as well.

    shares_alike: `shared` would give the same for both; False may also mean that only rendering can tell.
    """

    def rows(self, server: VirtualServer) -> Sequence[Row]: ...

    def shared(self, server: VirtualServer) -> Sequence[SharedRow]: ...

    def shares_alike(self, one: VirtualServer, other: VirtualServer) -> bool: ...


class KernelTables:
    """Counts every call and row, because "cost follows the change" is a law that tests hold to numbers.

    prepare: makes what the tables stand on (our interface); raises StartError.
    listing: the virtual servers without their real servers, which is far cheaper than reading all.
    set_sizes: members of each of our sets, None if there are no sets; cheap.
    touched: virtual servers that somebody else changed, where the kernel tells; each is told once.
    adopt: notes virtual servers that are ours by their addresses alone, so that they stay ours without these.
    """

    def __init__(
        self,
        renderer: Renderer,
        servers: KernelTable,
        addresses: KernelTable | None,
        sets: KernelTable | None = None,
        *,
        prepare: Callable[[], None] = lambda: None,
        listing: Callable[[], Iterable[Observed]] = tuple,
        set_sizes: Callable[[], Mapping[str, int] | None] = lambda: None,
        touched: Callable[[], Collection[VirtualServerId]] = tuple,
        adopt: Callable[[Iterable[VirtualServerId]], None] = lambda ids: None,
        routes: KernelTable | None = None,
        translations: KernelTable | None = None,
    ) -> None:
        self.renderer = renderer
        self.prepare = prepare
        self._listing = listing
        self.set_sizes = set_sizes
        self.touched = touched
        self.adopt = adopt
        self._tables: dict[type, KernelTable] = {
            VirtualServerRow: servers,
            RealServerRow: servers,
            ChainsRow: servers,
        }
        if addresses is not None:
            self._tables[AddressRow] = addresses
        if sets is not None:
            self._tables[SetMemberRow] = sets
        if routes is not None:
            self._tables[RouteRow] = routes
        if translations is not None:
            self._tables[TranslationRow] = translations
        self._servers = servers
        self.ops_written = 0
        self.rows_read = 0

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        """In order, except that real servers of a virtual server that could not be added are not tried: what
        stands under that id may be another program's, and must not get them."""
        failures: list[Failure] = []
        barred: dict[VirtualServerId, Failure] = {}
        for kind, group in groupby(ops, key=lambda op: type(op.row)):
            batch = list(group)
            if barred and kind is RealServerRow:
                for op in batch:
                    cause = barred.get(server_of(op.row))
                    if cause:
                        failures.append(Failure(op, cause.error))
                batch = [op for op in batch if server_of(op.row) not in barred]
            if not batch:
                continue
            self.ops_written += len(batch)
            try:
                refused = self._tables[kind].write(batch)
            except KernelError as error:  # of the table as a whole: nobody knows what was done, so all is read again
                refused = [Failure(op, error) for op in batch]
            for failure in refused:
                failures.append(failure)
                if kind is VirtualServerRow or kind is ChainsRow:
                    barred[server_of(failure.op.row)] = failure
        return failures

    def read(self, ids: Collection[VirtualServerId] | None) -> Iterator[tuple[VirtualServerId, list[Observed]]]:
        """Virtual servers with their real servers, one at a time: the virtual server's row comes first."""
        rows: list[Observed] = []
        for seen in self._servers.read(ids):
            self.rows_read += 1
            if type(seen.row) is not RealServerRow and rows:
                yield server_of(rows[0].row), rows
                rows = []
            rows.append(seen)
        if rows:
            yield server_of(rows[0].row), rows

    def ours(self) -> list[VirtualServerId]:
        """Ids of every virtual server of ours."""
        found = [seen for seen in self._listing() if seen.owner is Owner.OURS]
        self.rows_read += len(found)
        return [server_of(seen.row) for seen in found]

    def read_shared(self, rows: Iterable[SharedRow] | None) -> set[SharedRow]:
        """Shared rows of ours that the kernel holds, of those asked for (None = all)."""
        asked = None if rows is None else list(rows)
        found: set[SharedRow] = set()
        for kind in (AddressRow, SetMemberRow, RouteRow, TranslationRow):
            keys = None if asked is None else cast(Keys, [row.key for row in asked if type(row) is kind])
            if kind in self._tables and keys != []:
                found.update(seen.row for seen in self._tables[kind].read(keys) if type(seen.row) is kind)
        self.rows_read += len(found)
        return found


def removes(op: Op) -> bool:
    """Chains are written as a whole, so that a change of them may take endpoints away."""
    return op.verb is Verb.DELETE or (op.verb is Verb.SET and type(op.row) is ChainsRow)


def server_of(row: Any) -> VirtualServerId:
    """The virtual server of a row that belongs to one."""
    server: VirtualServerId = row.server
    return server
