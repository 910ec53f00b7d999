"""Simulates a kernel in memory, for tests.

The contract tests, which the real kernel passes too, hold it to these guarantees:

1. It fulfils the `KernelTable` contract, and returns the kernel's error number for each mistake
   (kernel/ipvs/refusals.py).
2. Ownership and ledger are the real ones, so that a restart or a crash has the same consequences.
3. Operations take effect one by one, in order. A fault or a crash can be placed before any of them.

It forwards no packets, has no timers, and lists rows in a stable order where the kernel's is arbitrary.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec.structs import replace

from ipvsagent.address import Address, Family
from ipvsagent.config import Network
from ipvsagent.errors import KernelError, NotThere
from ipvsagent.kernel.fake.addresses import FakeAddressTable
from ipvsagent.kernel.fake.routes import FakeRouteTable
from ipvsagent.kernel.fake.rules import FakeRules, FakeRuleTool
from ipvsagent.kernel.fake.sets import FakeSetTable
from ipvsagent.kernel.fake.translations import FakeTranslationTable
from ipvsagent.kernel.iptables.rule_table import Feature
from ipvsagent.kernel.ipvs.ownership import Claims, Ledger, Ownership
from ipvsagent.kernel.ipvs.refusals import real_server_refusal, virtual_server_refusal
from ipvsagent.kernel.ipvs.table import IpvsInfo, Timeouts
from ipvsagent.model import VirtualServerId
from ipvsagent.rows import (
    HASHED,
    AddressRow,
    Counters,
    Failure,
    Keys,
    Observed,
    Op,
    RealServerRow,
    RouteRow,
    Row,
    SetMemberRow,
    SetSpec,
    TranslationRow,
    Tunnel,
    Verb,
    VirtualServerRow,
)

SCHEDULERS = frozenset(["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf", "none"])
RealServers = dict[tuple[Address, int], RealServerRow]


class Killed(BaseException):
    """Reports, in place of executing an op after `crash_after`, that the agent is dead. `except Exception` does not
    catch it."""


class FakeKernel:
    """Holds the state of the kernel, and the tables of one agent: `ipvs`, `addresses`, `routes_table`, `sets`,
    `translations` and, by family, `rules`."""

    def __init__(
        self,
        *,
        schedulers: Container[str] = SCHEDULERS,
        node_addresses: Mapping[str, str] | None = None,
        excluded: Iterable[str | Network] = (),
        ledger: Path | None = None,
        interface: bool = True,
    ) -> None:
        self.schedulers = schedulers
        self.node = {Address(address): name for address, name in (node_addresses or {}).items()}
        self.interface = interface
        self.virtual_servers: dict[VirtualServerId, VirtualServerRow] = {}
        self.real_servers: dict[VirtualServerId, RealServers] = {}
        self.bound: set[Address] = set()
        self.routes: dict[str, RouteRow] = {}
        self.set_specs: dict[str, SetSpec] = {}
        self.set_members: set[SetMemberRow] = set()
        self.translated: frozenset[TranslationRow] = frozenset()
        """The translations that the packet rules hold."""
        self.features: set[Feature] = set(Feature)
        self.rule_tools = {family: FakeRuleTool(self) for family in Family}
        self.connections: dict[tuple[VirtualServerId, Address, int], tuple[int, int, int]] = {}
        self.calls = 0
        """The number of calls of `read` and `write`. Tests may reset this and the following counters."""
        self.ops_written = 0
        """The number of ops, including those that were refused."""
        self.rows_read = 0
        self.log: list[Op] = []
        """Every op of `ops_written`."""
        self.after_each_op: Callable[[Op], None] | None = None
        """Called with each op that took effect."""
        self.read_error: KernelError | None = None
        self.rules_error: KernelError | None = None
        self._excluded = tuple(excluded)
        self._ledger_path = ledger
        self._faults: list[tuple[Callable[[Op], bool], int]] = []
        self._ops_to_live: int | None = None
        self.ownership = Ownership(Ledger(ledger), set(), self._excluded)
        self.restart()

    def restart(self) -> None:
        """Start a new agent: open new tables, and read the ledger again, or keep it if it is in memory only."""
        ledger = self.ownership.ledger if self._ledger_path is None else Ledger(self._ledger_path)
        self._ops_to_live = None
        self.addresses = FakeAddressTable(self)
        self.routes_table = FakeRouteTable(self)
        self.ownership = Ownership(ledger, self.addresses.bound, self._excluded, self.routes_table.networks)
        self.ipvs = FakeIpvsTable(self, self.ownership)
        self.sets = FakeSetTable(self)
        self.translations = FakeTranslationTable(self)
        self.rules = {family: FakeRules(self, family) for family in Family}

    def keep_rules(self) -> None:
        """Let the translations that were written take effect, as the thread that keeps the packet rules does."""
        if self.translations.desired is not None:
            self.translated = self.translations.desired

    # Faults

    def fail(self, predicate: Callable[[Op], bool], code: int) -> None:
        """Make ops that match the predicate fail with this errno, without effect, from now on."""
        self._faults.append((predicate, code))

    def heal(self) -> None:
        self._faults.clear()
        self.read_error = None
        self.rules_error = None

    def crash_after(self, ops: int) -> None:
        """Raise Killed for every op after that many, without effect, until `restart`."""
        self._ops_to_live = ops

    # Actions of other programs, or of clients: not counted, not logged, not in the ledger

    def put(self, *rows: Row) -> None:
        """Add or replace rows, without checks."""
        for row in rows:
            if isinstance(row, VirtualServerRow):
                self.virtual_servers[row.id] = row
                self.real_servers.setdefault(row.id, {})
            elif isinstance(row, RealServerRow):
                self.real_servers[row.server][row.key] = row
            elif isinstance(row, SetMemberRow):
                self.set_members.add(row)
            elif isinstance(row, RouteRow):
                self.routes[row.network] = row
            elif isinstance(row, TranslationRow):
                self.translated |= {row}
            elif isinstance(row, AddressRow):
                self.bound.add(row.address)

    def drop(self, *rows: Row) -> None:
        """Remove rows that exist."""
        for row in rows:
            if isinstance(row, VirtualServerRow):
                del self.virtual_servers[row.id], self.real_servers[row.id]
            elif isinstance(row, RealServerRow):
                del self.real_servers[row.server][row.key]
            elif isinstance(row, SetMemberRow):
                self.set_members.remove(row)
            elif isinstance(row, RouteRow):
                del self.routes[row.network]
            elif isinstance(row, AddressRow):
                self.bound.remove(row.address)

    def flush(self) -> None:
        """Remove all virtual servers, as `ipvsadm --clear` does."""
        self.virtual_servers.clear()
        self.real_servers.clear()

    def add_node_address(self, address: Address, interface: str = "eth0") -> None:
        self.node[address] = interface

    def connect(
        self, server: VirtualServerId, address: str, port: int, active: int, inactive: int = 0, persistent: int = 0
    ) -> None:
        """Set how many connections a real server has."""
        self.connections[server, Address(address), port] = (active, inactive, persistent)

    # State

    def snapshot(self) -> frozenset[Row]:
        """Return every row, for comparison."""
        rows: set[Row] = set(self.virtual_servers.values())
        for reals in self.real_servers.values():
            rows.update(reals.values())
        rows.update(AddressRow(address) for address in self.bound)
        rows.update(self.set_members)
        rows.update(self.translated)
        return frozenset(rows)

    def dump(self) -> str:
        """Return the IPVS table as `ipvsadm -Sn` prints it, sorted."""
        lines = []
        for server in sorted(self.virtual_servers):
            lines.append(str(self.virtual_servers[server]))
            reals = self.real_servers[server]
            lines.extend(str(reals[key]) for key in sorted(reals))
        return "".join(f"{line}\n" for line in lines)

    def count_read(self) -> None:
        self.calls += 1
        if self.read_error is not None:
            raise self.read_error

    def set_references(self, name: str) -> int:
        """Return how many rules refer to a set."""
        texts = [tool.held for tool in self.rule_tools.values()]
        rules = [rule for held in texts for chains in held.values() for rules in chains.values() for rule in rules]
        return sum(f"-set {name} " in rule for rule in rules)

    def fail_rules(self) -> None:
        if self.rules_error is not None:
            raise self.rules_error

    def step(self) -> None:
        """Count one step for `crash_after`: an op, or a table of packet rules."""
        if self._ops_to_live is not None:
            if self._ops_to_live <= 0:
                raise Killed
            self._ops_to_live -= 1

    def execute_all(self, ops: Iterable[Op], apply: Callable[[Op], KernelError | None]) -> list[Failure]:
        """Execute the ops of one call of `write`."""
        self.calls += 1
        errors = ((op, self.execute(op, apply)) for op in ops)
        return [Failure(op, error) for op, error in errors if error is not None]

    def record(self, op: Op) -> None:
        """Record that an op is tried."""
        self.step()
        self.ops_written += 1
        self.log.append(op)

    def execute(self, op: Op, apply: Callable[[Op], KernelError | None]) -> KernelError | None:
        """Execute one op, subject to the faults."""
        self.record(op)
        for predicate, code in self._faults:
            if predicate(op):
                return KernelError.of(code)
        error = apply(op)
        if error is None and self.after_each_op is not None:
            self.after_each_op(op)
        return error


class FakeIpvsTable:
    """Simulates `IpvsTable`."""

    def __init__(self, kernel: FakeKernel, ownership: Ownership) -> None:
        self.ownership = ownership
        self._kernel = kernel
        self._timeouts = Timeouts(900, 120, 300)

    def read(self, keys: Keys, counters: bool = False) -> Iterator[Observed]:
        kernel = self._kernel
        kernel.count_read()
        for key in sorted(kernel.virtual_servers) if keys is None else keys:
            row = kernel.virtual_servers.get(key) if isinstance(key, VirtualServerId) else None
            if row is None:
                continue
            owner = self.ownership.observe(row.id)
            zero = Counters() if counters else None
            kernel.rows_read += 1
            yield Observed(row, owner, counters=zero)
            reals = kernel.real_servers.get(row.id, {})
            for _, real in sorted(reals.items()):
                kernel.rows_read += 1
                active, inactive, persistent = kernel.connections.get((row.id, *real.key), (0, 0, 0))
                yield Observed(real, owner, active, inactive, persistent, zero)

    def services(self) -> Iterator[Observed]:
        for row in self._kernel.virtual_servers.values():
            yield Observed(row, self.ownership.observe(row.id), counters=Counters())

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        self._kernel.calls += 1
        claims = Claims(self.ownership.ledger, ops)
        refused: dict[int, KernelError] = {}
        for index, op in enumerate(ops):
            error = self._kernel.execute(op, self._apply)
            if error is not None and not (op.verb is Verb.DELETE and isinstance(error, NotThere)):
                refused[index] = error
        claims.settle(refused)
        return [Failure(ops[index], error) for index, error in refused.items()]

    def _apply(self, op: Op) -> KernelError | None:
        row = op.row
        kernel = self._kernel
        if isinstance(row, VirtualServerRow):
            there = row.id in kernel.virtual_servers
            code = virtual_server_refusal(op.verb, row, there, kernel.schedulers)
            row = replace(row, flags=row.flags & ~HASHED)
        elif isinstance(row, RealServerRow):
            reals = kernel.real_servers.get(row.server)
            there = reals is not None and row.key in reals
            code = real_server_refusal(op.verb, row, reals is not None, there)
            if row.tunnel == Tunnel():
                row = replace(row, tunnel=None)  # as the kernel reports it
        else:
            code = errno.EINVAL
        if code:
            return KernelError.of(code)
        if op.verb is Verb.DELETE:
            kernel.drop(row)
        else:
            kernel.put(row)
        return None

    def info(self) -> IpvsInfo:
        return IpvsInfo((1, 2, 1), 4096)

    def timeouts(self) -> Timeouts:
        return self._timeouts

    def set_timeouts(self, tcp: int = 0, tcp_fin: int = 0, udp: int = 0) -> None:
        old = self._timeouts
        self._timeouts = Timeouts(tcp or old.tcp, tcp_fin or old.tcp_fin, udp or old.udp)
