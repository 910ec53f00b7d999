"""The load client: sends requests over real sockets, and records the outcome of each.

It uses one thread and non-blocking sockets, so that requests at a steady rate start when they are due, whatever
happened to earlier ones: a client that waits for answers would send less just when something is wrong. Each request is
a connection of its own, because connections are balanced; `Conversation` is a long one.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import resource
import selectors
import socket
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from integration.lab.errors import LabError
from integration.lab.namespaces import Namespace
from integration.lab.servers import SOCKETS, Protocol

TIMEOUT = 3.0
_CHUNK = 65536
_LOOK = 0.05
_SOCKETS = 16384
_SENT_AGAIN = 100  # where tcpi_total_retrans is in struct tcp_info (linux/tcp.h)


class Failure(StrEnum):
    """Why a request was lost."""

    REFUSED = "refused"
    RESET = "reset"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    CLOSED = "closed"  # in good order, but before the answer was complete
    FORBIDDEN = "forbidden"  # EPERM: what a local UDP sender gets whose server is gone
    GARBLED = "garbled"
    TOO_BIG = "too big"  # EMSGSIZE: a datagram that must not be cut, and does not fit
    OTHER = "other"


_BY_ERRNO = {
    errno.ECONNREFUSED: Failure.REFUSED,
    errno.ECONNRESET: Failure.RESET,
    errno.EPIPE: Failure.RESET,
    errno.ETIMEDOUT: Failure.TIMEOUT,
    errno.EHOSTUNREACH: Failure.UNREACHABLE,
    errno.ENETUNREACH: Failure.UNREACHABLE,
    errno.EPERM: Failure.FORBIDDEN,
    errno.EACCES: Failure.FORBIDDEN,
    errno.ECONNABORTED: Failure.RESET,
    errno.EMSGSIZE: Failure.TOO_BIG,
}
# An ICMP error ends an SCTP association's attempt only for who asks for it (linux/in.h, linux/in6.h).
_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
_ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}


@dataclass(frozen=True, order=True)
class Target:
    """Where to send requests."""

    address: str
    port: int
    protocol: Protocol = "TCP"
    body: int = 0
    """The bytes to send with each request."""
    answer_size: int = 0
    """The bytes to fill the answer with."""

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    @property
    def authority(self) -> str:
        """Address and port, as `10.0.0.1:80` or `[fd00::1]:80`."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    def __str__(self) -> str:
        return f"{self.protocol} {self.authority}"

    def request(self, *, close: bool) -> bytes:
        if self.protocol == "UDP":
            return b"?" * max(1, self.body)
        if self.protocol == "PING":  # the kernel fills in identifier and checksum
            return bytes([_ECHO_REQUEST[self.family], 0, 0, 0, 0, 0, 0, 1]) + b"." * self.body
        if self.protocol == "HTTP":
            return f"GET / HTTP/1.1\r\nhost: {self.address}\r\nconnection: close\r\n\r\n".encode()
        path = f"/bytes/{self.answer_size}" if self.answer_size else "/"
        fields = f"host: {self.address}\r\nconnection: {'close' if close else 'keep-alive'}\r\n"
        return f"POST {path} HTTP/1.1\r\n{fields}content-length: {self.body}\r\n\r\n".encode() + b"." * self.body


@dataclass(frozen=True)
class Question:
    """A request from a namespace. source: the client's address, "" = the kernel's choice."""

    namespace: Namespace
    target: Target
    source: str = ""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a request."""

    target: Target
    begun: float
    """The start by time.monotonic()."""
    seconds: float
    server: str = ""
    """The server that answered; for HTTP, the status."""
    client: str = ""
    """The client's address that the server saw."""
    failure: Failure | None = None
    sent_again: int = 0
    """The number of retransmitted TCP segments. Unlike a late answer, it means something on a busy machine, too."""


