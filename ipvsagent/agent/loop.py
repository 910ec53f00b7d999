"""Runs the main loop, which decides what an agent does with messages and with time.

It owns all state and every handle that writes virtual servers, addresses and members of sets. What other threads know
reaches it through the inbox, and it starts no thread itself.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from ipvsagent.agent.deadlines import HOST_LOOK_EVERY, LOOK_EVERY, NEVER, READ_AGAIN_AFTER, Deadlines
from ipvsagent.agent.host_look import HostLook
from ipvsagent.agent.log import totals_text
from ipvsagent.agent.packet_rules import RulesRepaired
from ipvsagent.agent.reconfiguration import Reconfiguration
from ipvsagent.agent.recorder import Recorder
from ipvsagent.agent.self_report import SelfReport
from ipvsagent.backends.backend import Backend
from ipvsagent.cluster.objects import Changes
from ipvsagent.config import Config
from ipvsagent.findings import Finding
from ipvsagent.kernel.addresses import is_ipv6_link_local
from ipvsagent.kernel.monitor import AddressChange, LinkChange, Overflow
from ipvsagent.model import VirtualServer
from ipvsagent.monitoring.metrics import MetricsQuery
from ipvsagent.monitoring.vitals import BEAT_EVERY, Vitals
from ipvsagent.pipeline import Origins
from ipvsagent.reconcile.audit import Pace
from ipvsagent.reconcile.report import Report
from ipvsagent.rows import AddressRow, RouteRow
from ipvsagent.sources.configuration import NewConfig
from ipvsagent.sources.inbox import Findings, Inbox
from ipvsagent.sources.view import SourceView
from ipvsagent.status import socket as status_socket
from ipvsagent.status.snapshot import in_sync

log = logging.getLogger("ipvsagent")

POLLED_AT_ONCE = 64
"""The maximum number of virtual servers whose connections one look reads."""


class Stop(Struct, frozen=True):
    """Ends the loop; `reason` is logged."""

    reason: str


class Rules(Protocol):
    """Lets the loop drive the packet rules; see `PacketRules` for what each call does and raises."""

    def install(self) -> Sequence[Finding]: ...

    def after_programming(self) -> None: ...

    def look(self, now: float) -> Origins: ...


class Loop:
    """Owns the pipeline and every handle that writes what it computes; `turn` does what is due."""

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
        UDP virtual servers whose real servers have changed; must not block."""
        self._interface = config.interface
        self._backend = backend
        self._inbox = inbox
        self._vitals = vitals
        self._rules = rules
        self._clock = clock
        self._tables = backend.kernel_tables()
        self._pipeline = backend.pipeline(self._tables, window=config.window)
        self._deadlines = Deadlines(config.window)
        self._pace = Pace()
        self._recorder = Recorder(vitals, udp_changed)
        self._reconfiguration = Reconfiguration(config, backend, self._pipeline, configure)
        self._host = HostLook(backend, self._pipeline, self._reconfiguration, self._recorder, clock)
        self._self_report = SelfReport(
            config, backend, self._tables, self._pipeline, self._recorder, vitals.metrics, source_view, clock()
        )
        self._rules_installed = False
        self._was_in_sync = False
        self._has_been_in_sync = False
        self._may_have_odd_addresses = False  # bound by another program, with other attributes than ours
        self._handlers: dict[type, Callable[[Any], None]] = {
            Changes: self._on_changes,
            Findings: self._on_findings,
            NewConfig: self._on_new_config,
            AddressChange: self._on_address_change,
            LinkChange: self._on_link_change,
            Overflow: self._on_overflow,
            RulesRepaired: self._on_rules_repaired,
            status_socket.Query: self._on_status_query,
            MetricsQuery: self._on_metrics_query,
        }
        self._recorder.record([("backend", backend.findings)])

    @property
    def started(self) -> bool:
        """Return whether Services are served. Any thread may ask."""
        return self._pipeline.reconciler.started

    def turn(self) -> bool:
        """Wait for messages or the next deadline, then do what is due. Return False when the loop must end.

        Raises an exception that another thread sent as a message.
        """
        goes_on = self._handle_messages()
        if goes_on:
            self._do_what_is_due()
        self._vitals.report_state(self._pipeline, failing=self._recorder.failing)
        return goes_on

    def _handle_messages(self) -> bool:
        wait = self._deadlines.next(self._pipeline) - self._clock()
        messages = self._inbox.take(max(0.0, min(wait, BEAT_EVERY)))
        self._vitals.heartbeat()
        for message in messages:
            if isinstance(message, Stop):
                log.info("stopping (%s), leaving the kernel state in place", message.reason)
                return False
            if isinstance(message, BaseException):
                raise message
            self._handlers[type(message)](message)
        return True

    def _do_what_is_due(self) -> None:
        deadlines = self._deadlines
        if self._may_have_odd_addresses:
            self._recorder.attempt("odd addresses", lambda report: self._repair_addresses())
        now = self._clock()
        if now >= deadlines.node_addresses:
            self._refresh_node_addresses(now)
        if not self.started:
            if now >= deadlines.next_start(self._pipeline):
                self._start(now)
            return
        if now >= deadlines.next_round(self._pipeline):
            self._round(now)
        if now >= deadlines.look:
            deadlines.look = now + LOOK_EVERY
            self._look(now)

    # Messages

    def _on_changes(self, changes: Changes) -> None:
        now = self._clock()
        self._self_report.changed_at = now
        self._vitals.changed(changes)
        self._recorder.record(self._pipeline.apply_changes(changes, now))

    def _on_findings(self, message: Findings) -> None:
        self._recorder.record([(message.origin, message.findings)])

    def _on_new_config(self, message: NewConfig) -> None:
        self._deadlines.look = self._clock()
        self._recorder.record(self._reconfiguration.apply(message, self._deadlines.look))

    def _on_address_change(self, change: AddressChange) -> None:
        if change.interface == self._interface:
            self._may_have_odd_addresses |= change.odd
            self._pipeline.reconciler.shared_changed(AddressRow(change.address), change.present, self._clock())
        elif is_ipv6_link_local(change.address):
            return
        elif change.present != self._pipeline.has_interface_address(change.address):
            self._deadlines.node_addresses = self._clock()

    def _on_link_change(self, change: LinkChange) -> None:
        if change.interface == self._interface and not change.present:
            self._mark_addresses_and_routes_suspect()

    def _on_overflow(self, _: Overflow) -> None:
        self._mark_addresses_and_routes_suspect()
        self._deadlines.node_addresses = self._clock()

    def _on_rules_repaired(self, message: RulesRepaired) -> None:
        self._recorder.drift["rules"] += message.differences
        count = message.differences
        plural = "" if count == 1 else "s"
        log.warning("repaired %d packet-rule difference%s: another program changed our rules", count, plural)

    def _on_status_query(self, query: status_socket.Query) -> None:
        query.answer.put(self._self_report.snapshot(self._clock()))

    def _on_metrics_query(self, query: MetricsQuery) -> None:
        query.answer.put(self._self_report.readings())

    # Addresses

    def _refresh_node_addresses(self, now: float) -> None:
        """Read the addresses on interfaces other than ours; on failure, retry shortly."""

        def read(report: Report) -> None:
            report.findings += self._pipeline.set_node_addresses(self._backend.node_addresses())

        report = self._recorder.attempt("node addresses", read)
        self._deadlines.node_addresses = now + READ_AGAIN_AFTER if report is None else NEVER

    def _repair_addresses(self) -> None:
        count = self._backend.repair_addresses()
        self._may_have_odd_addresses = False
        if count:
            self._recorder.drift["edited"] += count
            log.warning(
                "repaired drift (edited): addresses whose binding made this node answer ARP for them: %d", count
            )

    def _mark_addresses_and_routes_suspect(self) -> None:
        self._may_have_odd_addresses = True
        now = self._clock()
        shared = self._pipeline.reconciler.shared
        for row in shared:
            if isinstance(row, (AddressRow, RouteRow)):
                shared.retry.mark_suspect(row, now)

    # The first programming

    def _start(self, now: float) -> None:
        report = self._recorder.attempt("start", lambda report: self._program(now, report))
        ended = self._clock()
        self._vitals.round_ended(ended - now, success=report is not None)
        if report is None:
            self._deadlines.start_failed(now)
            return
        self._deadlines.last_round = ended
        self._self_report.start_writes, self._self_report.start_seconds = report.written, ended - now
        self._was_in_sync = self._has_been_in_sync = self._self_report.in_sync()
        # Most of what is known of the cluster now stays: no later collection needs to look at it.
        gc.collect()
        gc.freeze()
        log.info(
            "%s: %s (%d writes, %.2f s)",
            "in sync" if self._was_in_sync else "partially programmed",
            totals_text(self._pipeline),
            report.written,
            ended - now,
        )

    def _program(self, now: float, report: Report) -> None:
        """Program sets, then the rules that refer to them, then everything else: no address is bound unprotected."""
        if not self._rules_installed:
            self._tables.prepare()
            if reuse := self._backend.conn_reuse():
                log.info("conn_reuse_mode is %s on kernel %s: %s", reuse.value, reuse.kernel, reuse.reason)
            findings = (*self._rules.install(), *self._backend.after_rules_installed())
            self._recorder.record([("packet rules", findings)])
            self._rules_installed = True
        try:
            self._pipeline.begin(now, report)
        finally:
            self._rules.after_programming()

    # Rounds and looks

    def _round(self, now: float) -> None:
        report = self._recorder.attempt("round", lambda report: self._pipeline.round(now, report))
        ended = self._deadlines.last_round = self._clock()
        self._vitals.round_ended(ended - now, success=report is not None)
        synced = in_sync(self._pipeline) and (self._was_in_sync or not self._backend.rules_pending)
        if synced and not self._was_in_sync:
            log.info("in sync again" if self._has_been_in_sync else "in sync")
            self._has_been_in_sync = True
        self._was_in_sync = synced

    def _look(self, now: float) -> None:
        """Look at the host, packet rules, draining real servers, set sizes and routes, then audit the next batch. One
        unreadable table does not stop the others."""
        attempt, audit, shared = self._recorder.attempt, self._pipeline.audit, self._pipeline.reconciler.shared
        if now >= self._deadlines.host:
            self._deadlines.host = now + HOST_LOOK_EVERY
            attempt("host", self._host.look)
        attempt("packet rules", lambda report: report.findings.extend(self._rules.look(now)))
        attempt("connections", lambda report: audit.poll_drains(POLLED_AT_ONCE, now))
        attempt("sets", lambda report: shared.check_sizes(now))
        attempt("routes", lambda report: shared.check_routes(now))
        count = self._pace.count(len(self._pipeline.desired), LOOK_EVERY)
        began = self._clock()
        attempt("audit", lambda report: audit.look(count, now, report))
        self._pace.record(count, self._clock() - began)
