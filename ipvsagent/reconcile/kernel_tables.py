"""Combines the kernel tables of a backend with the renderer that turns virtual servers into their rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
    """Turns virtual servers into kernel rows."""

    def rows(self, server: VirtualServer) -> Sequence[Row]:
        """Return the rows of this virtual server alone."""

    def shared(self, server: VirtualServer) -> Sequence[SharedRow]:
        """Return the rows that other virtual servers may need as well."""

    def shares_alike(self, one: VirtualServer, other: VirtualServer) -> bool:
        """Return whether `shared` is known to be the same for both. False may mean that it is the same nevertheless."""


class TableHooks:
    """Defines what a backend adds to its tables. These methods do nothing: they fit tables that need no more."""

    def prepare(self) -> None:
        """Create what the tables need, such as our interface, if it is missing. Raises StartError."""

    def virtual_servers(self) -> Iterable[Observed]:
        """Return the virtual servers without their real servers, which costs far less than reading all."""
        return ()

    def set_sizes(self) -> Mapping[str, int] | None:
        """Return how many members each of our sets has, None if there are no sets. This is cheap."""
        return None

    def take_externally_modified(self) -> Collection[VirtualServerId]:
        """Return the virtual servers that another program changed, as far as the kernel reports that; each only
        once."""
        return ()

    def adopt(self, servers: Iterable[VirtualServerId]) -> None:
        """Record virtual servers that are ours only by their addresses, so that they stay ours without these."""


class KernelTables:
    """Holds the tables of a backend, and writes each row to the table of its kind.

    It counts every row, because tests hold the cost of a change to numbers.
    """

    def __init__(
        self,
        renderer: Renderer,
        servers: KernelTable,
        addresses: KernelTable | None = None,
        sets: KernelTable | None = None,
        *,
        routes: KernelTable | None = None,
        translations: KernelTable | None = None,
        hooks: TableHooks | None = None,
    ) -> None:
        self.renderer = renderer
        self._hooks = hooks = hooks or TableHooks()
        self.prepare = hooks.prepare
        self.set_sizes = hooks.set_sizes
        self.take_externally_modified = hooks.take_externally_modified
        self.adopt = hooks.adopt
        self.ops_written = 0
        self.rows_read = 0
        self._servers = servers
        tables = {
            VirtualServerRow: servers,
            RealServerRow: servers,
            ChainsRow: servers,
            AddressRow: addresses,
            SetMemberRow: sets,
            RouteRow: routes,
            TranslationRow: translations,
        }
        self._tables: dict[type, KernelTable] = {kind: table for kind, table in tables.items() if table is not None}

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        """Write the ops in order and return those that failed. Real servers of a virtual server that failed are not
        written: the virtual server with that id may be another program's, and must not get them."""
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
            except KernelError as error:  # the whole table failed: the outcome is unknown, so everything is read again
                refused = [Failure(op, error) for op in batch]
            for failure in refused:
                failures.append(failure)
                if kind is VirtualServerRow or kind is ChainsRow:
                    barred[server_of(failure.op.row)] = failure
        return failures

    def read(self, ids: Collection[VirtualServerId] | None) -> Iterator[tuple[VirtualServerId, list[Observed]]]:
        """Yield virtual servers one at a time, each with its rows; the row of the virtual server itself is first."""
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
        """Return the ids of all virtual servers that are ours."""
        found = [seen for seen in self._hooks.virtual_servers() if seen.owner is Owner.OURS]
        self.rows_read += len(found)
        return [server_of(seen.row) for seen in found]

    def read_shared(self, rows: Iterable[SharedRow] | None) -> set[SharedRow]:
        """Return which of these shared rows (None = of all) the kernel holds as ours."""
        asked = None if rows is None else list(rows)
        found: set[SharedRow] = set()
        for kind in (AddressRow, SetMemberRow, RouteRow, TranslationRow):
            keys = None if asked is None else cast(Keys, [row.key for row in asked if type(row) is kind])
            if kind in self._tables and keys != []:
                found.update(seen.row for seen in self._tables[kind].read(keys) if type(seen.row) is kind)
        self.rows_read += len(found)
        return found


def removes(op: Op) -> bool:
    """Return whether an op may remove an endpoint. Chains are written as a whole, so changing them may remove one."""
    return op.verb is Verb.DELETE or (op.verb is Verb.SET and type(op.row) is ChainsRow)


def server_of(row: Any) -> VirtualServerId:
    """Return the virtual server that a row belongs to."""
    server: VirtualServerId = row.server
    return server
