"""Virtual servers as chains in the kernel, through iptables: the `KernelTable` of the iptables backend.

Goals, and how each is met:

1. What is written follows the change: one iptables-restore takes what differs of all virtual servers of a round, and
   nothing else. (The kernel's own cost is its own: legacy iptables copies the whole table at every write.)
2. A virtual server is replaced in one transaction, so that no packet meets half of it.
3. A restore is all or nothing, and one bad virtual server must not keep the others out: the one whose line is named is
   left out, and where no line is, the batch is halved until the culprit stands alone.
4. What is held is read once and then remembered; it is read again when the kernel says that somebody else wrote, or
   when a write was refused. Reading is one look at all rules of the node, so `repair` spaces it out.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from msgspec.structs import replace

from ipvsagent.address import Family
from ipvsagent.errors import KernelError
from ipvsagent.kernel.iptables.chains import HeldServers, is_servers, parse_servers
from ipvsagent.kernel.iptables.commands import RulesLocked, RulesRefused, Variant
from ipvsagent.kernel.iptables.counts import RuleCounts
from ipvsagent.kernel.iptables.rule_table import RuleTable, RuleTool
from ipvsagent.kernel.iptables.text import Held
from ipvsagent.model import VirtualServerId
from ipvsagent.printable import printable
from ipvsagent.rows import Failure, Keys, Observed, Op, Verb
from ipvsagent.rows.nat_chains import ChainsRow, added_lines, deleted_lines, replaced_lines, rule_count
from ipvsagent.rows.packet_rules import RuleSet

_READ_AGAIN_AFTER = 10.0
"""Times what the last reading took, while other programs go on writing."""

MakeSets = Callable[[Collection[str]], None]


class ServerRuleTable(RuleTable):
    """The rules of one family: the constant ones, as of any `RuleTable`, and those of virtual servers.

    make_sets: makes sets of these names that remember clients; raises KernelError, StartError.
    """

    def __init__(
        self,
        family: Family,
        variant: Variant | None = None,
        *,
        lock_seconds: float = 10.0,
        tool: RuleTool | None = None,
        make_sets: MakeSets = lambda names: None,
    ) -> None:
        super().__init__(family, variant, lock_seconds=lock_seconds, tool=tool)
        self._make_sets = make_sets
        self._servers: HeldServers | None = None
        self._server_rules = 0
        self._touched: set[VirtualServerId] = set()
        self._read_at = self._read_took = 0.0

    # Constant rules

    def apply(self, wanted: RuleSet) -> None:
        held = self._held()
        made = [f":{name} - [0:0]" for name in held.missing_buckets()]
        swept = list(held.sweep_lines())
        if made or swept:
            try:
                self._restore(_nat([*made, *swept]))
            except RulesLocked:
                raise
            except RulesRefused:  # somebody's rule leads to a chain that was to go
                self._restore(_nat([*made, *held.sweep_lines(delete=False)]))
        super().apply(wanted)

    def verify(self, wanted: RuleSet) -> list[str]:
        found = super().verify(wanted)
        held = self._held()
        found += [f"nat: chain {name} is missing" for name in held.missing_buckets()]
        found += [f"nat: chain {bucket}: a rule is not ours: {printable(rule)}" for bucket, rule in held.stray_rules]
        found += [f"nat: chain {name} is of no use any more" for name, full in held.stray_chains.items() if full]
        if found:
            self._seen = None
        return found

    def changed(self) -> bool:
        if self._seen is not None and time.monotonic() < self._read_at + self._read_took * _READ_AGAIN_AFTER:
            return False
        return super().changed()

    def _read(self) -> list[Held]:
        """All rules; virtual servers that are not what was remembered are noted in `touched`."""
        began = time.monotonic()
        text = self._tool.save()
        servers = parse_servers(text)
        if self._servers is not None:
            before = self._servers.rows
            self._touched |= {i for i in before.keys() | servers.rows.keys() if before.get(i) != servers.rows.get(i)}
        self._servers = servers
        self._server_rules = sum(map(rule_count, servers.rows.values()))
        held = self._parsed(text)
        self._read_at = time.monotonic()
        self._read_took = self._read_at - began
        return held

    def _keeps(self, chain: str) -> bool:
        return is_servers(chain) or super()._keeps(chain)

    # Virtual servers

    def touched(self) -> set[VirtualServerId]:
        """Those that somebody else changed since the last call, as far as it was read."""
        touched, self._touched = self._touched, set()
        return touched

    def counts(self) -> RuleCounts:
        constant = super().counts()
        held = {**constant.held, "nat": constant.held.get("nat", 0) + self._server_rules}
        return replace(constant, held=held)

    def rows(self) -> dict[VirtualServerId, ChainsRow]:
        return self._held().rows

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        """Ops of this family."""
        failures: list[Failure] = []
        batches = [list(ops)]
        while batches:
            batch = batches.pop()
            try:
                self._write(batch)
            except RulesLocked as error:
                failures += [Failure(op, error) for op in batch]
            except RulesRefused as error:
                if len(batch) == 1:
                    failures += self._once_more(batch[0], error)
                else:
                    batches += self._divided(batch, error)
            except KernelError as error:  # of the sets
                without = [op for op in batch if not _sets_of([op])]
                failures += [Failure(op, error) for op in batch if _sets_of([op])]
                batches += [without] if without else []
        return failures

    def _write(self, batch: Sequence[Op]) -> None:
        self._make_sets(_sets_of(batch))
        lines = [line for op in batch for line in self._lines(op)]
        if lines:
            self._restore_own(_nat(lines), 1)
        rows = self.rows()
        for op in batch:
            assert isinstance(op.row, ChainsRow)
            before = rows.get(op.row.id)
            self._server_rules -= rule_count(before) if before else 0
            if op.verb is Verb.DELETE:
                rows.pop(op.row.id, None)
            else:
                rows[op.row.id] = op.row
                self._server_rules += rule_count(op.row)

    def _lines(self, op: Op) -> Iterator[str]:
        """What is written depends on what is there, not on the verb."""
        assert isinstance(op.row, ChainsRow)
        held = self.rows().get(op.row.id)
        if op.verb is Verb.DELETE:
            return deleted_lines(held) if held else iter(())
        return replaced_lines(op.row, held) if held else added_lines(op.row)

    def _once_more(self, op: Op, error: RulesRefused) -> list[Failure]:
        """A single op was refused: perhaps because what is there is not what was remembered."""
        assert isinstance(op.row, ChainsRow)
        before = self.rows().get(op.row.id)
        try:
            self._read()
            if self.rows().get(op.row.id) == before:
                return [Failure(op, error)]
            self._touched.discard(op.row.id)
            self._write([op])
        except RulesRefused as second:
            return [Failure(op, second)]
        return []

    def _divided(self, batch: list[Op], error: RulesRefused) -> list[list[Op]]:
        """Batches to be tried in place of one that was refused; those that are likely to pass come first."""
        number = 1  # the first line names the table
        for index, op in enumerate(batch):
            number += sum(1 for _ in self._lines(op))
            if 1 < error.number <= number:
                return [[op], batch[:index] + batch[index + 1 :]]
        middle = len(batch) // 2
        return [batch[middle:], batch[:middle]]

    def _held(self) -> HeldServers:
        if self._servers is None:
            self._read()
            assert self._servers is not None
        return self._servers


class ServerRules:
    """`KernelTable` of `ChainsRow`s of all families."""

    def __init__(self, tables: Iterable[ServerRuleTable]) -> None:
        self.tables = tuple(tables)
        self._tables = {table.family: table for table in self.tables}

    def read(self, keys: Keys) -> Iterator[Observed]:
        rows = {server_id: row for table in self._tables.values() for server_id, row in table.rows().items()}
        asked = rows if keys is None else [key for key in keys if isinstance(key, VirtualServerId)]
        return iter([Observed(rows[server_id]) for server_id in asked if server_id in rows])

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        failures: list[Failure] = []
        for family in Family:
            own = [op for op in ops if isinstance(op.row, ChainsRow) and op.row.id.family is family]
            if own and family in self._tables:
                failures += self._tables[family].write(own)
            elif own:
                error = KernelError.of(errno.EAFNOSUPPORT, f"this kernel has no {family}")
                failures += [Failure(op, error) for op in own]
        return failures

    def touched(self) -> set[VirtualServerId]:
        return {server_id for table in self._tables.values() for server_id in table.touched()}


def _sets_of(batch: Iterable[Op]) -> set[str]:
    return {name for op in batch if isinstance(op.row, ChainsRow) for name in op.row.client_sets}


def _nat(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in ("*nat", *lines, "COMMIT"))
