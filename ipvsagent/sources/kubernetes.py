"""Follows the Kubernetes API as a source: one thread for each kind, and one `Mirror` for what all of them receive.

Losing the server changes nothing: the last state stays in use and its age is reported. Once the server is back, only
differences are delivered.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

import msgspec

from ipvsagent.api.credentials import REMEDY, SERVICE_ACCOUNT, credential_source, refuse_cluster_ip, require_usable
from ipvsagent.api.event_writer import EventTransport
from ipvsagent.api.resources import RESOURCES
from ipvsagent.api.transport import ApiTransport
from ipvsagent.cluster.mirror import Mirror
from ipvsagent.cluster.objects import BlindSpots, Changes, Object, ObjectKey, Service
from ipvsagent.cluster.watch_events import Deleted, Put
from ipvsagent.config import Config
from ipvsagent.errors import SourceError, StartError
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.sources.follow import Follower, Transport
from ipvsagent.sources.inbox import Findings, Inbox
from ipvsagent.sources.view import KindView, SourceView
from ipvsagent.sources.watch import Listed, Output, Reflector, Trouble

log = logging.getLogger("ipvsagent")

PATIENCE = 15.0
"""Seconds for which `plan` and `run --once` wait for a server that refuses or does not answer."""
LOAD_LIMIT = 300.0
"""Seconds for which they wait in all, for a server whose answers do not end."""
SILENCE = 2.0
"""Seconds after which they log that they are waiting."""
LOOK_EVERY = 1.0


def api_source(config: Config) -> ApiSource:
    """Return the source for a configuration and the environment. Raises ConfigError, SourceError, StartError."""
    credentials = credential_source(config.kubeconfig, config.master, os.environ, service_account=SERVICE_ACCOUNT)
    if not config.allow_api_by_cluster_ip:
        refuse_cluster_ip(credentials, os.environ)
    server = require_usable(credentials, os.environ)
    transport = ApiTransport(credentials, os.environ, time.monotonic)
    return ApiSource(
        transport,
        lambda: transport.server or server,
        event_transport=transport,
        allow_empty=config.allow_empty,
        allow_cluster_ip=config.allow_api_by_cluster_ip,
    )


class ApiSource:
    """Follows Services, EndpointSlices and this Node. server: returns the server's address, for people."""

    def __init__(
        self,
        transport: Transport,
        server: Callable[[], str],
        *,
        event_transport: EventTransport | None = None,
        allow_empty: bool = False,
        allow_cluster_ip: bool = False,
    ) -> None:
        self.event_transport = event_transport
        self._transport = transport
        self._server = server
        self._allow_cluster_ip = allow_cluster_ip
        self._mirror = Mirror(allow_empty=allow_empty)
        self._lock = threading.Lock()
        self._unlisted = set(RESOURCES)
        self._reflectors = {kind: Reflector(kind) for kind in RESOURCES}
        self._followers: dict[str, Follower] = {}
        self._troubles: dict[str, tuple[Trouble, float]] = {}
        self._blind: BlindSpots | None = None

    def run(self, inbox: Inbox, stop: threading.Event) -> None:
        """Follow all kinds until about a second after `stop`, or until one of them fails for good."""
        plurals = ", ".join(resource.plural for resource in RESOURCES.values())
        log.info("asking API server %s for %s, until it answers", self._server(), plurals)
        failed = threading.Event()
        self._followers = {kind: self._follower(kind, inbox, stop) for kind in RESOURCES}

        def follow(follower: Follower) -> None:
            try:
                follower.run()
            except Exception as error:
                inbox.put(error)
                failed.set()

        threads = [
            threading.Thread(target=follow, args=(each,), name=f"follow {kind}", daemon=True)
            for kind, each in self._followers.items()
        ]
        for thread in threads:
            thread.start()
        while not stop.wait(LOOK_EVERY) and not failed.is_set():
            for follower in self._followers.values():
                follower.check()
            self._report_troubles(inbox)
        for follower in self._followers.values():
            follower.interrupt()
        for thread in threads:
            thread.join(LOOK_EVERY)

    def load_once(self) -> tuple[Changes, list[Finding]]:
        inbox, stop = Inbox(), threading.Event()
        thread = threading.Thread(target=self.run, args=(inbox, stop), name="source", daemon=True)
        thread.start()
        upserts: dict[ObjectKey, Object] = {}
        findings: dict[str, tuple[Finding, ...]] = {}
        changes = Changes()
        patience: float | None = None
        began = time.monotonic()
        limit = began + LOAD_LIMIT
        reported = False
        try:
            while not changes.synced:
                for message in inbox.take(0.2):
                    if isinstance(message, Exception):
                        raise message
                    if isinstance(message, Findings):
                        findings[message.origin] = message.findings
                    elif isinstance(message, Changes):
                        changes = message
                        for item in message.upserts:
                            upserts[item.key] = item
                        for key in message.removals:
                            upserts.pop(key, None)
                if not reported and time.monotonic() > began + SILENCE:
                    reported = True
                    why = "; ".join({trouble.reason for trouble, _ in self._troubles.values()}) or "no answer yet"
                    log.warning("API server %s: %s; trying again", self._server(), why)
                if time.monotonic() > limit:
                    missing = ", ".join(RESOURCES[kind].plural for kind in RESOURCES if kind in self._unlisted)
                    server = f"API server {self._server()}".rstrip()
                    raise SourceError(f"{server}: no complete list of {missing} within {LOAD_LIMIT:.0f} s")
                if not self._troubles:
                    patience = None
                elif patience is None:
                    patience = time.monotonic() + PATIENCE
                elif time.monotonic() > patience:
                    raise SourceError("; ".join(f"{each.subject}: {each.reason}" for each in findings["api"]))
        finally:
            stop.set()
        with self._lock:
            blind = self._blind
        changes = Changes(upserts=tuple(upserts.values()), synced=True, blind=blind)
        return changes, [finding for group in findings.values() for finding in group]

    def view(self) -> SourceView:
        now = time.monotonic()
        kinds = []
        for kind, each in self._reflectors.items():
            heard = None if each.heard_at is None else max(0.0, now - each.heard_at)
            kinds.append(
                KindView(kind, each.state.value, each.connected, heard, each.version, each.requests, each.lists)
            )
        return SourceView(self._server(), not self._unlisted, tuple(kinds))

    def _follower(self, kind: str, inbox: Inbox, stop: threading.Event) -> Follower:
        return Follower(
            self._reflectors[kind],
            self._transport,
            lambda outputs: self._deliver(kind, outputs, inbox),
            stopped=stop.is_set,
            sleep=stop.wait,
            clock=time.monotonic,
            chance=random.random,
        )

    def _deliver(self, kind: str, outputs: list[Output], inbox: Inbox) -> None:
        """Put what one answer contained into the inbox as one message, in the order in which the kinds' threads
        call."""
        with self._lock:
            first = False
            triggers = []
            for output in outputs:
                if isinstance(output, Listed):
                    self._mirror.replace(kind, output.objects)
                    first = first or kind in self._unlisted
                    self._unlisted.discard(kind)
                elif isinstance(output, Put):
                    if self._mirror.put(output.decoded) and output.triggered is not None:
                        triggers.append(output.triggered)
                elif isinstance(output, Deleted):
                    self._mirror.delete(output.key)
            update = self._mirror.take()
            changes = msgspec.structs.replace(update.changes, synced=not self._unlisted, triggered=tuple(triggers))
            self._blind = changes.blind or self._blind
            if first and kind == "Service" and not self._allow_cluster_ip:
                self._refuse_cluster_ip(changes)
            if first or changes.upserts or changes.removals or changes.blind is not None:
                inbox.put(changes)
            for origin, findings in update.findings.items():
                inbox.put(Findings(f"api {origin}", findings))

    def _refuse_cluster_ip(self, changes: Changes) -> None:
        addresses = _addresses_of(urlsplit(self._server()).hostname or "")
        for item in changes.upserts:
            if isinstance(item, Service) and (item.namespace, item.name) == ("default", "kubernetes"):
                for address in addresses.intersection(item.cluster_ips):
                    raise StartError(
                        f"the API server is reached at {address}, the cluster IP of default/kubernetes, which works "
                        "only with the rules that this agent makes",
                        REMEDY,
                    )

    def _report_troubles(self, inbox: Inbox) -> None:
        """Report one finding for all kinds that have the same trouble. Once everything has been listed, a first failure
        is not reported."""
        now: dict[str, tuple[Trouble, float]] = {}
        for kind, follower in self._followers.items():
            trouble = follower.trouble
            if trouble and (follower.failures > 1 or self._unlisted or 400 <= trouble.status < 500):
                now[kind] = (trouble, self._troubles.get(kind, (trouble, time.time()))[1])
        if now == self._troubles:
            return
        self._troubles = now
        inbox.put(Findings("api", tuple(self._findings_of(now))))

    def _findings_of(self, troubles: dict[str, tuple[Trouble, float]]) -> list[Finding]:
        by_reason: dict[str, list[str]] = {}
        for kind, (trouble, _) in troubles.items():
            by_reason.setdefault(_advice(kind, trouble), []).append(kind)
        findings = []
        for reason, kinds in by_reason.items():
            since = min(troubles[kind][1] for kind in kinds)
            when = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            plurals = ", ".join(RESOURCES[kind].plural for kind in kinds)
            meanwhile = "nothing is programmed yet" if self._unlisted else "what was known before stays in use"
            text = f"{plurals} cannot be read since {when}: {reason}; {meanwhile}"
            subject = f"API server {self._server()}".rstrip()
            findings.append(Finding(FindingKind.API_UNREACHABLE, subject, text, severity=Severity.ERROR))
        return findings


def _advice(kind: str, trouble: Trouble) -> str:
    reason = trouble.reason
    if trouble.status == 401:
        return f"{reason}; it does not accept our credentials: check the kubeconfig's token or certificate"
    if trouble.status == 403:
        plural = RESOURCES[kind].plural
        return f"{reason}; allow our user to list and watch {plural}, as ClusterRole system:node-proxier does"
    return reason


def _addresses_of(host: str) -> set[str]:
    """Return the addresses of a host name or of an address itself; empty if it cannot be resolved."""
    try:
        return {str(ipaddress.ip_address(host))}
    except ValueError:
        pass
    try:
        return {str(ipaddress.ip_address(entry[4][0])) for entry in socket.getaddrinfo(host, None)}
    except (OSError, ValueError):
        return set()
