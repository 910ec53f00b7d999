"""The kernel that a test runs on, with the interface of `FakeKernel`, so that the same laws are checked on both.

It works in a network namespace of its own. What other programs do goes through tables of their own; connections cannot
be set.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ipvsagent.address import Address, Family
from ipvsagent.config import Config
from ipvsagent.errors import KernelError
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.fake.kernel import Killed, RealServers
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.rule_table import RuleTable
from ipvsagent.kernel.iptables.translations import TranslationTable
from ipvsagent.kernel.ipvs.ownership import Ledger, Ownership
from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.model import VirtualServerId
from ipvsagent.packet_filter.iptables import IptablesPacketFilter
from ipvsagent.render.set_members import set_specs
from ipvsagent.rows import (
    AddressRow,
    Failure,
    Op,
    RealServerRow,
    Row,
    SetMemberRow,
    TranslationRow,
    Verb,
    VirtualServerRow,
)
from tests.support.network_namespace import NetworkNamespace


class RealKernel:
    def __init__(self, ledger: Path) -> None:
        self._open = ExitStack()
        namespace = NetworkNamespace()
        self._open.callback(namespace.close)
        self._open.enter_context(namespace.entered())
        self._ledger = ledger
        self._agent: list[Any] = []
        self._faults: list[tuple[Callable[[Op], bool], int]] = []
        self._ops_to_live: int | None = None
        self.after_each_op: Callable[[Op], None] | None = None
        self._others = Ownership(Ledger(None), set())
        self._tables: dict[type, Any] = {
            VirtualServerRow: IpvsTable(self._others),
            AddressRow: AddressTable(),
            SetMemberRow: SetTable(),
        }
        self._tables[RealServerRow] = self._tables[VirtualServerRow]
        self._tables[SetMemberRow].ensure(set_specs())
        self._rules = IptablesPacketFilter(Config())
        self._rules.install()
        self._translated: frozenset[TranslationRow] | None = None
        self.restart()

    def close(self) -> None:
        for table in (*self._agent, *dict.fromkeys(self._tables.values()), self._rules):
            table.close()
        self._open.close()

    def restart(self) -> None:
        for table in self._agent:
            table.close()
        self._ops_to_live = None
        addresses, ledger = AddressTable(), Ledger(self._ledger)
        addresses.ensure_interface()
        self.ownership = Ownership(ledger, addresses.bound)
        ipvs, sets = IpvsTable(self.ownership), SetTable()
        variant = self._rules.variant
        self._kept = IptablesPacketFilter(
            Config(), tables=[RuleTable(KernelRules(family, variant)) for family in Family]
        )
        translations = TranslationTable(self._kept.held_translations, self._kept.translate)
        self._agent = [ipvs, addresses, sets, ledger, self._kept]
        tables = (ipvs, addresses, sets, translations)
        self.ipvs, self.addresses, self.sets, self.translations = (Stepwise(table, self) for table in tables)

    def keep_rules(self) -> None:
        """Do what the agent's thread for packet rules does when it is woken. Translations change nowhere else."""
        if self._kept.pending:
            self._translated = None
        self._kept.apply_pending()

    def fail(self, predicate: Callable[[Op], bool], code: int) -> None:
        self._faults.append((predicate, code))

    def heal(self) -> None:
        self._faults.clear()

    def crash_after(self, ops: int) -> None:
        self._ops_to_live = ops

    def put(self, *rows: Row) -> None:
        for row in rows:
            self._write(Op(Verb.SET if self._holds(row) else Verb.ADD, row))

    def drop(self, *rows: Row) -> None:
        for row in rows:
            self._write(Op(Verb.DELETE, row))

    def connect(self, *_: object) -> None:
        pass

    def add_node_address(self, address: Address) -> None:
        for command in (["link", "add", "eth0", "type", "dummy"], ["address", "add", address, "dev", "eth0"]):
            subprocess.run(["ip", *command], check=True)

    def snapshot(self) -> frozenset[Row]:
        kinds = (VirtualServerRow, AddressRow, SetMemberRow)
        rows: set[Row] = {seen.row for kind in kinds for seen in self._tables[kind].read(None)}
        if self._translated is None:
            self._translated = self._rules.held_translations()
        return frozenset(rows | self._translated)

    @property
    def virtual_servers(self) -> dict[VirtualServerId, VirtualServerRow]:
        return {row.id: row for row in self._rows(VirtualServerRow)}

    @property
    def real_servers(self) -> dict[VirtualServerId, RealServers]:
        found: dict[VirtualServerId, RealServers] = {server_id: {} for server_id in self.virtual_servers}
        for row in self._rows(RealServerRow):
            found[row.server][row.key] = row
        return found

    @property
    def bound(self) -> set[Address]:
        return {row.address for row in self._rows(AddressRow)}

    @property
    def set_members(self) -> set[SetMemberRow]:
        return set(self._rows(SetMemberRow))

    def step_by_step(self) -> bool:
        return bool(self._faults) or self._ops_to_live is not None or self.after_each_op is not None

    def execute(self, op: Op, table: Any) -> list[Failure]:
        if self._ops_to_live is not None:
            if self._ops_to_live <= 0:
                raise Killed
            self._ops_to_live -= 1
        for predicate, code in self._faults:
            if predicate(op):
                return [Failure(op, KernelError.of(code))]
        failures: list[Failure] = table.write([op])
        if not failures and self.after_each_op is not None:
            self.after_each_op(op)
        return failures

    def _rows(self, kind: type) -> list[Any]:
        return [seen.row for seen in self._tables[kind].read(None) if type(seen.row) is kind]

    def _holds(self, row: Row) -> bool:
        if isinstance(row, RealServerRow):
            return row.key in self.real_servers.get(row.server, {})
        return isinstance(row, VirtualServerRow) and row.id in self.virtual_servers

    def _write(self, op: Op) -> None:
        failures = self._tables[type(op.row)].write([op])
        assert not failures, failures


class Stepwise:
    """A table whose ops are executed one by one while faults or a crash are set."""

    def __init__(self, table: Any, kernel: RealKernel) -> None:
        self._table = table
        self._kernel = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._table, name)

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        if self._kernel.step_by_step():
            return [failure for op in ops for failure in self._kernel.execute(op, self._table)]
        failures: list[Failure] = self._table.write(ops)
        return failures
