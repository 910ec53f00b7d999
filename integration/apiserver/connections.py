"""HTTP and TLS: connections, one thread for each, and how they end or break."""

from __future__ import annotations

import contextlib
import ctypes
import select
import socket
import socketserver
import ssl
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from typing import cast
from urllib.parse import parse_qsl, urlsplit

from integration.apiserver.api import Answer, Request
from integration.apiserver.faults import Break, Disturbance
from integration.apiserver.watches import Watch

HANDSHAKE_LIMIT = 10.0
_LIBC = ctypes.CDLL(None, use_errno=True)
Serve = Callable[[Request], tuple[Answer | Watch, Disturbance]]


class Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], serve: Serve, context: ssl.SSLContext | None, stopping: threading.Event
    ) -> None:
        self.serve, self.context, self.stopping = serve, context, stopping
        self.breakdowns: list[str] = []
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()
        self.watches = 0
        super().__init__(address, _Handler)

    def accept_until_closed(self) -> None:
        while not self.stopping.is_set():
            try:
                request, address = self.get_request()
            except OSError:
                return
            self.process_request(request, address)

    def handle_error(self, request: object, client_address: object) -> None:
        """Serves a connection. Errors of a client are ignored; an error of the double is kept for tests."""
        if not isinstance(sys.exception(), OSError):
            self.breakdowns.append(traceback.format_exc())

    def opened(self, connection: socket.socket) -> None:
        with self._guard:
            self._connections.add(connection)
        if self.stopping.is_set():
            _shut(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._guard:
            self._connections.discard(connection)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with self._guard:
            self.watches += 1
        try:
            yield
        finally:
            with self._guard:
                self.watches -= 1

    def close(self) -> None:
        _shut(self.socket)
        self.server_close()
        with self._guard:
            connections = list(self._connections)
        for connection in connections:
            _shut(connection)

    def reset_all(self) -> None:
        with self._guard:
            connections = list(self._connections)
        for connection in connections:
            _reset(connection)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def setup(self) -> None:
        self.raw = self.request
        self.server.opened(self.raw)
        if self.server.context is not None:
            self.raw.settimeout(HANDSHAKE_LIMIT)
            # The handshake belongs to this thread: a client that says nothing stops nobody else.
            self.request = self.server.context.wrap_socket(self.raw, server_side=True)
            self.request.settimeout(None)
            self.server.closed(self.raw)
            self.server.opened(self.request)
        super().setup()

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def finish(self) -> None:
        self.server.closed(self.request)
        with contextlib.suppress(OSError, ValueError):
            super().finish()
        with contextlib.suppress(OSError):
            self.request.close()

    def log_message(self, format: str, *args: object) -> None:
        """The journal has it."""

    def _serve(self) -> None:
        address = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        request = Request(
            self.command,
            address.path,
            dict(parse_qsl(address.query, keep_blank_values=True)),
            cast("Mapping[str, str]", self.headers),
            self.rfile.read(length) if length else b"",
            self._certificate(),
        )
        answer, disturbance = self.server.serve(request)
        broken = disturbance.before_the_answer
        if broken is not None:
            self._break(broken)
        elif isinstance(answer, Watch):
            with self.server.watching():
                self._stream(answer, disturbance)
        else:
            self._send(answer, disturbance)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve

    def _certificate(self) -> Mapping[str, object] | None:
        return self.request.getpeercert() if isinstance(self.request, ssl.SSLSocket) else None

    def _send(self, answer: Answer, disturbance: Disturbance) -> None:
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self._write(b"".join(self._headers()), disturbance)
        cut = next((fault for fault in disturbance.faults if isinstance(fault, Break)), None)
        if cut is not None:
            self._write(answer.body[: len(answer.body) // 2], disturbance)
            self._break(cut)
            return
        self._write(answer.body, disturbance)

    def _headers(self) -> list[bytes]:
        lines = [*self._headers_buffer, b"\r\n"]
        self._headers_buffer: list[bytes] = []
        return lines

    def _stream(self, watch: Watch, disturbance: Disturbance) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self._write(b"".join(self._headers()), disturbance)
        for batch in watch:
            chunks: list[bytes] = []
            for piece in disturbance.apply(batch):
                if isinstance(piece, Break):
                    self._write(b"".join(chunks), disturbance)
                    self._break(piece)
                    return
                chunks.append(b"%x\r\n%b\r\n" % (len(piece.line), piece.line))
            if chunks:
                self._write(b"".join(chunks), disturbance)
            elif self._client_is_gone():
                self.close_connection = True
                return
        if self.server.stopping.is_set():
            self.close_connection = True
            return
        self._write(b"0\r\n\r\n", disturbance)

    def _client_is_gone(self) -> bool:
        readable, _, _ = select.select([self.request], [], [], 0)
        if not readable:
            return False
        # On TLS nothing but the end is expected from a client that watches.
        return isinstance(self.request, ssl.SSLSocket) or not self.request.recv(1, socket.MSG_PEEK)

    def _write(self, data: bytes, disturbance: Disturbance) -> None:
        slow = disturbance.slow
        if slow is None:
            self.request.sendall(data)
            return
        for first in range(0, len(data), slow.bytes):
            self.request.sendall(data[first : first + slow.bytes])
            if self.server.stopping.wait(slow.seconds):
                return

    def _break(self, fault: Break) -> None:
        self.close_connection = True
        if fault.how == "hang":
            self.server.stopping.wait()
            return
        if fault.how == "end":
            self.request.sendall(b"0\r\n\r\n")
            return
        if fault.how == "cut-chunk":
            self.request.sendall(b'400\r\n{"type":"MODIFIED","object":{"kind":')
        if fault.how == "reset":
            _reset(self.request)
        else:
            _shut(self.request)


def _reset(connection: socket.socket) -> None:
    """Resets the connection at once, even if another process holds the socket (AF_UNSPEC in connect(2))."""
    _LIBC.connect(connection.fileno(), bytes(16), 16)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
