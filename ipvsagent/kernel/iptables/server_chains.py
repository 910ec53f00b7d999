"""Writes the chains of virtual servers through iptables: implements the `KernelTable` of the iptables backend.

Goals, and how each is met:

1. A write is as large as the change: one iptables-restore contains what differs of all virtual servers of a round, and
   nothing else. (The kernel's own cost remains: legacy iptables copies the whole table at every write.)
2. A virtual server is replaced in one transaction, so that no packet passes half of it.
3. A restore is all or nothing, and one bad virtual server must not keep the others out: the one whose line iptables
   names is left out; where it names none, the batch is halved until the bad one is alone.
4. The chains are read once and then remembered; they are read again when the kernel reports that others wrote, or
   when a write was refused. A reading covers all rules of the node, so `RuleTable.changed` spaces readings out.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from ipvsagent.address import Family
from ipvsagent.errors import KernelError
from ipvsagent.kernel.iptables.chains import HeldServers, is_servers, parse_servers
from ipvsagent.kernel.iptables.commands import RulesLocked, RulesRefused
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.rule_table import RuleTable
from ipvsagent.model import VirtualServerId
from ipvsagent.printable import printable
from ipvsagent.rows import Failure, Keys, Observed, Op, Verb
from ipvsagent.rows.nat_chains import ChainsRow, added_lines, deleted_lines, replaced_lines, rule_count

_READ_PAUSE = 10.0
"""The pause between readings while other programs keep writing, as a multiple of the time that a reading took."""

MakeSets = Callable[[Collection[str]], None]
"""Makes sets of these names that remember clients; raises KernelError, StartError."""


class ServerChains:
    """Owns the chains of the virtual servers of one family, and the buckets that lead to them."""

    def __init__(self, kernel: KernelRules, make_sets: MakeSets = lambda names: None) -> None:
        self.kernel = kernel
        self.read_pause = _READ_PAUSE
        self._make_sets = make_sets
        self._servers: HeldServers | None = None
        self._rule_count = 0
        self._externally_modified: set[VirtualServerId] = set()

    # As the `ChainOwner` of a rule table

    def owns(self, chain: str) -> bool:
        return is_servers(chain)

    def parse(self, text: str) -> None:
        """Parse the output of iptables-save, and keep the result; record which virtual servers differ from what was
        remembered."""
        servers = parse_servers(text)
        if self._servers is not None:
            before, now = self._servers.rows, servers.rows
            self._externally_modified |= {i for i in before.keys() | now.keys() if before.get(i) != now.get(i)}
        self._servers = servers
        self._rule_count = sum(map(rule_count, servers.rows.values()))

    def prepare(self) -> None:
        """Create missing buckets, and remove stray rules and chains. Raises RulesRefused, RulesLocked."""
        held = self.held()
        made = [f":{name} - [0:0]" for name in held.missing_buckets()]
        swept = list(held.sweep_lines())
        if made or swept:
            try:
                self.kernel.restore(_nat([*made, *swept]))
            except RulesLocked:
                raise
            except RulesRefused:  # a rule of another program leads to a stray chain
                self.kernel.restore(_nat([*made, *held.sweep_lines(delete=False)]))

    def differences(self) -> list[str]:
        held = self.held()
        found = [f"nat: chain {name} is missing" for name in held.missing_buckets()]
        found += [f"nat: chain {bucket}: a rule is not ours: {printable(rule)}" for bucket, rule in held.stray_rules]
        found += [f"nat: chain {name} is no longer needed" for name, full in held.stray_chains.items() if full]
        return found

    def rule_count(self) -> int:
        """Return the number of rules of virtual servers."""
        return self._rule_count

    # Virtual servers

    def take_externally_modified(self) -> set[VirtualServerId]:
        """Return, and forget, the virtual servers that readings since the last call found changed by others."""
        modified, self._externally_modified = self._externally_modified, set()
        return modified

    def rows(self) -> dict[VirtualServerId, ChainsRow]:
        return self.held().rows

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        """Write ops of this family."""
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
                    failures += self._retry_after_reading(batch[0], error)
                else:
                    batches += self._divided(batch, error)
            except KernelError as error:  # a set could not be made
                without = [op for op in batch if not _sets_of([op])]
                failures += [Failure(op, error) for op in batch if _sets_of([op])]
                batches += [without] if without else []
        return failures

    def _write(self, batch: Sequence[Op]) -> None:
        self._make_sets(_sets_of(batch))
        lines = [line for op in batch for line in self._lines(op)]
        if lines:
            self.kernel.restore_beside(_nat(lines), 1)
        rows = self.rows()
        for op in batch:
            assert isinstance(op.row, ChainsRow)
            before = rows.get(op.row.id)
            self._rule_count -= rule_count(before) if before else 0
            if op.verb is Verb.DELETE:
                rows.pop(op.row.id, None)
            else:
                rows[op.row.id] = op.row
                self._rule_count += rule_count(op.row)

    def _lines(self, op: Op) -> Iterator[str]:
        """Return the lines that an op takes; they depend on what the kernel holds, not on the verb."""
        assert isinstance(op.row, ChainsRow)
        held = self.rows().get(op.row.id)
        if op.verb is Verb.DELETE:
            return deleted_lines(held) if held else iter(())
        return replaced_lines(op.row, held) if held else added_lines(op.row)

    def _retry_after_reading(self, op: Op, error: RulesRefused) -> list[Failure]:
        """Retry a refused op if the kernel holds something else than was remembered."""
        assert isinstance(op.row, ChainsRow)
        before = self.rows().get(op.row.id)
        try:
            self.kernel.read(self.parse)
            if self.rows().get(op.row.id) == before:
                return [Failure(op, error)]
            self._externally_modified.discard(op.row.id)
            self._write([op])
        except RulesRefused as second:
            return [Failure(op, second)]
        return []

    def _divided(self, batch: list[Op], error: RulesRefused) -> list[list[Op]]:
        """Return the batches to try in place of a refused one. The caller takes the last first, so the one most likely
        to succeed is last."""
        number = 1  # the first line names the table
        for index, op in enumerate(batch):
            number += sum(1 for _ in self._lines(op))
            if 1 < error.number <= number:
                return [[op], batch[:index] + batch[index + 1 :]]
        middle = len(batch) // 2
        return [batch[middle:], batch[:middle]]

    def held(self) -> HeldServers:
        """Return what the kernel holds, as remembered; the first call reads it. Raises RulesRefused."""
        if self._servers is None:
            self.kernel.read(self.parse)
            assert self._servers is not None
        return self._servers


class ServerRules:
    """Implements the `KernelTable` of the `ChainsRow`s of all families."""

    tables: tuple[RuleTable, ...]
    """The constant rules beside these chains, by family; one reading serves both."""

    def __init__(self, chains: Iterable[ServerChains]) -> None:
        self.chains = {one.kernel.family: one for one in chains}
        self.tables = tuple(RuleTable(one.kernel, one) for one in self.chains.values())

    def read(self, keys: Keys) -> Iterator[Observed]:
        rows = {server_id: row for chains in self.chains.values() for server_id, row in chains.rows().items()}
        asked = rows if keys is None else [key for key in keys if isinstance(key, VirtualServerId)]
        return iter([Observed(rows[server_id]) for server_id in asked if server_id in rows])

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        failures: list[Failure] = []
        for family in Family:
            own = [op for op in ops if isinstance(op.row, ChainsRow) and op.row.id.family is family]
            if own and family in self.chains:
                failures += self.chains[family].write(own)
            elif own:
                error = KernelError.of(errno.EAFNOSUPPORT, f"this kernel has no {family}")
                failures += [Failure(op, error) for op in own]
        return failures

    def take_externally_modified(self) -> set[VirtualServerId]:
        return {server_id for chains in self.chains.values() for server_id in chains.take_externally_modified()}


def _sets_of(batch: Iterable[Op]) -> set[str]:
    return {name for op in batch if isinstance(op.row, ChainsRow) for name in op.row.client_sets}


def _nat(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in ("*nat", *lines, "COMMIT"))
