"""The running agent: composition root, main loop, and the only module that starts threads.

One thread, the loop's, owns all state and every kernel handle it writes with. A source thread, the address monitor and
the status server only put messages into the inbox. A signal is a message too. Nothing is undone at
exit: traffic must outlive the agent.
"""

from __future__ import annotations

import logging
import math
import os
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType

import msgspec

from ipvsagent import __version__
from ipvsagent.cluster.objects import Changes
from ipvsagent.config import Config
from ipvsagent.errors import KernelError, SourceError, StartError
from ipvsagent.findings import Finding, FindingBook, FindingKind, Severity
from ipvsagent.kernel import host
from ipvsagent.kernel.addresses import is_ipv6_link_local
from ipvsagent.kernel.monitor import AddressChange, AddressMonitor, LinkChange, Overflow
from ipvsagent.node import Node, pipeline_for
from ipvsagent.packet_filter import PacketFilter
from ipvsagent.pipeline import Origins, Pipeline
from ipvsagent.reconcile.report import Report
from ipvsagent.rows import AddressRow
from ipvsagent.sources.inbox import Findings, Inbox
from ipvsagent.sources.manifests import ManifestSource
from ipvsagent.status import socket as status_socket
from ipvsagent.status.snapshot import Snapshot, in_sync, server_views, totals_of

log = logging.getLogger("ipvsagent")

LOOK_EVERY = 1.0
LOOK_AT_RULES_EVERY = 1.0
LOOK_AT_HOST_EVERY = 10.0
POLLED_AT_ONCE = 64
FAST_PASS = 5.0
SLOW_PASS = 300.0
RETRY_START_AFTER = (1.0, 30.0)
LOGGED_DRIFT = 10


def learn(book: FindingBook, origins: Origins) -> None:
    """Note what was found, and log what is new and what is over."""
    for origin, findings in origins:
        appeared, cleared = book.replace(origin, findings)
        for finding in appeared:
            log.log(logging.ERROR if finding.severity is Severity.ERROR else logging.WARNING, "%s", finding)
        for finding in cleared:
            log.info("no longer so: %s", finding)


def apply_once(config: Config, node: Node) -> bool:
    """Make the kernel as the source wants it now; False if the kernel refused something.

    Raises SourceError, KernelError and StartError.
    """
    began = time.monotonic()
    book = FindingBook()
    backend = node.backend()
    backend.prepare()
    PacketFilter(config).install()
    pipeline = pipeline_for(config, backend, window=0, scheduler_works=node.scheduler_works)
    pipeline.node_addresses(node.addresses.node_addresses())
    changes, findings = ManifestSource(config.sources, allow_empty=config.allow_empty).load_once()
    learn(book, [("source", tuple(findings)), *pipeline.take(changes, began)])
    report = pipeline.begin(began)
    learn(book, report.findings)
    log.info(
        "%s: %s (%d writes, %.2f s)",
        "applied, with failures" if report.failures else "applied",
        totals_text(pipeline),
        report.written,
        time.monotonic() - began,
    )
    return not report.failures


def audit_count(servers: int) -> int:
    """Virtual servers that one look of the audit reads: a pass takes 5 s when they are few, and at most 5 minutes."""
    return max(math.ceil(servers * LOOK_EVERY / SLOW_PASS), min(servers, math.ceil(100 * LOOK_EVERY / FAST_PASS)), 1)


def totals_text(pipeline: Pipeline) -> str:
    totals = totals_of(pipeline)
    return f"{totals.services} Services, {totals.virtual_servers} virtual servers, {totals.real_servers} real servers"


class RulesRepaired(msgspec.Struct, frozen=True):
    """Somebody changed our packet rules, and they are as they should be again."""

    differences: int


class Stop(msgspec.Struct, frozen=True):
    """End the loop; `reason` is logged."""

    reason: str


