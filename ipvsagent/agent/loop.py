"""The main loop: what an agent does with messages and with time. It owns all state and every kernel handle it writes
with; what other threads know comes through the inbox, and it starts none of them.
"""

from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from ipvsagent import __version__
from ipvsagent.agent.log import learn, log_drift, totals_text
from ipvsagent.agent.packet_rules import RulesRepaired
from ipvsagent.agent.reconfiguration import Reconfiguration
from ipvsagent.backends.backend import Backend
from ipvsagent.cluster.objects import Changes
from ipvsagent.config import Config
from ipvsagent.errors import KernelError, StartError
from ipvsagent.findings import Finding, FindingBook, FindingKind, Severity
from ipvsagent.kernel import host
from ipvsagent.kernel.addresses import is_ipv6_link_local
from ipvsagent.kernel.monitor import AddressChange, LinkChange, Overflow
from ipvsagent.model import VirtualServer
from ipvsagent.monitoring.metrics import MetricsQuery, Readings
from ipvsagent.monitoring.vitals import BEAT_EVERY, Vitals
from ipvsagent.pipeline import Origins
from ipvsagent.reconcile.audit import Pace
from ipvsagent.reconcile.report import Report
from ipvsagent.rows import AddressRow, RouteRow
from ipvsagent.sources.configuration import NewConfig
from ipvsagent.sources.inbox import Findings, Inbox
from ipvsagent.sources.view import SourceView
from ipvsagent.status import socket as status_socket
from ipvsagent.status.snapshot import Snapshot, in_sync, server_views, totals_of, without_local_endpoints

log = logging.getLogger("ipvsagent")

LOOK_EVERY = 1.0
LOOK_AT_HOST_EVERY = 10.0
POLLED_AT_ONCE = 64
READ_AGAIN_AFTER = 1.0
RETRY_START_AFTER = (1.0, 30.0)


class Stop(msgspec.Struct, frozen=True):
    """End the loop; `reason` is logged."""

    reason: str


class Rules(Protocol):
    """The packet rules, as the loop drives them; see `PacketRules` for what each call does and raises."""

    def install(self) -> Sequence[Finding]: ...

    def after_programming(self) -> None: ...

    def look(self, now: float) -> Origins: ...


