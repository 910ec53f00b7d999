"""Counts the rows that several virtual servers need: one count for each row; 0 to 1 and 1 to 0 are the kernel
operations.

Counts come from what is desired, never from the kernel, so a lost or stray row is merely a difference to repair. A row
whose write failed is retried by itself, and does not make its virtual servers suspect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from ipvsagent.cluster.objects import EVERYTHING_KNOWN, BlindSpots
from ipvsagent.errors import KernelError, StartError
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import VirtualServer, VirtualServerId
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.reconcile.report import Report
from ipvsagent.reconcile.retry import FIRST_DELAY, RetryQueue
from ipvsagent.rows import Op, RouteRow, SetMemberRow, SharedRow, Verb, order


class SharedRows:
    """Counts shared rows, and keeps the kernel equal to the counts."""

    def __init__(self, tables: KernelTables) -> None:
        self._tables = tables
        self._counts: dict[SharedRow, int] = {}
        self._counted: dict[VirtualServerId, VirtualServer] = {}
        self.static: tuple[SharedRow, ...] = ()
        self._awaited: set[SharedRow] = set()  # static rows that are yet to be written or deleted
        self.sizes: Counter[str] = Counter()
        """How many members each set should have."""
        self.retry: RetryQueue[SharedRow] = RetryQueue()
        """Rows whose kernel state is uncertain."""
        self.held = False
        """Whether stray rows are kept because the source has blind spots."""
        self._strays_due: float | None = None  # when to look for strays that were held
        self.blind: BlindSpots = EVERYTHING_KNOWN

    def needs(self, row: SharedRow) -> bool:
        return row in self._counts

    def __iter__(self) -> Iterator[SharedRow]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def move(self, server_id: VirtualServerId, server: VirtualServer | None) -> list[Op]:
        """Count for `server` instead of what was counted for the id before. Return ops for the rows that become needed
        or cease to be needed."""
        old = self._counted.get(server_id)
        if old is server:
            return []
        if old and server and self._tables.renderer.shares_alike(old, server):
            self._counted[server_id] = server
            return []
        gained = self._tables.renderer.shared(server) if server else ()
        lost = self._tables.renderer.shared(old) if old else ()
        if server:
            self._counted[server_id] = server
        else:
            self._counted.pop(server_id, None)
        return self._exchange(gained, lost) if gained != lost else []

    def set_static_rows(self, rows: Sequence[SharedRow]) -> list[Op]:
        """Set the rows that are needed whatever the Services are. Return ops for those that become needed or cease to
        be needed."""
        lost, self.static = self.static, tuple(rows)
        return self._exchange(self.static, lost)

    def write_static_rows(self, now: float, report: Report, present: set[SharedRow]) -> None:
        """Add the static rows that are missing, before the first full comparison."""
        self.write([Op(Verb.ADD, row) for row in self.static], now, report, present)

    def static_changed(self, row: SharedRow, now: float) -> None:
        """Have the next round write a static row that became needed or ceased to be needed; that is not drift."""
        self._awaited.add(row)
        self.retry.mark_suspect(row, now)

    def _exchange(self, gained: Iterable[SharedRow], lost: Iterable[SharedRow]) -> list[Op]:
        ops = []
        for row in gained:
            count = self._counts.get(row, 0)
            self._counts[row] = count + 1
            if not count:
                ops.append(Op(Verb.ADD, row))
                if isinstance(row, SetMemberRow):
                    self.sizes[row.set] += 1
        for row in lost:
            self._counts[row] -= 1
            if not self._counts[row]:
                del self._counts[row]
                ops.append(Op(Verb.DELETE, row))
                if isinstance(row, SetMemberRow):
                    self.sizes[row.set] -= 1
        return ops

    def write(self, ops: Iterable[Op], now: float, report: Report, present: set[SharedRow]) -> None:
        """Write ops, additions first; a row that one virtual server releases and another claims in one round stays.

        present: rows that were read in the kernel, which are not added again; kept up to date.
        """
        net: dict[object, Op] = {}
        for op in ops:
            if net.pop(op.row, None) is None:
                net[op.row] = op
        batch = [op for op in net.values() if not (op.verb is Verb.ADD and op.row in present)]
        if not batch:
            return
        report.written += len(batch)
        failures = {f.op.row: f for f in self._tables.write(order(batch))}
        for op in batch:
            row = op.row
            assert isinstance(row, SharedRow)
            failure = failures.get(row)
            if failure:
                report.failures.append(failure)
                self.retry.fail(row, str(failure.error), now)
                reason = f"the kernel refused `{op}`: {failure.error}; it is tried again"
                report.replace_findings(row, Finding(FindingKind.KERNEL_REFUSED, str(row), reason))
                continue
            if row in self.retry:
                self._settle(row, report)
            (present.add if op.verb is Verb.ADD else present.discard)(row)

    def repair(self, present: set[SharedRow], now: float, report: Report, *, count_drift: bool = False) -> None:
        """Make the kernel, which holds just `present`, agree with the counts."""
        ops = self._differences(present, self._counts.keys() | present)
        if count_drift:
            report.record_drift(ops)
        self.write(ops, now, report, present)

    def release_strays(self) -> None:
        """Let the next round remove the strays that were held."""
        if self.held:
            self.held = False
            self._strays_due = 0.0

    def next_due(self) -> float | None:
        return min((due for due in (self._strays_due, self.retry.next_due()) if due is not None), default=None)

    def check_sizes(self, now: float) -> None:
        """Compare the sizes of our sets, as one that was flushed or destroyed has another size; if one differs, mark
        every row that differs suspect.

        Rows that are suspect already may be there or not: a member that the kernel refuses makes no set differ.
        """
        sizes = self._tables.set_sizes()
        if sizes is None:
            return
        lacking: Counter[str] = Counter()
        surplus: Counter[str] = Counter()
        for row in self.retry:
            if isinstance(row, SetMemberRow):
                (lacking if self.needs(row) else surplus)[row.set] += 1
        for name in {*sizes, *self.sizes}:
            desired = self.sizes[name]
            if not desired - lacking[name] <= sizes.get(name, 0) <= desired + surplus[name]:
                self.check_contents(now)
                return

    def check_contents(self, now: float) -> None:
        """Mark every row that differs suspect. Reads all, as replacing a member does not change the size of a set."""
        if self.held:
            return
        present = self._tables.read_shared(None)
        for row in self._counts.keys() ^ present:
            self.retry.mark_suspect(row, now)

    def check_routes(self, now: float) -> None:
        """Mark routes suspect that another program deleted or changed, as the kernel does not notify of that."""
        routes = [row for row in self.static if isinstance(row, RouteRow)]
        if routes:
            present = self._tables.read_shared(routes)
            for row in routes:
                if row not in present:
                    self.retry.mark_suspect(row, now)

    def round(self, now: float, report: Report) -> None:
        """Read and repair the suspect rows that are due."""
        due = self.retry.due(now)
        strays = self._strays_due is not None and self._strays_due <= now
        if not due and not strays:
            return
        try:
            self._tables.prepare()
            if strays:
                due += [row for row in self._tables.read_shared(None) if not self.needs(row) and row not in self.retry]
            present = self._tables.read_shared(due)
        except (KernelError, StartError) as error:
            for row in due:
                self.retry.fail(row, str(error), now)
            if strays:
                self._strays_due = now + FIRST_DELAY
            report.replace_findings("interface", Finding(FindingKind.HOST, "addresses", str(error)))
            return
        if strays:
            self._strays_due = None
        report.replace_findings("interface")
        ops = self._differences(present, due)
        report.record_drift(op for op in ops if self._is_drift(op))
        self.write(ops, now, report, present)
        changed = {op.row for op in ops}
        for row in due:
            if row not in changed:
                self._settle(row, report)

    def _differences(self, present: set[SharedRow], asked: Iterable[SharedRow]) -> Sequence[Op]:
        ops = []
        for row in asked:
            if self.needs(row) and row not in present:
                ops.append(Op(Verb.ADD, row))
            elif not self.needs(row) and row in present:
                if self.blind.holds_virtual_servers:
                    self.held = True  # an object that cannot be read may need it
                else:
                    ops.append(Op(Verb.DELETE, row))
        return ops

    def _is_drift(self, op: Op) -> bool:
        """Return whether another program made this difference: no write of ours failed."""
        assert isinstance(op.row, SharedRow)
        suspect = self.retry.get(op.row)
        return suspect is not None and suspect.attempts == 0 and op.row not in self._awaited

    def _settle(self, row: SharedRow, report: Report) -> None:
        self._awaited.discard(row)
        self.retry.settle(row)
        report.replace_findings(row)
