"""The API server double: HTTP and TLS in front of the store, one thread for each connection."""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, urlsplit

import yaml

from integration.apiserver import manifests
from integration.apiserver.access import Access
from integration.apiserver.api import Answer, Api, Entry, Request
from integration.apiserver.certificates import Certificates
from integration.apiserver.control import control
from integration.apiserver.faults import Break, Disturbance, Faults
from integration.apiserver.records import Record, Thing, key_of
from integration.apiserver.resources import BY_KIND, Resource
from integration.apiserver.store import Store
from integration.apiserver.watches import BOOKMARK_INTERVAL, Watch

HANDSHAKE_LIMIT = 10.0
ANY_PORT = 0


class ApiServer:
    """Serves from `start` (or `with`) to `stop`, and again after that, on the same port.

    certificates: None serves plain HTTP. Objects are put, and read, in `store`, or with `put` and `remove`, which check
    nothing; what clients write is checked. Everything public may be used from any thread.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        access: Access | None = None,
        faults: Faults | None = None,
        certificates: Certificates | None = None,
        host: str = "127.0.0.1",
        port: int = ANY_PORT,
        bookmark_interval: float = BOOKMARK_INTERVAL,
    ) -> None:
        self.store = store or Store()
        self.access = access or Access()
        self.faults = faults or Faults()
        self.certificates = certificates
        self.api = Api(
            self.store,
            self.access,
            self.faults,
            bookmark_interval=bookmark_interval,
            closed=lambda: self._stopping.is_set(),
        )
        self.host, self.port = host, port
        self.breakdowns: list[str] = []
        self._stopping = threading.Event()
        self._listener: _Listener | None = None
        for name in manifests.SYSTEM_NAMESPACES:
            manifests.add_namespace(self.store, name)

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.certificates else 'http'}://{host}:{self.port}"

    @property
    def requests(self) -> deque[Entry]:
        return self.api.journal

    @property
    def watching(self) -> int:
        """Watches that are open."""
        return self._listener.watches if self._listener else 0

    def start(self) -> None:
        """Raises OSError if the port is taken."""
        self._stopping = threading.Event()
        self._listener = _Listener(self)
        self.port = self._listener.server_address[1]
        threading.Thread(target=self._listener.accept_until_closed, name="api server", daemon=True).start()

    def stop(self) -> None:
        """As a process ends: connections are closed, nobody is told."""
        self._stopping.set()
        self.store.wake()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def restart(self, *, down: float = 0.0, history: Literal["kept", "lost"] = "kept") -> None:
        """down: seconds without a server. A real one loses its history: its watch cache begins anew."""
        self.stop()
        time.sleep(down)
        if history == "lost":
            self.store.compact()
        self.start()

    def disconnect(self) -> None:
        """Every open connection is reset."""
        if self._listener is not None:
            self._listener.reset_all()

    def put(self, thing: Thing) -> None:
        """Creates or replaces an object of a known kind, as it is."""
        for resource, each in manifests.objects(thing):
            manifests.put(self.store, resource, each)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Raises KeyError."""
        self.store.remove(_of_kind(kind), key_of(namespace, name))

    def get(self, kind: str, namespace: str, name: str) -> Thing:
        """Raises KeyError."""
        found: Record | None = self.store.get(_of_kind(kind), key_of(namespace, name))
        if found is None:
            raise KeyError(name)
        return found.decoded()

    def kubeconfig(self, user: Mapping[str, Any] | None = None, *, server: str = "") -> str:
        """Text of a file for clients. user: the fields of its user, by default the first token."""
        if user is None:
            token = next(iter(self.access.tokens), "")
            user = {"token": token} if token else {}
        cluster = {"server": server or self.url}
        if self.certificates:
            cluster["certificate-authority-data"] = self.certificates.authority_data
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "double", "cluster": cluster}],
            "users": [{"name": "user", "user": dict(user)}],
            "contexts": [{"name": "double", "context": {"cluster": "double", "user": "user"}}],
            "current-context": "double",
        }
        return yaml.safe_dump(document, sort_keys=False)

    def write_kubeconfig(self, path: Path, user: Mapping[str, Any] | None = None) -> Path:
        path.write_text(self.kubeconfig(user))
        path.chmod(0o600)
        return path


def _of_kind(kind: str) -> Resource:
    return next(resource for (_, name), resource in BY_KIND.items() if name == kind)


class _Listener(socketserver.ThreadingMixIn, socketserver.TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, owner: ApiServer) -> None:
        self.owner = owner
        self.stopping = owner._stopping
        self.address_family = socket.AF_INET6 if ":" in owner.host else socket.AF_INET
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()
        self.watches = 0
        self.context = owner.certificates.server_context() if owner.certificates else None
        super().__init__((owner.host, owner.port), _Handler)

    def accept_until_closed(self) -> None:
        while not self.stopping.is_set():
            try:
                request, address = self.get_request()
            except OSError:
                return
            self.process_request(request, address)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may do what they like; a mistake of ours is kept for tests to see."""
        if not isinstance(sys.exception(), OSError):
            self.owner.breakdowns.append(traceback.format_exc())

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
            _linger(connection)
            _shut(connection)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

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
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError, BrokenPipeError):
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
        if (controlled := control(self.server.owner, request)) is not None:
            self._send(controlled, Disturbance([]))
            return
        answer, disturbance, _ = self.server.owner.api.answer(request)
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
            _linger(self.request)
            _close(self.request)
        else:
            _shut(self.request)


def _linger(connection: socket.socket) -> None:
    """Closing sends RST."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _close(connection: socket.socket) -> None:
    """At once, whoever else holds it."""
    with contextlib.suppress(OSError):
        socket.close(connection.detach())