class Loop:
    """Owns the pipeline and all kernel handles that write; `turn` does what is due."""

    def __init__(
        self,
        config: Config,
        backend: Backend,
        inbox: Inbox,
        vitals: Vitals,
        rules: Rules,
        *,
        configure: Callable[[Config], None],
        source_view: Callable[[], SourceView],
        udp_changed: Callable[[Sequence[VirtualServer]], None],
        clock: Callable[[], float],
    ) -> None:
        """configure: passes a changed configuration to the parts that other threads run. udp_changed: is called with
        UDP virtual servers whose real servers have changed; must not wait."""
        self._config = config
        self._backend = backend
        self._tables = backend.kernel_tables()
        self._clock = clock
        self._source_view = source_view
        self._inbox = inbox
        self._vitals = vitals
        self._failing: set[str] = set()
        self._rules = rules
        self._udp_changed = udp_changed
        self._book = FindingBook()
        self._pipeline = backend.pipeline(self._tables, window=config.window)
        self._reconfiguration = Reconfiguration(config, backend, self._pipeline, configure)
        self._born = clock()
        self._changed_at: float | None = None
        self._round_ended = float("-inf")
        self._start_due = 0.0
        self._start_delay = RETRY_START_AFTER[0]
        self._addresses_due = float("-inf")
        self._look_due = 0.0
        self._pace = Pace()
        self._host_due = 0.0
        self._start_writes = 0
        self._start_seconds = 0.0
        self._settled = False
        self._rules_installed = False
        self._drift: Counter[str] = Counter()
        self._odd_addresses = False
        self._learn([("backend", backend.findings)])

    @property
    def started(self) -> bool:
        """Services are served. May be asked from any thread."""
        return self._pipeline.reconciler.started

    def turn(self) -> bool:
        """Wait for messages or the next deadline, then do what is due. False = stop."""
        going_on = self._turn()
        self._vitals.stands(self._pipeline, failing=bool(self._failing))
        return going_on

    def _turn(self) -> bool:
        messages = self._inbox.take(max(0.0, min(self._wake_at() - self._clock(), BEAT_EVERY)))
        self._vitals.turned()
        for message in messages:
            if isinstance(message, Stop):
                log.info("stopping (%s); what is programmed stays", message.reason)
                return False
            if isinstance(message, BaseException):
                raise message
            self._take(message)
        if self._odd_addresses:
            self._guard("odd addresses", lambda report: self._repair_addresses())
        now = self._clock()
        if now >= self._addresses_due:
            self._refresh_node_addresses(now)
        if not self._pipeline.reconciler.started:
            if now >= self._start_may_be():
                self._start(now)
            return True
        due = self._pipeline.next_due()
        if due is not None and max(due, self._round_ended + self._config.window) <= now:
            report = self._guard("round", lambda report: self._pipeline.round(now, report))
            self._round_ended = self._clock()
            self._vitals.synced(self._round_ended - now, success=report is not None)
            self._log_settled()
        if now >= self._look_due:
            self._look_due = now + LOOK_EVERY
            self._look(now)
        return True

    def _wake_at(self) -> float:
        if not self._pipeline.reconciler.started:
            return min(self._addresses_due, self._start_may_be())
        wake = min(self._addresses_due, self._look_due)
        due = self._pipeline.next_due()
        return wake if due is None else min(wake, max(due, self._round_ended + self._config.window))

    def _start_may_be(self) -> float:
        """Not before the source has said everything and this node's addresses are known."""
        known = self._pipeline.table.synced and self._addresses_due == float("inf")
        return self._start_due if known else float("inf")

    def _take(self, message: object) -> None:
        if isinstance(message, Changes):
            now = self._clock()
            self._changed_at = now
            self._vitals.changed(message)
            self._learn(self._pipeline.take(message, now))
        elif isinstance(message, Findings):
            self._learn([(message.origin, message.findings)])
        elif isinstance(message, NewConfig):
            self._look_due = self._clock()
            self._learn(self._reconfiguration.take(message, self._look_due))
        elif isinstance(message, AddressChange) and message.interface == self._config.interface:
            self._odd_addresses |= message.odd
            self._pipeline.reconciler.shared_changed(AddressRow(message.address), message.present, self._clock())
        elif isinstance(message, AddressChange) and not is_ipv6_link_local(message.address):
            if message.present != self._pipeline.has_interface_address(message.address):
                self._addresses_due = self._clock()
        elif isinstance(message, LinkChange):
            if message.interface == self._config.interface and not message.present:
                self._mark_addresses_suspect()
        elif isinstance(message, Overflow):
            self._mark_addresses_suspect()
            self._addresses_due = self._clock()
        elif isinstance(message, RulesRepaired):
            self._drift["rules"] += message.differences
            log.warning("drift: packet rules were changed by somebody; %d differences repaired", message.differences)
        elif isinstance(message, status_socket.Query):
            message.answer.put(self._snapshot())
        elif isinstance(message, MetricsQuery):
            message.answer.put(self._readings())

    def _refresh_node_addresses(self, now: float) -> None:
        """This node's other addresses; if they cannot be read, again a little later."""

        def read(report: Report) -> None:
            report.findings += self._pipeline.node_addresses(self._backend.node_addresses())

        known = self._guard("node addresses", read)
        self._addresses_due = now + READ_AGAIN_AFTER if known is None else float("inf")

    def _repair_addresses(self) -> None:
        count = self._backend.repair_addresses()
        self._odd_addresses = False
        if count:
            self._drift["edited"] += count
            log.warning("drift (edited): %d addresses were bound in a way that answers ARP; bound as ours again", count)

    def _mark_addresses_suspect(self) -> None:
        self._odd_addresses = True
        now = self._clock()
        for row in self._pipeline.reconciler.shared:
            if isinstance(row, (AddressRow, RouteRow)):
                self._pipeline.reconciler.shared.retry.mark_suspect(row, now)

    def _start(self, now: float) -> None:
        report = self._guard("start", lambda report: self._first_programming(now, report))
        self._vitals.synced(self._clock() - now, success=report is not None)
        if report is None:
            self._start_due = now + self._start_delay
            self._start_delay = min(self._start_delay * 2, RETRY_START_AFTER[1])
            return
        self._round_ended = self._clock()
        self._start_writes, self._start_seconds = report.written, self._round_ended - now
        self._settled = self._in_sync()
        # All of the cluster that is known now stays, mostly: no collection needs to look at it again.
        gc.collect()
        gc.freeze()
        log.info(
            "%s: %s (%d writes, %.2f s)",
            "in sync" if self._settled else "programmed, but not all of it",
            totals_text(self._pipeline),
            report.written,
            self._start_seconds,
        )

    def _first_programming(self, now: float, report: Report) -> None:
        """Sets, then the rules that ask them, then everything else: no address is bound that is not protected."""
        if not self._rules_installed:
            self._tables.prepare()
            if reuse := self._backend.conn_reuse():
                log.info("conn_reuse_mode is %s on kernel %s: %s", reuse.value, reuse.kernel, reuse.reason)
            self._learn([("packet rules", (*self._rules.install(), *self._backend.after_rules_installed()))])
            self._rules_installed = True
        try:
            self._pipeline.begin(now, report)
        finally:
            self._rules.after_programming()

    def _in_sync(self) -> bool:
        return in_sync(self._pipeline) and not self._backend.rules_pending

    def _log_settled(self) -> None:
        settled = in_sync(self._pipeline) and (self._settled or not self._backend.rules_pending)
        if settled and not self._settled:
            log.info("in sync again")
        self._settled = settled

    def _look(self, now: float) -> None:
        """Once a second: connections of what drains, sizes of sets, the next slice of the audit. A table that cannot
        be read keeps nobody from looking at the others."""
        pipeline = self._pipeline
        if now >= self._host_due:
            self._host_due = now + LOOK_AT_HOST_EVERY
            self._guard("host", self._look_at_host)
        self._guard("packet rules", lambda report: report.findings.extend(self._rules.look(now)))
        self._guard("connections", lambda report: pipeline.audit.poll_drains(POLLED_AT_ONCE, now))
        self._guard("sets", lambda report: pipeline.reconciler.shared.check_sizes(now))
        self._guard("routes", lambda report: pipeline.reconciler.shared.check_routes(now))
        count = self._pace.count(len(pipeline.desired), LOOK_EVERY)
        began = self._clock()
        self._guard("audit", lambda report: pipeline.audit.look(count, now, report))
        self._pace.took(count, self._clock() - began)

    def _look_at_host(self, report: Report) -> None:
        """What is wrong with the host; settings last, as reading its interfaces may fail."""
        if self._backend.unset_limits:
            self._backend.set_limits()
        self._pipeline.ask_for_schedulers()
        self._learn([("limits", self._backend.unset_limits), *self._reconfiguration.retry(self._clock())])
        families = {server_id.family for server_id in self._pipeline.desired}
        self._learn([("ledger", self._backend.ledger_findings()), ("host", tuple(host.host_findings(families)))])
        kept, changed = self._backend.keep_settings(self._clock())
        report.findings.append(("settings", tuple(kept)))
        if changed:
            self._drift["sysctl"] += len(changed)
            log.warning("drift (sysctl): put back %s", ", ".join(changed))

    def _guard(self, name: str, work: Callable[[Report], object]) -> Report | None:
        """Do work on the kernel; None if a table as a whole could not be read or made. The loop goes on, and what the
        work had to say before it broke off is not lost."""
        report = Report()
        trouble: tuple[Finding, ...] = ()
        try:
            work(report)
        except (KernelError, StartError) as error:
            trouble = (Finding(FindingKind.HOST, "kernel", str(error), severity=Severity.ERROR),)
            self._failing.add(name)
        else:
            self._failing.discard(name)
        self._learn([*report.findings, (("tables", name), trouble)])
        self._drift.update(drift.kind for drift in report.drift)
        log_drift(report.drift)
        self._udp_changed(report.udp)
        return None if trouble else report

    def _learn(self, origins: Origins) -> None:
        self._vitals.found(*learn(self._book, origins))

    def _readings(self) -> Readings:
        return Readings(
            totals=totals_of(self._pipeline),
            in_sync=self._in_sync(),
            backend=self._backend.name,
            node=self._config.node_name,
            ops_written=self._tables.ops_written,
            rows_read=self._tables.rows_read,
            drift=dict(self._drift),
            findings=dict(Counter((f.kind.value, f.severity.value) for f in self._book.current())),
            no_local_endpoints=without_local_endpoints(self._pipeline),
        )

    def _snapshot(self) -> Snapshot:
        now = self._clock()
        return Snapshot(
            version=__version__,
            pid=os.getpid(),
            node=self._config.node_name,
            backend=self._backend.name,
            interface=self._config.interface,
            source=self._source_view(),
            uptime=now - self._born,
            in_sync=self._in_sync(),
            seconds_since_change=None if self._changed_at is None else now - self._changed_at,
            start_writes=self._start_writes,
            start_seconds=self._start_seconds,
            ops_written=self._tables.ops_written,
            rows_read=self._tables.rows_read,
            drift=dict(self._drift),
            programming=self._vitals.metrics.programming,
            totals=totals_of(self._pipeline),
            virtual_servers=server_views(self._pipeline, now),
            findings=tuple(self._book.current()),
            conn_reuse=self._backend.conn_reuse(),
        )