@dataclass(frozen=True)
class Report:
    outcomes: tuple[Outcome, ...]

    @property
    def answered(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failure is None]

    @property
    def lost(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.failure is not None]

    @property
    def failures(self) -> Counter[Failure]:
        return Counter(outcome.failure for outcome in self.outcomes if outcome.failure is not None)

    @property
    def spread(self) -> Counter[str]:
        """The number of answers by server."""
        return Counter(outcome.server for outcome in self.answered)

    @property
    def clients(self) -> set[str]:
        """The addresses that the servers saw."""
        return {outcome.client for outcome in self.answered}

    def latency(self, quantile: float) -> float:
        """Returns the seconds within which that part of the answers arrived; 0.0 without answers."""
        times = sorted(outcome.seconds for outcome in self.answered)
        return times[min(len(times) - 1, int(quantile * len(times)))] if times else 0.0

    def since(self, moment: float) -> Report:
        """Returns the requests that began at or after a time.monotonic()."""
        return Report(tuple(outcome for outcome in self.outcomes if outcome.begun >= moment))

    def of(self, target: Target) -> Report:
        return Report(tuple(outcome for outcome in self.outcomes if outcome.target == target))

    def __add__(self, other: Report) -> Report:
        return Report(self.outcomes + other.outcomes)

    def __str__(self) -> str:
        failures = ", ".join(f"{count} {failure}" for failure, count in sorted(self.failures.items()))
        return f"{len(self.answered)} of {len(self.outcomes)} answered{f' ({failures})' if failures else ''}"


def send_requests(
    namespace: Namespace,
    targets: Target | Sequence[Target],
    count: int,
    *,
    concurrency: int = 8,
    rate: float | None = None,
    timeout: float = TIMEOUT,
) -> Report:
    """Sends `count` requests, to the targets in turn; returns when each has its outcome.

    Without `rate` at most `concurrency` are open at a time; with it (requests per second) each starts when
    due.
    """
    schedule = _Schedule(targets, count=count, concurrency=concurrency, rate=rate)
    with namespace.entered():
        return Report(tuple(_Calls(schedule, timeout).run()))


def ask(questions: Sequence[Question], *, concurrency: int = 16, timeout: float = TIMEOUT) -> list[Outcome]:
    """Sends one request for each question, from any number of namespaces; returns the outcomes in the same order."""
    order = _Questions(questions, concurrency)
    outcomes = {call.number: outcome for call, outcome in _Calls(order, timeout).pairs()}
    return [outcomes[number] for number in range(len(questions))]


