"""The reconciler: one round, and the full comparison. Read `_apply` first; everything ends there.

Three words carry it:

*dirty*      the wish for an id may have changed since the last round;
*confirmed*  the kernel took everything of the last wish: its rows are the rows of that wish plus those of drains,
             so nothing need be read to change it (the confirmed value is the very object that was wished);
*suspect*    a write failed or an audit saw something else: its rows are read before the next write.

Start, repair and audit feed `_apply` with rows that were read; a change feeds it with rows that are believed. Deletions
of rows that were only *found* wait while the source says that it is blind (`Blind`): an object that could not be read
may claim them. Deletions that follow from a changed wish never wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from msgspec.structs import replace

from ipvsagent.cluster.objects import EVERYTHING_KNOWN, Blind
from ipvsagent.errors import AlreadyThere, KernelError, NotThere
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import Protocol, RealServer, VirtualServer, VirtualServerId
from ipvsagent.policy.desired import DesiredState
from ipvsagent.reconcile.by_mark import ByMark
from ipvsagent.reconcile.drain import Drains
from ipvsagent.reconcile.kernel_tables import KernelTables, removes, server_of
from ipvsagent.reconcile.report import Report, refusal
from ipvsagent.reconcile.retry import RetryQueue
from ipvsagent.reconcile.shared import SharedRows
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
    """Owns what is believed of the kernel."""

    def __init__(
        self,
        desired: DesiredState,
        backend: KernelTables,
        drains: Drains,
    ) -> None:
        self._desired = desired
        self._backend = backend
        self.drains = drains
        self.confirmed: dict[VirtualServerId, VirtualServer] = {}
        self.suspects: RetryQueue[VirtualServerId] = RetryQueue()
        self.foreign: set[VirtualServerId] = set()
        self.shared = SharedRows(backend)
        self.blind: Blind = EVERYTHING_KNOWN
        self.started = False
        self._dirty: set[VirtualServerId] = set()
        self._held: set[VirtualServerId] = set()
        self._by_mark = ByMark()

    # What happens outside

    def change(self, ids: Iterable[VirtualServerId]) -> None:
        self._dirty.update(ids)

    def see(self, blind: Blind, now: float) -> None:
        """The source knows more, or less, than before; what was held back may go now."""
        if blind == self.blind:
            return
        self.blind = self.shared.blind = blind
        for server_id in self._held:
            self.suspects.mark_suspect(server_id, now)
        self._held.clear()
        if self.shared.held and not blind.holds_virtual_servers:
            self.shared.release_strays()

    def fix(self, rows: Sequence[SharedRow], now: float) -> None:
        """Shared rows that are needed whatever the Services are."""
        for op in self.shared.fix(rows):
            if self.started and isinstance(op.row, SharedRow):
                self.shared.change(op.row, now)

    def shared_changed(self, row: SharedRow, present: bool, now: float) -> None:
        """The kernel told that an address came to, or left, our interface. Our own writes agree and cost nothing."""
        if self.started and present != self.shared.wants(row):
            self.shared.retry.mark_suspect(row, now)

    # Rounds

    def start(self, now: float, report: Report | None = None) -> Report:
        """Compare everything that is ours in the kernel with everything that is wanted, and write the difference.

        Also the repair after a flush. Raises KernelError if a table cannot be read, StartError from `prepare`.
        report: as far as it gets, this says what was done, also if it raises.
        """
        self._backend.prepare()
        report = Report() if report is None else report
        before = self.started
        present = self._backend.read_shared(None)
        if before:
            self.shared.repair(present, now, report, count_drift=True)
        done: set[VirtualServerId] = set()
        in_kernel = self._backend.read(None)
        while chunk := dict(islice(in_kernel, CHUNK)):
            self._apply(chunk, now, report, present, count_drift=before)
            done.update(chunk)
        # Also what is neither wanted nor there any more, but still believed: its shared rows have to go.
        known = dict.fromkeys([*self._desired, *self._dirty, *self.confirmed])
        missing = (i for i in known if i not in done)
        while absent := dict.fromkeys(islice(missing, CHUNK), ()):
            self._apply(absent, now, report, present, count_drift=before)
        if not before:
            self.shared.repair(present, now, report)
        self._dirty.clear()
        self.started = True
        self._report_held(report)
        return report

    def program(self, ids: Sequence[VirtualServerId], now: float, report: Report) -> None:
        """Make these as they are wanted, before everything else is looked at; `start` has to follow. Raises as it."""
        self._backend.prepare()
        found = {**dict.fromkeys(ids, ()), **dict(self._backend.read(ids))}
        present = self._backend.read_shared(None)
        self._apply(found, now, report, present)
        self.shared.write_static_rows(now, report, present)

    def round(self, now: float, report: Report | None = None) -> Report:
        """Everything that is due: changed overrides, retries, ends of drains."""
        report = Report() if report is None else report
        by_mark = self._by_mark.due(now)
        ids = {*self._dirty, *self.suspects.due(now), *self.drains.due(now), *by_mark}
        self._dirty.clear()
        queue = iter(sorted(ids) if len(ids) > 1 else ids)
        while chunk := list(islice(queue, CHUNK)):
            uncertain = [
                i
                for i in chunk
                if i in self.suspects or i in by_mark or (i not in self.confirmed and i in self.foreign)
            ]
            found: dict[VirtualServerId, Sequence[Observed]] = {}
            if uncertain:
                try:
                    found = {**dict.fromkeys(uncertain, ()), **dict(self._backend.read(uncertain))}
                except KernelError as error:
                    for server_id in uncertain:
                        self.drains.wait(server_id, self.suspects.fail(server_id, str(error), now))
                    chunk = [i for i in chunk if i not in self.suspects]
            self._apply(found, now, report, None, ids=chunk)
        self.shared.round(now, report)
        self._report_held(report)
        return report

    def repair(self, found: Mapping[VirtualServerId, Sequence[Observed]], now: float, report: Report) -> None:
        """These were read, and are not what is believed: somebody else's doing."""
        self._apply(found, now, report, None, count_drift=True)

    def next_due(self) -> float | None:
        """When `round` has something to do; None = not before the next change."""
        if self._dirty:
            return 0.0
        times = (
            self.suspects.next_due(),
            self.shared.next_due(),
            self.drains.next_due(),
            self._by_mark.next_due(),
        )
        return min((t for t in times if t is not None), default=None)

    # The one place where kernel and wish meet

    def _apply(
        self,
        found: Mapping[VirtualServerId, Sequence[Observed]],
        now: float,
        report: Report,
        present: set[SharedRow] | None,
        *,
        ids: Sequence[VirtualServerId] | None = None,
        count_drift: bool = False,
    ) -> None:
        """Bring `ids` (default: all of `found`) from what is held to what is wanted.

        found: rows that were read; an id that is not in it is confirmed or new, and holds what is believed.
        Additions of all ids go first, then addresses are bound and unbound, then deletions follow.
        present: shared rows known to be in the kernel, kept up to date; None = those that are wanted.
        """
        renderer = self._backend.renderer
        additions: list[Op] = []
        deletions: list[Op] = []
        written: list[VirtualServerId] = []
        for server_id in found if ids is None else ids:
            wanted = self._desired.get(server_id)
            believed = self.confirmed.get(server_id)
            read = found.get(server_id)
            if read is None:
                held: Sequence[Row] = [*renderer.rows(believed), *self.drains.rows(server_id)] if believed else ()
            elif is_foreign(read):
                self._leave_to_others(server_id, wanted, report)
                continue
            else:
                held = [seen.row for seen in read]
            if server_id in self.foreign:
                self.foreign.discard(server_id)
                report.say(server_id)
            if count_drift:
                report.drifted(self.differences(server_id, held))
            ops: Sequence[Op] = diff(held, renderer.rows(wanted) if wanted else ())
            if read is not None:
                ops = self._hold_back(server_id, wanted, ops)
            elif wanted is None:
                self._held.discard(server_id)
            if wanted is None and read is not None and server_id.protocol is Protocol.FWM:
                ops = self._by_mark.transform(server_id, read, ops, now, self.drains.timeout)
            ops = self.drains.transform(server_id, ops, None if read and not believed else believed, wanted, now)
            for op in ops:
                (deletions if op.verb is Verb.DELETE else additions).append(op)
            written.append(server_id)
            if wanted and server_id.protocol is Protocol.UDP and (ops or moved(believed, wanted)):
                report.udp += with_flows_of(wanted, self._desired)
        failed = self._write(order(additions), now, report)
        unmade = {
            server
            for server, failures in failed.items()
            if any(type(f.op.row) is not RealServerRow and f.op.verb is Verb.ADD for f in failures)
        }
        shared_ops: list[Op] = []
        for server_id in written:
            wanted = self._desired.get(server_id)
            if server_id in unmade or (wanted is None and server_id in self._held):
                continue
            if wanted and not wanted.real_servers and server_id in self._held:
                # Those that are held serve: it must not be refused as one without endpoints.
                wanted = replace(wanted, real_servers=(RealServer(server_id.address, server_id.port),))
            shared_ops += self.shared.move(server_id, wanted)
        self.shared.write(shared_ops, now, report, present)
        unfilled = {server for server, failures in failed.items() if self._fills_none(server, failures)}
        deletions = [
            op
            for op in deletions
            if server_of(op.row) not in unmade and not (type(op.row) is RealServerRow and server_of(op.row) in unfilled)
        ]
        for server, failures in self._write(order(deletions), now, report).items():
            failed.setdefault(server, []).extend(failures)
        for server_id in written:
            self._conclude(server_id, failed.get(server_id), now, report)

    def _conclude(self, server_id: VirtualServerId, failures: list[Failure] | None, now: float, report: Report) -> None:
        if failures:
            stale = all(isinstance(f.error, (AlreadyThere, NotThere)) for f in failures)
            self.suspects.fail(server_id, f"{failures[0].op}: {failures[0].error}", now, at_once=stale)
            suspect = self.suspects.get(server_id)
            if not stale or (suspect and suspect.attempts > 1):
                report.say(server_id, refusal(server_id, self._desired.get(server_id), failures[0]))
            return
        if server_id in self.suspects:
            self.suspects.settle(server_id)
            report.say(server_id)
        wanted = self._desired.get(server_id)
        if wanted is None:
            self.confirmed.pop(server_id, None)
        else:
            self.confirmed[server_id] = wanted

    def _fills_none(self, server_id: VirtualServerId, failures: Sequence[Failure]) -> bool:
        """All real servers that are wanted were refused: those that serve now must go on until a retry succeeds."""
        wanted = self._desired.get(server_id)
        refused = {f.op.row.key for f in failures if isinstance(f.op.row, RealServerRow)}
        return bool(wanted and wanted.real_servers and {(r.address, r.port) for r in wanted.real_servers} <= refused)

    def _hold_back(self, server_id: VirtualServerId, wanted: VirtualServer | None, ops: Sequence[Op]) -> Sequence[Op]:
        """Without the deletions that an object we cannot read might forbid."""
        self._held.discard(server_id)
        if wanted is None:
            hold = self.blind.holds_virtual_servers
        else:
            hold = self.blind.holds_real_servers(wanted.service.namespace, wanted.service.service)
        if not hold or not any(removes(op) for op in ops):
            return ops
        self._held.add(server_id)
        return [op for op in ops if not removes(op)]

    def _report_held(self, report: Report) -> None:
        count = len(self._held) + self.shared.held
        if not count:
            report.say("held")
        else:
            reason = (
                f"{count} of its virtual servers hold something that nobody is known to want; it stays until every "
                "input can be read"
            )
            report.say("held", Finding(FindingKind.REMOVAL_HELD, "IPVS", reason))

    def _leave_to_others(self, server_id: VirtualServerId, wanted: VirtualServer | None, report: Report) -> None:
        self.suspects.settle(server_id)
        self.confirmed.pop(server_id, None)
        self.drains.forget(server_id)
        if wanted is None:
            self.foreign.discard(server_id)
            report.say(server_id)
            return
        self.foreign.add(server_id)
        finding = Finding(
            FindingKind.SHADOWED_BY_FOREIGN,
            f"Service {wanted.service}",
            f"{server_id} is a virtual server of another program; it is left alone, and taken when it is free",
        )
        report.say(server_id, finding)

    # Writing

    def _write(self, ops: Sequence[Op], now: float, report: Report) -> dict[VirtualServerId, list[Failure]]:
        failed: dict[VirtualServerId, list[Failure]] = {}
        if ops:
            report.written += len(ops)
            for failure in self._backend.write(ops):
                report.failures.append(failure)
                failed.setdefault(server_of(failure.op.row), []).append(failure)
        return failed

    # Small questions

    def is_settled(self, server_id: VirtualServerId) -> bool:
        """Nothing is pending for it, so that what the kernel holds should be what is believed."""
        pending = (self.suspects, self._dirty, self._held, self._by_mark)
        return not any(server_id in some for some in pending)

    def differences(self, server_id: VirtualServerId, held: Sequence[Row]) -> list[Op]:
        """What would make the held rows what they are believed to be."""
        believed = self.confirmed.get(server_id)
        rows = [*self._backend.renderer.rows(believed), *self.drains.rows(server_id)] if believed else ()
        return diff(held, rows)


def is_foreign(rows: Sequence[Observed]) -> bool:
    return bool(rows) and rows[0].owner is Owner.FOREIGN