class Agent:
    """Built on a prepared node whose lock is held; `run` returns when told to stop."""

    def __init__(self, config: Config, node: Node, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._node = node
        self._backend = node.backend()
        self._clock = clock
        self._inbox = Inbox()
        self._book = FindingBook()
        self._pipeline = pipeline_for(config, self._backend, window=config.window, scheduler_works=node.scheduler_works)
        self._stop = threading.Event()
        self._born = clock()
        self._changed_at: float | None = None
        self._round_ended = float("-inf")
        self._start_due = 0.0
        self._start_delay = RETRY_START_AFTER[0]
        self._look_due = 0.0
        self._host_due = 0.0
        self._start_writes = 0
        self._start_seconds = 0.0
        self._settled = False
        self._rules: PacketFilter | None = None
        self._drift: Counter[str] = Counter()

    def run(self) -> None:
        """Follow the source until SIGTERM or SIGINT. Raises SourceError if a source is not there at all."""
        monitor = AddressMonitor()
        self._learn_addresses()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        source = ManifestSource(self._config.sources, allow_empty=self._config.allow_empty)
        threads = [
            threading.Thread(target=self._watch, args=(source,), name="source", daemon=True),
            threading.Thread(target=self._monitor, args=(monitor,), name="addresses", daemon=True),
        ]
        for thread in threads:
            thread.start()
        status_socket.serve(self._node.socket_path, self._inbox, self._stop)
        try:
            while self._turn():
                pass
        finally:
            self._stop.set()
            self._node.socket_path.unlink(missing_ok=True)

    # The loop

    def _turn(self) -> bool:
        """Wait for messages or the next deadline, then do what is due. False = stop."""
        wait = self._wake_at() - self._clock()
        messages = self._inbox.take(None if wait == float("inf") else max(0.0, wait))
        addresses_moved = False
        for message in messages:
            if isinstance(message, Stop):
                log.info("stopping (%s); what is programmed stays", message.reason)
                return False
            if isinstance(message, BaseException):
                raise message
            addresses_moved |= self._take(message)
        if addresses_moved:
            self._guard(self._learn_addresses)
        now = self._clock()
        if not self._pipeline.reconciler.started:
            if self._pipeline.table.synced and now >= self._start_due:
                self._start(now)
            return True
        due = self._pipeline.next_due()
        if due is not None and max(due, self._round_ended + self._config.window) <= now:
            self._guard(lambda: self._pipeline.round(now))
            self._round_ended = self._clock()
            self._say_settled()
        if now >= self._look_due:
            self._look_due = now + LOOK_EVERY
            self._guard(lambda: self._look(now))
        return True

    def _wake_at(self) -> float:
        if not self._pipeline.reconciler.started:
            return self._start_due if self._pipeline.table.synced else float("inf")
        wake = self._look_due
        due = self._pipeline.next_due()
        return wake if due is None else min(wake, max(due, self._round_ended + self._config.window))

    def _take(self, message: object) -> bool:
        """True if this node's other addresses may have changed."""
        if isinstance(message, Changes):
            now = self._clock()
            self._changed_at = now
            self._learn(self._pipeline.take(message, now))
        elif isinstance(message, Findings):
            self._learn([(message.origin, message.findings)])
        elif isinstance(message, AddressChange) and message.interface == self._config.interface:
            self._pipeline.reconciler.shared_changed(AddressRow(message.address), message.present, self._clock())
        elif isinstance(message, AddressChange) and not is_ipv6_link_local(message.address):
            return message.present != self._pipeline.has_interface_address(message.address)
        elif isinstance(message, LinkChange):
            if message.interface == self._config.interface and not message.present:
                self._doubt_addresses()
        elif isinstance(message, Overflow):
            self._doubt_addresses()
            return True
        elif isinstance(message, RulesRepaired):
            self._drift["rules"] += message.differences
            log.warning("drift: packet rules were changed by somebody; %d differences repaired", message.differences)
        elif isinstance(message, status_socket.Query):
            message.answer.put(self._snapshot())
        return False

    def _learn_addresses(self) -> None:
        self._learn(self._pipeline.node_addresses(self._node.addresses.node_addresses()))

    def _doubt_addresses(self) -> None:
        now = self._clock()
        for row in self._pipeline.reconciler.shared:
            if isinstance(row, AddressRow):
                self._pipeline.reconciler.shared.retry.doubt(row, now)

    def _start(self, now: float) -> None:
        report = self._guard(lambda: self._first_programming(now))
        if report is None:
            self._start_due = now + self._start_delay
            self._start_delay = min(self._start_delay * 2, RETRY_START_AFTER[1])
            return
        self._round_ended = self._clock()
        self._start_writes, self._start_seconds = report.written, self._round_ended - now
        self._settled = in_sync(self._pipeline)
        log.info(
            "%s: %s (%d writes, %.2f s)",
            "in sync" if self._settled else "programmed, but not all of it",
            totals_text(self._pipeline),
            report.written,
            self._start_seconds,
        )

    def _first_programming(self, now: float) -> Report:
        """Sets, then the rules that ask them, then everything else: no address is bound that is not protected."""
        if self._rules is None:
            self._backend.prepare()
            rules = PacketFilter(self._config)
            rules.install()
            self._rules = rules
            self._learn([("packet rules", tuple(rules.findings()))])
            log.info("packet rules: %s iptables (%s)", rules.variant.mode, rules.variant.reason)
            threading.Thread(target=self._keep_rules, args=(rules,), name="rules", daemon=True).start()
        return self._pipeline.begin(now)

    def _say_settled(self) -> None:
        settled = in_sync(self._pipeline)
        if settled and not self._settled:
            log.info("in sync again")
        self._settled = settled

    def _look(self, now: float) -> Report:
        """Once a second: connections of what drains, sizes of sets, the next slice of the audit."""
        reconciler = self._pipeline.reconciler
        if now >= self._host_due:
            self._host_due = now + LOOK_AT_HOST_EVERY
            self._look_at_host()
        reconciler.poll_drains(POLLED_AT_ONCE, now)
        reconciler.shared.check_sizes(now)
        return reconciler.audit(audit_count(len(self._pipeline.desired)), now)

    def _look_at_host(self) -> None:
        """What is wrong with the host, and left to its operator."""
        families = {server_id.family for server_id in self._pipeline.desired}
        self._learn([("host", tuple(host.host_findings(families)))])
        fault = self._node.ownership.ledger.fault
        findings: tuple[Finding, ...] = ()
        if fault:
            reason = (
                f"cannot be written ({fault.strerror}); after a restart, virtual servers on node addresses look foreign"
            )
            findings = (Finding(FindingKind.HOST, str(self._node.ledger_path), reason, severity=Severity.ERROR),)
        self._learn([("ledger", findings)])

    def _guard(self, work: Callable[[], Report | None]) -> Report | None:
        """Do work on the kernel; None if a table as a whole could not be read or made. The loop goes on."""
        try:
            report = work()
        except (KernelError, StartError) as error:
            finding = Finding(FindingKind.HOST, "kernel", str(error), severity=Severity.ERROR)
            self._learn([("tables", (finding,))])
            return None
        self._learn([("tables", ())])
        if report is None:
            return None
        self._learn(report.findings)
        self._drift.update(drift.kind for drift in report.drift)
        for drift in report.drift[:LOGGED_DRIFT]:
            log.warning("drift (%s): repaired by `%s`", drift.kind, drift.op)
        if len(report.drift) > LOGGED_DRIFT:
            log.warning("drift: %d more rows differed and were repaired", len(report.drift) - LOGGED_DRIFT)
        return report

    def _learn(self, origins: Origins) -> None:
        learn(self._book, origins)

    def _snapshot(self) -> Snapshot:
        now = self._clock()
        return Snapshot(
            version=__version__,
            pid=os.getpid(),
            node=self._config.node_name,
            backend="ipvs",
            interface=self._config.interface,
            uptime=now - self._born,
            in_sync=in_sync(self._pipeline),
            seconds_since_change=None if self._changed_at is None else now - self._changed_at,
            start_writes=self._start_writes,
            start_seconds=self._start_seconds,
            ops_written=self._backend.ops_written,
            rows_read=self._backend.rows_read,
            drift=dict(self._drift),
            totals=totals_of(self._pipeline),
            virtual_servers=server_views(self._pipeline, now),
            findings=tuple(self._book.current()),
        )

    # Threads; each talks to the inbox alone

    def _watch(self, source: ManifestSource) -> None:
        try:
            source.run(self._inbox, self._stop)
        except SourceError as error:
            self._inbox.put(error)
        except Exception as error:  # a bug: the loop must end, and its supervisor start it afresh
            self._inbox.put(error)

    def _keep_rules(self, rules: PacketFilter) -> None:
        """Rules that somebody changed come back, and this thread alone waits for the lock of iptables."""
        try:
            said: list[Finding] = rules.findings()
            while not self._stop.wait(LOOK_AT_RULES_EVERY):
                try:
                    repaired = rules.repair()
                    findings = rules.findings()
                except (KernelError, StartError) as error:
                    reason = f"{error}; tried again"
                    repaired = 0
                    findings = [Finding(FindingKind.HOST, "packet rules", reason, severity=Severity.ERROR)]
                if repaired:
                    self._inbox.put(RulesRepaired(repaired))
                if findings != said:
                    said = findings
                    self._inbox.put(Findings("packet rules", tuple(said)))
        except Exception as error:
            self._inbox.put(error)

    def _monitor(self, monitor: AddressMonitor) -> None:
        try:
            while not self._stop.is_set():
                select.select([monitor], [], [])
                for change in monitor.read():
                    self._inbox.put(change)
        except Exception as error:
            self._inbox.put(error)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._inbox.put(Stop(signal.Signals(number).name))
