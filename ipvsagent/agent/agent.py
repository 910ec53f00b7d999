"""Runs the agent: its loop, the threads around it, and the signals that end it.

The loop's thread owns all state and every handle that writes virtual servers, addresses and members of sets. The
threads of the source, the address monitor, the packet rules, the watch for rules of kube-proxy, the UDP flows and the
status server report to it only through the inbox. A signal is a message, too. Nothing is undone at exit: traffic must
outlive the agent.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from ipvsagent import __version__
from ipvsagent.agent.loop import Loop, Stop
from ipvsagent.agent.packet_rules import PacketRules
from ipvsagent.agent.udp_flows import UdpFlows
from ipvsagent.api.event_writer import EventWriter
from ipvsagent.backends.backend import Backend
from ipvsagent.config import Config
from ipvsagent.errors import StartError
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.kernel.kube_proxy import rules as kube_proxy_rules
from ipvsagent.kernel.monitor import AddressMonitor
from ipvsagent.monitoring.server import Server
from ipvsagent.monitoring.vitals import Vitals
from ipvsagent.packet_filter.profiles import families
from ipvsagent.sources.configuration import ConfigurationFiles
from ipvsagent.sources.inbox import Findings, Inbox
from ipvsagent.sources.source import Source
from ipvsagent.status import socket as status_socket

log = logging.getLogger("ipvsagent")


class Agent:
    """Runs on a prepared node whose lock is held; `run` returns after SIGTERM or SIGINT."""

    def __init__(
        self,
        config: Config,
        backend: Backend,
        source: Source,
        files: ConfigurationFiles | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """files: the configuration files to follow, if there are any."""
        self._config = config
        self._backend = backend
        self._inbox = Inbox()
        self._server = Server(config, backend.name, families(), self._inbox.put)
        self._source = source
        self._events = self._event_writer()
        self._vitals = Vitals(self._server, os.environ, self._events)
        self._udp_flows = UdpFlows(self._server.metrics.record_flow_look)
        self._files = files
        self._stop = threading.Event()
        self._rules = PacketRules(
            backend,
            self._server.metrics.rules,
            lambda: self._loop.started,
            self._start_thread,
            self._inbox.put,
            self._stop,
        )
        self._loop = Loop(
            config,
            backend,
            self._inbox,
            self._vitals,
            self._rules,
            configure=self._configure,
            source_view=self._source.view,
            udp_changed=self._udp_flows.changed,
            clock=clock,
        )

    def run(self) -> None:
        """Follow the source until SIGTERM or SIGINT. Raises SourceError and StartError."""
        monitor = AddressMonitor()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._start_thread("source", self._watch)
        if self._events:
            events = self._events
            events.starts(f"ipvsagent {__version__} serves Services by {self._backend.name}")
            self._start_thread("events", lambda: events.run(self._stop))
        if self._files:
            files = self._files
            self._start_thread("configuration", lambda: files.run(self._inbox, self._stop))
        self._start_thread("addresses", lambda: self._monitor(monitor))
        self._start_thread("rules of kube-proxy", lambda: kube_proxy_rules.watch(self._report_leftovers, self._stop))
        self._start_thread("udp flows", lambda: self._udp_flows.run(self._inbox.put))
        status_socket.serve(self._backend.socket_path, self._inbox, self._stop)
        self._server.start()
        self._vitals.supervisor.ready()
        try:
            while self._loop.turn():
                pass
        except StartError as error:
            if self._events:
                reason = f"it cannot continue: {error}"
                self._events.last_word(Finding(FindingKind.HOST, "ipvsagent", reason, severity=Severity.ERROR))
            raise
        finally:
            self._stop.set()
            self._vitals.supervisor.stopping()
            self._server.close()
            self._backend.socket_path.unlink(missing_ok=True)

    def _configure(self, config: Config) -> None:
        self._server.configure(config)
        self._rules.configure(config)

    def _event_writer(self) -> EventWriter | None:
        transport = self._source.event_transport if self._config.events else None
        return EventWriter(transport, self._config.node_name, self._server.metrics.record_events) if transport else None

    # Threads, which only put messages into the inbox

    def _start_thread(self, name: str, work: Callable[[], None]) -> None:
        """Start a thread whose failure ends the agent, so that its supervisor starts it again."""

        def run() -> None:
            try:
                work()
            except Exception as error:
                self._inbox.put(error)

        threading.Thread(target=run, name=name, daemon=True).start()

    def _watch(self) -> None:
        self._source.run(self._inbox, self._stop)

    def _report_leftovers(self, found: tuple[Finding, ...]) -> None:
        self._inbox.put(Findings("rules of kube-proxy", found))

    def _monitor(self, monitor: AddressMonitor) -> None:
        while not self._stop.is_set():
            select.select([monitor], [], [])
            for change in monitor.read():
                self._inbox.put(change)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._inbox.put(Stop(signal.Signals(number).name))
