"""Runs HTTP listeners: any number of addresses, one thread that accepts, and a short-lived thread for each request.

An address that cannot be listened on is tried again every five seconds, as the socket that holds it may close: the
agent that a rolling update replaces closes its own (pkg/proxy/healthcheck/proxy_health.go does the same). Answers must
be made from recorded facts: the thread of a request must not wait for the main loop.

Clients that are slow on purpose cannot block a listener: a connection lives for REQUEST_WITHIN seconds at most, and
where REQUESTS_AT_ONCE are open, the oldest makes room for a new one. kubelet kills an agent that does not answer.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from msgspec import Struct

from ipvsagent.address import Address, endpoint_text

log = logging.getLogger("ipvsagent")

_Key = tuple[str, Hashable]

_IP_FREEBIND = 15
"""From <linux/in.h>. Works for sockets of both families, while IPV6_FREEBIND needs Linux 4.15."""

RETRY_AFTER = 5.0
REQUEST_WITHIN = 10.0
REQUESTS_AT_ONCE = 32


class Response(Struct, frozen=True):
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


Answer = Callable[[Hashable, str, str], Response]
"""Makes a response from the listener's key, the path without its query, and the request's Accept header."""


class ListenAddress(Struct, frozen=True):
    """Names an address to listen on."""

    host: str
    port: int
    only_family: bool = False
    """`::` does not accept IPv4 clients."""
    may_appear: bool = False
    """The node need not have the address yet; the listener works once it has."""

    def __str__(self) -> str:
        return endpoint_text(Address(self.host), self.port)


class Fault(Struct, frozen=True):
    """Reports an address that cannot be listened on at present."""

    group: str
    key: Hashable
    address: ListenAddress
    why: str
    in_use: bool = False
    """Another socket listens on it."""


class Listeners:
    """Keeps groups of listeners open; each group has one function that answers. Any thread may call `want`."""

    def __init__(self, on_faults: Callable[[Sequence[Fault]], None] = lambda faults: None) -> None:
        """on_faults: called with all faults whenever they have changed, in the thread that listens."""
        self._on_faults = on_faults
        self._lock = threading.Lock()
        self._wanted: dict[_Key, ListenAddress] = {}
        self._answers: dict[str, Answer] = {}
        self._open: dict[_Key, tuple[ListenAddress, _Server]] = {}
        self._faults: dict[_Key, Fault] = {}
        self._retry_at = float("-inf")
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._ended = False

    def want(self, group: str, addresses: Mapping[Hashable, ListenAddress], answer: Answer) -> None:
        """Set the listeners of a group from now on, by any key that the caller chooses."""
        with self._lock:
            kept = {key: address for key, address in self._wanted.items() if key[0] != group}
            wanted = kept | {(group, key): address for key, address in addresses.items()}
            self._answers[group] = answer
            if wanted == self._wanted:
                return
            self._wanted = wanted
        with contextlib.suppress(OSError):
            self._wake_write.send(b"x")

    def start(self) -> None:
        threading.Thread(target=self._run, name="http", daemon=True).start()

    def close(self) -> None:
        """Close all listeners; they are closed when this returns."""
        with self._lock:
            self._ended = True
            self._wanted = {}
        self._arrange()

    def _run(self) -> None:
        while not self._ended:
            self._arrange()
            wait = max(0.0, self._retry_at - time.monotonic()) if self._faults else None
            for key, _ in self._selector.select(wait):
                if key.data is None:
                    with contextlib.suppress(OSError):
                        self._wake_read.recv(4096)
                    continue
                try:
                    key.data.handle_request()
                except (OSError, ValueError) as error:  # no descriptor left, or closed meanwhile
                    log.debug("http: %s", error)
                    time.sleep(0.1)

    def _arrange(self) -> None:
        """Open wanted listeners and close others."""
        with self._lock:
            for key, (address, server) in list(self._open.items()):
                if self._wanted.get(key) != address:
                    del self._open[key]
                    self._selector.unregister(server.socket)
                    server.server_close()
            before = self._faults
            again = time.monotonic() >= self._retry_at
            if again:
                self._retry_at = time.monotonic() + RETRY_AFTER
            self._faults = {key: fault for key, fault in before.items() if self._wanted.get(key) == fault.address}
            for key, address in self._wanted.items():
                if key in self._open or (key in self._faults and not again):
                    continue
                try:
                    server = _Server(address, key[1], self._answers[key[0]])
                except (OSError, OverflowError) as error:
                    self._faults[key] = Fault(*key, address, _why(error), _in_use(error))
                    continue
                self._faults.pop(key, None)
                self._open[key] = (address, server)
                self._selector.register(server.socket, selectors.EVENT_READ, server)
            faults = list(self._faults.values())
        if faults != list(before.values()):
            self._on_faults(faults)


def _why(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _in_use(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EADDRINUSE


class _Server(ThreadingMixIn, TCPServer):
    """Listens on one address. Raises OSError if it cannot."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    timeout = 0

    def __init__(self, address: ListenAddress, key: Hashable, answer: Answer) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._only_family = address.only_family
        self._may_appear = address.may_appear
        self.key = key
        self.answer = answer
        self._requests: dict[socket.socket, None] = {}  # open requests, the oldest first
        self._requests_lock = threading.Lock()
        super().__init__((address.host, address.port), _Request)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, self._only_family)
        if self._may_appear:
            self.socket.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        super().server_bind()

    def process_request(self, request: socket.socket, client_address: Any) -> None:  # type: ignore[override]
        with self._requests_lock:
            if len(self._requests) >= REQUESTS_AT_ONCE:
                oldest = next(iter(self._requests))
                del self._requests[oldest]
                with contextlib.suppress(OSError):  # it has just ended
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread wakes up and closes it
            self._requests[request] = None
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started; the caller closes the connection
            self._forget(request)
            raise

    def process_request_thread(self, request: socket.socket, client_address: Any) -> None:  # type: ignore[override]
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request: socket.socket) -> None:
        with self._requests_lock:
            self._requests.pop(request, None)

    def handle_error(self, request: object, client_address: object) -> None:
        log.debug("http: a request of %s failed", client_address, exc_info=True)


class _Within(io.RawIOBase):
    """Reads from a connection until a deadline for the whole request; the timeout of a socket is for each read."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)  # type: ignore[arg-type]


class _Request(BaseHTTPRequestHandler):
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(REQUEST_WITHIN)  # for the whole answer, too: see socket.sendall
        self.rfile = io.BufferedReader(_Within(self.connection, REQUEST_WITHIN))

    def do_GET(self) -> None:
        response = self.server.answer(self.server.key, self.path.partition("?")[0], self.headers.get("Accept", ""))
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        for name, value in response.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_HEAD = do_GET

    def version_string(self) -> str:
        return "ipvsagent"

    def log_message(self, format: str, *args: object) -> None:
        log.debug("http: %s %s", self.client_address[0], format % args)
