"""Reconciles the kernel with what is desired, by rounds and by full comparisons. Read `_apply` first; everything ends
there.

Start, repair and audit call `_apply` with rows that were read; a change calls it with rows that are believed.
`states.py` defines what is believed about a virtual server. Deletions of rows that were only found in the kernel wait
while the source has blind spots: an object that could not be read may claim them. Deletions that follow from a changed
desired value never wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from msgspec.structs import replace

from ipvsagent.cluster.objects import EVERYTHING_KNOWN, BlindSpots
from ipvsagent.errors import AlreadyThere, KernelError, NotThere
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import Protocol, RealServer, VirtualServer, VirtualServerId
from ipvsagent.policy.desired import DesiredState
from ipvsagent.reconcile.batch import BELIEVED, NOT_THERE, Batch, Believed, Read
from ipvsagent.reconcile.by_mark import ByMark
from ipvsagent.reconcile.drain import Drains
from ipvsagent.reconcile.kernel_tables import KernelTables, removes, server_of
from ipvsagent.reconcile.report import Report, refusal
from ipvsagent.reconcile.shared import SharedRows
from ipvsagent.reconcile.states import States
from ipvsagent.reconcile.udp import moved, with_flows_of
from ipvsagent.rows import (
    Failure,
    Observed,
    Op,
    Owner,
    RealServerRow,
    Row,
    SharedRow,
    Verb,
    diff,
    order,
)

CHUNK = 1000


class Reconciler:
    """Owns what is believed about the kernel, and makes it what is desired."""

    def __init__(self, desired: DesiredState, tables: KernelTables, drains: Drains) -> None:
        self._desired = desired
        self._tables = tables
        self._by_mark = ByMark()
        self.drains = drains
        self.states = States()
        self.shared = SharedRows(tables)
        self.blind: BlindSpots = EVERYTHING_KNOWN
        self.started = False

    # Inputs

    def mark_dirty(self, ids: Iterable[VirtualServerId]) -> None:
        self.states.dirty.update(ids)

    def set_blind_spots(self, blind: BlindSpots, now: float) -> None:
        """Set what the source cannot read. What was held back because of it may go in the next round."""
        if blind == self.blind:
            return
        self.blind = self.shared.blind = blind
        self.states.release_held(now)
        if self.shared.held and not blind.holds_virtual_servers:
            self.shared.release_strays()

    def set_static_rows(self, rows: Sequence[SharedRow], now: float) -> None:
        """Set the shared rows that are needed whatever the Services are."""
        for op in self.shared.set_static_rows(rows):
            if self.started and isinstance(op.row, SharedRow):
                self.shared.static_changed(op.row, now)

    def shared_changed(self, row: SharedRow, present: bool, now: float) -> None:
        """Handle a report of the kernel that a shared row appeared or disappeared. Reports of our own writes agree and
        cost nothing."""
        if self.started and present != self.shared.needs(row):
            self.shared.retry.mark_suspect(row, now)

    # Rounds

    def start(self, now: float, report: Report | None = None) -> Report:
        """Compare everything that is ours in the kernel with everything that is desired, and write the difference.

        This is the repair after a flush, too. Raises KernelError if a table cannot be read, StartError from `prepare`.
        `report` is filled as far as the work gets, even if this raises.
        """
        self._tables.prepare()
        report = Report() if report is None else report
        before = self.started
        present = self._tables.read_shared(None)
        if before:
            self.shared.repair(present, now, report, count_drift=True)
        done: set[VirtualServerId] = set()
        in_kernel = self._tables.read(None)
        while chunk := {server_id: Read(rows) for server_id, rows in islice(in_kernel, CHUNK)}:
            self._apply(chunk, now, report, present, count_drift=before)
            done.update(chunk)
        # Include what no longer exists and is not desired, but is still believed: its shared rows must be removed.
        known = dict.fromkeys([*self._desired, *self.states.dirty, *self.states.confirmed])
        missing = (i for i in known if i not in done)
        while absent := dict.fromkeys(islice(missing, CHUNK), NOT_THERE):
            self._apply(absent, now, report, present, count_drift=before)
        if not before:
            self.shared.repair(present, now, report)
        self.states.dirty.clear()
        self.started = True
        self._report_held(report)
        return report

    def program(self, ids: Sequence[VirtualServerId], now: float, report: Report) -> None:
        """Program some virtual servers before everything else is even compared; `start` has to follow. Raises what it
        raises."""
        self._tables.prepare()
        found = self._read(ids)
        present = self._tables.read_shared(None)
        self._apply(found, now, report, present)
        self.shared.write_static_rows(now, report, present)

    def round(self, now: float, report: Report | None = None) -> Report:
        """Do everything that is due: changed virtual servers, retries, ends of drains."""
        report = Report() if report is None else report
        by_mark = self._by_mark.due(now)
        ids = {*self.states.dirty, *self.states.suspects.due(now), *self.drains.due(now), *by_mark}
        self.states.dirty.clear()
        queue = iter(sorted(ids) if len(ids) > 1 else ids)
        while chunk := list(islice(queue, CHUNK)):
            uncertain = [i for i in chunk if i in by_mark or self.states.must_be_read(i)]
            found: dict[VirtualServerId, Read] = {}
            if uncertain:
                try:
                    found = self._read(uncertain)
                except KernelError as error:
                    for server_id in uncertain:
                        self.drains.postpone(server_id, self.states.suspects.fail(server_id, str(error), now))
                    chunk = [i for i in chunk if i not in self.states.suspects]
            self._apply({i: found.get(i, BELIEVED) for i in chunk}, now, report, set())
        self.shared.round(now, report)
        self._report_held(report)
        return report

    def repair(self, found: Mapping[VirtualServerId, Sequence[Observed]], now: float, report: Report) -> None:
        """Repair virtual servers whose rows were read and are not what is believed: another program changed them."""
        read = {server_id: Read(rows) for server_id, rows in found.items()}
        self._apply(read, now, report, set(), count_drift=True)

    def next_due(self) -> float | None:
        """Return when `round` has something to do; None = not before the next change."""
        if self.states.dirty:
            return 0.0
        times = (
            self.states.suspects.next_due(),
            self.shared.next_due(),
            self.drains.next_due(),
            self._by_mark.next_due(),
        )
        return min((t for t in times if t is not None), default=None)

    # The one place where the kernel is made what is desired

    def _apply(
        self,
        found: Mapping[VirtualServerId, Read | Believed],
        now: float,
        report: Report,
        present: set[SharedRow],
        *,
        count_drift: bool = False,
    ) -> None:
        """Bring virtual servers from what the kernel holds to what is desired.

        Additions of all of them go first, then their shared rows begin or stop attracting traffic, then deletions
        follow. present: shared rows that were read, and so need not be added; kept up to date. May be empty.
        """
        batch = Batch()
        for server_id, held in found.items():
            if isinstance(held, Read) and is_foreign(held.rows):
                self._leave_to_others(server_id, report)
                continue
            batch.ids.append(server_id)
            for op in self._plan(server_id, held, now, report, count_drift=count_drift):
                (batch.deletions if op.verb is Verb.DELETE else batch.additions).append(op)
        self._add(batch, report)
        self._attract(batch, now, report, present)
        self._remove(batch, report)
        for server_id in batch.ids:
            self._conclude(server_id, batch.failed.get(server_id), now, report)

    def _plan(
        self, server_id: VirtualServerId, held: Read | Believed, now: float, report: Report, *, count_drift: bool
    ) -> Sequence[Op]:
        """Work out the ops of one virtual server that is not another program's."""
        desired = self._desired.get(server_id)
        believed = self.states.confirmed.get(server_id)
        rows = [seen.row for seen in held.rows] if isinstance(held, Read) else self._believed_rows(server_id)
        if self.states.unmark_foreign(server_id):
            report.replace_findings(server_id)
        if count_drift:
            report.record_drift(self.differences(server_id, rows))
        ops: Sequence[Op] = diff(rows, self._tables.renderer.rows(desired) if desired else ())
        if isinstance(held, Read):
            ops = self._hold_back(server_id, desired, ops)
            if desired is None and server_id.protocol is Protocol.FWM:
                ops = self._by_mark.transform(server_id, held.rows, ops, now, self.drains.timeout)
        elif desired is None:
            self.states.held.discard(server_id)
        ops = self.drains.transform(server_id, ops, believed, desired, now)
        if desired and server_id.protocol is Protocol.UDP and (ops or moved(believed, desired)):
            report.udp += with_flows_of(desired, self._desired)
        return ops

    def _add(self, batch: Batch, report: Report) -> None:
        batch.record_failures(self._write(batch.additions, report))

    def _attract(self, batch: Batch, now: float, report: Report, present: set[SharedRow]) -> None:
        """Write the shared rows that become needed or cease to be needed: what attracts traffic to virtual servers that
        are there, and to no others."""
        refused = batch.without_virtual_server()
        ops: list[Op] = []
        for server_id in batch.ids:
            desired, held = self._desired.get(server_id), server_id in self.states.held
            if server_id in refused or (desired is None and held):
                continue
            if desired and not desired.real_servers and held:
                # The real servers that are held serve: it must not be refused as one without endpoints.
                desired = replace(desired, real_servers=(RealServer(server_id.address, server_id.port),))
            ops += self.shared.move(server_id, desired)
        self.shared.write(ops, now, report, present)

    def _remove(self, batch: Batch, report: Report) -> None:
        """Write the deletions, except those that would leave a virtual server without any real server until a retry."""
        refused = batch.without_virtual_server()
        empty = {server_id for server_id, failures in batch.failed.items() if self._all_refused(server_id, failures)}
        deletions = [
            op
            for op in batch.deletions
            if server_of(op.row) not in refused and not (type(op.row) is RealServerRow and server_of(op.row) in empty)
        ]
        batch.record_failures(self._write(deletions, report))

    def _conclude(self, server_id: VirtualServerId, failures: list[Failure] | None, now: float, report: Report) -> None:
        desired = self._desired.get(server_id)
        if failures:
            stale = all(isinstance(f.error, (AlreadyThere, NotThere)) for f in failures)
            suspects = self.states.suspects
            suspects.fail(server_id, f"{failures[0].op}: {failures[0].error}", now, at_once=stale)
            suspect = suspects.get(server_id)
            if not stale or (suspect and suspect.attempts > 1):
                report.replace_findings(server_id, refusal(server_id, desired, failures[0]))
        elif self.states.confirm(server_id, desired):
            report.replace_findings(server_id)

    def _all_refused(self, server_id: VirtualServerId, failures: Sequence[Failure]) -> bool:
        """Return whether the kernel refused all real servers that are desired: those that serve now must continue until
        a retry succeeds."""
        desired = self._desired.get(server_id)
        refused = {f.op.row.key for f in failures if isinstance(f.op.row, RealServerRow)}
        return bool(desired and desired.real_servers and {(r.address, r.port) for r in desired.real_servers} <= refused)

    def _hold_back(self, server_id: VirtualServerId, desired: VirtualServer | None, ops: Sequence[Op]) -> Sequence[Op]:
        """Return the ops without deletions that an object we cannot read might forbid."""
        self.states.held.discard(server_id)
        if desired is None:
            hold = self.blind.holds_virtual_servers
        else:
            hold = self.blind.holds_real_servers(desired.service.namespace, desired.service.service)
        if not hold or not any(removes(op) for op in ops):
            return ops
        self.states.held.add(server_id)
        return [op for op in ops if not removes(op)]

    def _report_held(self, report: Report) -> None:
        count = len(self.states.held) + self.shared.held
        if not count:
            report.replace_findings("held")
        else:
            reason = (
                f"{count} of its virtual servers hold something that no known object asks for; it stays until every "
                "input can be read"
            )
            report.replace_findings("held", Finding(FindingKind.REMOVAL_HELD, "IPVS", reason))

    def _leave_to_others(self, server_id: VirtualServerId, report: Report) -> None:
        """Do nothing with another program's virtual server, but report the Service that cannot have its place."""
        self.drains.forget(server_id)
        desired = self._desired.get(server_id)
        if desired is None:
            self.states.forget(server_id)
            report.replace_findings(server_id)
            return
        self.states.mark_foreign(server_id)
        finding = Finding(
            FindingKind.SHADOWED_BY_FOREIGN,
            f"Service {desired.service}",
            f"{server_id} is a virtual server of another program; it is left alone, and programmed when it is free",
        )
        report.replace_findings(server_id, finding)

    # Kernel access

    def _read(self, ids: Sequence[VirtualServerId]) -> dict[VirtualServerId, Read]:
        """Read virtual servers; those that the kernel lacks are in the result, too. Raises KernelError."""
        found = {server_id: Read(rows) for server_id, rows in self._tables.read(ids)}
        return {**dict.fromkeys(ids, NOT_THERE), **found}

    def _write(self, ops: Sequence[Op], report: Report) -> list[Failure]:
        if not ops:
            return []
        report.written += len(ops)
        failures = self._tables.write(order(ops))
        report.failures += failures
        return failures

    # Questions

    def is_settled(self, server_id: VirtualServerId) -> bool:
        """Whether nothing is pending for it, so that what the kernel holds should match what is believed."""
        return self.states.of(server_id).settled and server_id not in self._by_mark

    def differences(self, server_id: VirtualServerId, rows: Sequence[Row]) -> list[Op]:
        """Return the ops that would make these rows what they are believed to be."""
        return diff(rows, self._believed_rows(server_id))

    def _believed_rows(self, server_id: VirtualServerId) -> Sequence[Row]:
        believed = self.states.confirmed.get(server_id)
        return [*self._tables.renderer.rows(believed), *self.drains.rows(server_id)] if believed else ()


def is_foreign(rows: Sequence[Observed]) -> bool:
    return bool(rows) and rows[0].owner is Owner.FOREIGN
