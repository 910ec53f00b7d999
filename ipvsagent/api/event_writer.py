"""Runs the thread that writes Events to the Kubernetes API; events/plan.py decides which, and when.

Nothing waits for Events. A server that does not accept them is asked less and less often, and failures are logged once
and counted.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from ipvsagent.api.resources import RESOURCES, Request
from ipvsagent.api.response import UNAUTHORIZED, Response, TransportError, status_of
from ipvsagent.cluster.watch_events import Status
from ipvsagent.events.event import document_of, namespace_of
from ipvsagent.events.plan import EventPlan, Outcome, Write
from ipvsagent.findings import Finding

log = logging.getLogger("ipvsagent")

TIMEOUT = 10.0
PAUSES = (5.0, 300.0)
"""Seconds of the first pause after a failure, and of the longest."""
NOT_ALLOWED_PAUSE = 600.0
_BODY_LIMIT = 4 * 1024 * 1024
_TRANSIENT = (401, 403, 408, 429)


class EventTransport(Protocol):
    """Does what an event writer needs of HTTP."""

    def get(self, request: Request) -> Response:
        """Send the request. Raises TransportError."""

    def send(
        self, method: str, request: Request, document: dict[str, Any], content_type: str = "application/json"
    ) -> Response:
        """Send a request with a document. Raises TransportError."""

    def renew(self) -> bool:
        """Read the credentials again. Return False if they are the same."""


class EventWriter:
    """Writes Events in the thread of `run`; any thread may call the other methods, which do not wait for the server.

    node: this node's name. count: called with each outcome ("dropped", and those of `Outcome`) and a number. clock:
    monotonic seconds. chance: random numbers from 0 to 1.
    """

    def __init__(
        self,
        transport: EventTransport,
        node: str,
        count: Callable[[str, int], None],
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._transport = transport
        self._node = node
        self._count = count
        self._clock = clock
        self._plan = EventPlan(node, secrets.token_hex(4), chance)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._written = threading.Event()
        self._last = ""
        self._nodes = -1
        self._pause = PAUSES[0]
        self._logged = ""

    def starts(self, text: str) -> None:
        with self._lock:
            self._plan.starts(text)

    def found(self, appeared: Sequence[Finding], cleared: Sequence[Finding]) -> None:
        if appeared or cleared:
            with self._lock:
                dropped = self._plan.found(appeared, cleared, self._clock())
            if dropped:
                self._count("dropped", dropped)
            self._wake.set()

    def last_word(self, finding: Finding, within: float = 2.0) -> None:
        """Write the finding that ends the agent; wait for it, but not for long."""
        with self._lock:
            self._last = finding.reason
        self.found([finding], [])
        self._written.wait(within)

    def set_cluster_size(self, nodes: int) -> None:
        if nodes != self._nodes:
            self._nodes = nodes
            with self._lock:
                self._plan.set_cluster_size(nodes)
            self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Write Events until `stop` is set. It may return late, as no thread waits for this one."""
        while not stop.is_set():
            self._wake.clear()
            with self._lock:
                write = self._plan.next(self._clock())
                due = self._plan.due_at()
            if write is None:
                self._wake.wait(None if due == float("inf") else max(0.0, due - self._clock()))
                continue
            outcome, pause = self._ask(write)
            with self._lock:
                self._plan.wrote(write, outcome, self._clock())
                if self._last and self._last in write.event.note:
                    self._written.set()
            self._count(outcome.value, 1)
            if pause:
                stop.wait(pause)

    def _ask(self, write: Write) -> tuple[Outcome, float]:
        """Return the outcome of a write, and how many seconds to pause after it."""
        try:
            status = self._write(write)
        except TransportError as error:
            status = Status(message=str(error))
        except Exception as error:  # an Event that cannot be written must not end the agent
            self._log_once(f"no Events are written for now: {type(error).__name__}: {error}")
            status = Status()
        if status is None:
            return Outcome.POINTLESS, 0.0
        code = status.code
        if code in (200, 201):
            self._pause = PAUSES[0]
            return (Outcome.REPEATED if write.count else Outcome.CREATED), 0.0
        if code == 409:
            return Outcome.KNOWN, 0.0
        if code == 404:
            return (Outcome.GONE if write.count else Outcome.POINTLESS), 0.0
        if code == 403 and "being terminated" in status.message:
            return Outcome.POINTLESS, 0.0
        reason = ": ".join(part for part in (f"{code or ''} {status.reason}".strip(), status.message) if part)
        if 400 <= code < 500 and code not in _TRANSIENT:
            self._log_once(f"Event {write.event.name} refused for good: {reason}")
            return Outcome.POINTLESS, 0.0
        if code == 403:
            self._log_once(
                f"no Events are written: {reason}; allow our user to create and patch events of events.k8s.io"
            )
            return Outcome.FAILED, NOT_ALLOWED_PAUSE
        if code:
            self._log_once(f"no Events are written for now: {reason}")
        else:  # the followers report trouble with the connection
            log.debug("no Events are written for now: %s", reason)
        pause, self._pause = self._pause, min(self._pause * 2, PAUSES[1])
        return Outcome.FAILED, max(pause * (0.5 + random.random()), min(status.retry_after or 0.0, PAUSES[1]))

    def _log_once(self, text: str) -> None:
        if text != self._logged:
            self._logged = text
            log.warning("%s", text)

    def _write(self, write: Write) -> Status | None:
        """Write an Event; return None if its object does not exist. Raises TransportError."""
        event = write.event
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        path = f"/apis/events.k8s.io/v1/namespaces/{namespace_of(event)}/events"
        if write.count:
            series = {"series": {"count": write.count + 1, "lastObservedTime": when}}
            request = Request(f"{path}/{event.name}", (), TIMEOUT)
            return self._status(lambda: self._transport.send("PATCH", request, series, "application/merge-patch+json"))
        uid = ""
        if event.topic.regarding.namespace:
            found = self._uid(write)
            if not isinstance(found, str):
                return found
            uid = found
        document = document_of(event, uid, self._node, when)
        return self._status(lambda: self._transport.send("POST", Request(path, (), TIMEOUT), document))

    def _uid(self, write: Write) -> str | Status | None:
        """Return the object's uid, by which kubectl describe finds its Events, None if it does not exist, or a refusal.

        It lists one object, because our user may be allowed to list and watch, but not to get.
        """
        about = write.event.topic.regarding
        before, _, plural = RESOURCES[about.kind].path.rpartition("/")
        query = (("fieldSelector", f"metadata.name={about.name}"), ("resourceVersion", "0"))
        request = Request(f"{before}/namespaces/{about.namespace}/{plural}", query, TIMEOUT)
        answer = self._asked(lambda: self._transport.get(request))
        try:
            if answer.status != 200:
                return status_of(answer)
            items = json.loads(_whole(answer.pieces())).get("items")
            return str(items[0]["metadata"].get("uid", "")) if items else None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise TransportError(f"the list of {about.kind} cannot be decoded: {error}") from None
        finally:
            answer.close()

    def _status(self, ask: Callable[[], Response]) -> Status:
        answer = self._asked(ask)
        try:
            return Status(answer.status) if answer.status in (200, 201) else status_of(answer)
        finally:
            answer.close()

    def _asked(self, ask: Callable[[], Response]) -> Response:
        answer = ask()
        if answer.status == UNAUTHORIZED and self._transport.renew():
            answer.close()
            answer = ask()
        return answer


def _whole(pieces: Iterable[bytes]) -> bytes:
    body = b""
    for piece in pieces:
        body += piece
        if len(body) > _BODY_LIMIT:
            raise TransportError("the answer does not end")
    return body