def _allow_sockets() -> None:
    """Raises the limit of open files: a guest allows 1,024, fewer than the requests that can hang at a steady rate."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(_SOCKETS, hard)), hard))


class Load:
    """Sends requests at a steady rate in the background, from construction until `stop`.

    ports: of the client, one for each request; None = the kernel's choice.
    """

    def __init__(
        self,
        namespace: Namespace,
        targets: Target | Sequence[Target],
        *,
        rate: float,
        timeout: float = TIMEOUT,
        seen: Callable[[Outcome], None] | None = None,
        ports: Iterator[int] | None = None,
    ) -> None:
        self._schedule = _Schedule(targets, count=None, concurrency=0, rate=rate, ports=ports)
        self._outcomes: list[Outcome] = []
        self._error: BaseException | None = None
        _allow_sockets()
        self._thread = threading.Thread(target=self._run, args=(namespace, timeout, seen), name="load", daemon=True)
        self._thread.start()

    def stop(self) -> Report:
        """Stops sending, and waits for the outcomes of pending requests."""
        self._schedule.stopped.set()
        self._thread.join()
        if self._error is not None:
            raise LabError(f"the load client broke down: {self._error!r}") from self._error
        return self.so_far()

    def so_far(self) -> Report:
        return Report(tuple(self._outcomes))

    def _run(self, namespace: Namespace, timeout: float, seen: Callable[[Outcome], None] | None) -> None:
        try:
            with namespace.entered():
                for outcome in _Calls(self._schedule, timeout).run():
                    self._outcomes.append(outcome)
                    if seen:
                        seen(outcome)
        except BaseException as error:
            self._error = error


class _Schedule:
    """When the next request may start, and to where."""

    def __init__(
        self,
        targets: Target | Sequence[Target],
        *,
        count: int | None,
        concurrency: int,
        rate: float | None,
        ports: Iterator[int] | None = None,
    ) -> None:
        listed = [targets] if isinstance(targets, Target) else list(targets)
        if not listed:
            raise LabError("no target to send requests to")
        self._targets = itertools.cycle(listed)
        self._ports = ports or itertools.repeat(0)
        self._count = count
        self._concurrency = concurrency
        self._rate = rate
        self._begun = time.monotonic()
        self._started = 0
        self.stopped = threading.Event()

    @property
    def over(self) -> bool:
        return self.stopped.is_set() or self._started == self._count

    def due(self, under_way: int) -> bool:
        if self.over:
            return False
        return under_way < self._concurrency if self._rate is None else self.wait() <= 0

    def wait(self) -> float:
        """Seconds until the next request is due; without a rate, for ever: until another has ended."""
        if self.over or self._rate is None:
            return float("inf")
        return self._begun + self._started / self._rate - time.monotonic()

    def next(self) -> _Call:
        self._started += 1
        return _Call(next(self._targets), port=next(self._ports))


class _Questions:
    """A schedule of requests that differ in where they come from."""

    def __init__(self, questions: Sequence[Question], concurrency: int) -> None:
        self._questions = questions
        self._concurrency = concurrency
        self._started = 0

    @property
    def over(self) -> bool:
        return self._started == len(self._questions)

    def due(self, under_way: int) -> bool:
        return not self.over and under_way < self._concurrency

    def wait(self) -> float:
        return float("inf")

    def next(self) -> _Call:
        question = self._questions[self._started]
        self._started += 1
        with question.namespace.entered():
            return _Call(question.target, question.source, self._started - 1)


class _Call:
    """One request under way. number: its place among questions."""

    def __init__(self, target: Target, source: str = "", number: int = 0, port: int = 0) -> None:
        self.target = target
        self.number = number
        self.begun = time.monotonic()
        self._source = source, port
        kind, protocol = SOCKETS[target.protocol]
        if target.protocol == "PING" and target.family == socket.AF_INET6:
            protocol = socket.IPPROTO_ICMPV6
        self.socket = socket.socket(target.family, kind, protocol)
        self.socket.setblocking(False)
        if target.protocol == "SCTP":
            self.socket.setsockopt(*_RECVERR[target.family], 1)
        self.unsent = target.request(close=True)
        self.received = b""

    def start(self) -> Outcome | None:
        """Starts the request; returns the outcome if it failed at once."""
        try:
            if self._source != ("", 0):
                self.socket.bind(self._source)
            error = self.socket.connect_ex((self.target.address, self.target.port))
        except OSError as failure:
            error = failure.errno or 0
        if error not in (0, errno.EINPROGRESS):
            return self._failed(_BY_ERRNO.get(error, Failure.OTHER))
        return None

    def turn(self) -> Outcome | None:
        """The socket is ready: send, or receive. The outcome when there is one."""
        try:
            if self.unsent:
                if error := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    return self._failed(_BY_ERRNO.get(error, Failure.OTHER))
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
                return None
            data = self.socket.recv(_CHUNK)
        except BlockingIOError:
            return None
        except OSError as error:
            return self._failed(_BY_ERRNO.get(error.errno or 0, Failure.OTHER))
        self.received += data
        if data and self._is_stream:
            return None
        return self._ended()

    @property
    def _is_stream(self) -> bool:
        return self.target.protocol in ("TCP", "SCTP", "HTTP")

    def failed_in_silence(self) -> Outcome | None:
        """SCTP keeps an ICMP error that comes while the call is being made to itself, until it is asked."""
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return self._failed(_BY_ERRNO.get(error, Failure.OTHER)) if error else None

    def timed_out(self) -> Outcome:
        return self._failed(Failure.TIMEOUT)

    def _ended(self) -> Outcome:
        if not self.received:
            return self._failed(Failure.CLOSED)
        if self.target.protocol == "PING":
            return Outcome(self.target, self.begun, time.monotonic() - self.begun)
        answer = _body(self.received) if self._is_stream else self.received
        if answer is None:
            return self._failed(Failure.CLOSED)
        if self.target.protocol == "HTTP":
            return Outcome(self.target, self.begun, time.monotonic() - self.begun, _status(self.received))
        try:
            identity = json.loads(answer.split(b"\n", 1)[0])
            server, client, received = identity["server"], identity["client"], identity["received"]
        except (ValueError, KeyError):
            return self._failed(Failure.GARBLED)
        whole = received == self.target.body and len(answer) >= self.target.answer_size
        if self._is_stream and not whole:
            return self._failed(Failure.GARBLED)
        return Outcome(
            self.target, self.begun, time.monotonic() - self.begun, server, client, sent_again=self._sent_again()
        )

    def _failed(self, failure: Failure) -> Outcome:
        return Outcome(
            self.target, self.begun, time.monotonic() - self.begun, failure=failure, sent_again=self._sent_again()
        )

    def _sent_again(self) -> int:
        if self.target.protocol != "TCP":
            return 0
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SENT_AGAIN + 4)
        return int.from_bytes(info[_SENT_AGAIN:], sys.byteorder)


class _Calls:
    """All requests under way, in the current namespace of the current thread unless the schedule says another."""

    def __init__(self, schedule: _Schedule | _Questions, timeout: float) -> None:
        self._schedule = schedule
        self._timeout = timeout
        self._selector = selectors.DefaultSelector()
        self._under_way: deque[_Call] = deque()  # oldest first; ended ones leave when they come to the front
        self._open = 0
        self._silent: set[_Call] = set()  # those whose errors need not wake anybody
        self._looked = 0.0

    def run(self) -> Iterator[Outcome]:
        return (outcome for _, outcome in self.pairs())

    def pairs(self) -> Iterator[tuple[_Call, Outcome]]:
        try:
            while True:
                while self._schedule.due(self._open):
                    yield from self._start(self._schedule.next())
                yield from self._expire()
                if self._schedule.over and not self._open:
                    return
                yield from self._look_at_silent_ones()
                # A stopped schedule is noticed here at the latest.
                wait = min(self._schedule.wait(), self._until_expiry(), _LOOK if self._silent else 0.2)
                for key, _ in self._selector.select(max(0.0, wait)):
                    yield from self._turn(key.data)
        finally:
            for call in self._under_way:
                call.socket.close()
            self._selector.close()

    def _start(self, call: _Call) -> Iterator[tuple[_Call, Outcome]]:
        if outcome := call.start():
            call.socket.close()
            yield call, outcome
            return
        self._selector.register(call.socket, selectors.EVENT_WRITE, call)
        self._under_way.append(call)
        self._open += 1
        if call.target.protocol == "SCTP":
            self._silent.add(call)

    def _turn(self, call: _Call) -> Iterator[tuple[_Call, Outcome]]:
        sending = bool(call.unsent)
        if outcome := call.turn():
            yield call, self._end(call, outcome)
        elif sending and not call.unsent:
            self._selector.modify(call.socket, selectors.EVENT_READ, call)

    def _end(self, call: _Call, outcome: Outcome) -> Outcome:
        self._selector.unregister(call.socket)
        call.socket.close()
        self._open -= 1
        self._silent.discard(call)
        return outcome

    def _look_at_silent_ones(self) -> Iterator[tuple[_Call, Outcome]]:
        if not self._silent or time.monotonic() < self._looked + _LOOK:
            return
        self._looked = time.monotonic()
        for call in list(self._silent):
            if outcome := call.failed_in_silence():
                yield call, self._end(call, outcome)

    def _until_expiry(self) -> float:
        while self._under_way and self._under_way[0].socket.fileno() < 0:
            self._under_way.popleft()
        if not self._under_way:
            return float("inf")
        return self._under_way[0].begun + self._timeout - time.monotonic()

    def _expire(self) -> Iterator[tuple[_Call, Outcome]]:
        while self._until_expiry() <= 0:
            call = self._under_way.popleft()
            yield call, self._end(call, call.timed_out())


class Conversation:
    """A long connection: many requests, one after the other, on one connection. port: the client's, 0 = any."""

    def __init__(self, namespace: Namespace, target: Target, *, timeout: float = TIMEOUT, port: int = 0) -> None:
        self.target = target
        self._received = b""
        self._socket = namespace.socket(target.family, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            if port:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # to several places
                self._socket.bind(("", port))
            self._socket.connect((target.address, target.port))
        except OSError:
            self._socket.close()
            raise

    def ask(self) -> Outcome:
        """Sends a request and waits for its answer."""
        begun = time.monotonic()
        try:
            self._socket.sendall(self.target.request(close=False))
            while (body := _body(self._received)) is None:
                data = self._socket.recv(_CHUNK)
                if not data:
                    return Outcome(self.target, begun, time.monotonic() - begun, failure=Failure.CLOSED)
                self._received += data
        except TimeoutError:
            return Outcome(self.target, begun, time.monotonic() - begun, failure=Failure.TIMEOUT)
        except OSError as error:
            failure = _BY_ERRNO.get(error.errno or 0, Failure.OTHER)
            return Outcome(self.target, begun, time.monotonic() - begun, failure=failure)
        self._received = b""
        identity = json.loads(body.split(b"\n", 1)[0])
        seconds = time.monotonic() - begun
        return Outcome(self.target, begun, seconds, identity["server"], identity["client"])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()


def _body(message: bytes) -> bytes | None:
    """Returns the body of an HTTP message, None if it is incomplete."""
    head, separator, body = message.partition(b"\r\n\r\n")
    if not separator:
        return None
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")),
        0,
    )
    return body if len(body) >= length else None


def _status(message: bytes) -> str:
    """Of an answer with a complete head."""
    return message.split(b" ", 2)[1].decode()
