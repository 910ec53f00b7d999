"""Real servers: HTTP on TCP and SCTP, echo on UDP. Each answers with its name.

One thread serves all namespaces: a listening socket stays in the namespace it was made in, and so do the
connections it accepts. Small answers and few system calls, because a guest is slow at those.

HTTP paths: `/bytes/N` adds N bytes to the answer (the packets get big enough to need more than one); anything
else gives the plain answer. Bodies of requests are read and counted.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

from integration.lab.errors import LabError
from integration.lab.namespaces import Namespace
from integration.lab.topology import Lab

Protocol = Literal["TCP", "UDP", "SCTP", "PING", "HTTP"]
# Type and protocol of the socket. SCTP one-to-one sockets are used like TCP's. PING, and HTTP to any server of it, are
# for clients only.
SOCKETS: dict[Protocol, tuple[socket.SocketKind, int]] = {
    "TCP": (socket.SOCK_STREAM, 0),
    "UDP": (socket.SOCK_DGRAM, 0),
    "SCTP": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
    "PING": (socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    "HTTP": (socket.SOCK_STREAM, 0),
}
_CHUNK = 65536


def has_sctp() -> bool:
    """Whether this kernel has SCTP."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True, order=True)
class Server:
    """A listening address. `name` is what it answers with: its pod."""

    name: str
    address: str
    port: int
    protocol: Protocol = "TCP"


@dataclass
class _Connection:
    """A client's connection to a TCP or SCTP server. received: bytes not answered yet. unsent: bytes not sent yet."""

    server: Server
    peer: str
    received: bytes = b""
    unsent: bytes = b""
    last: bool = False


@dataclass
class Servers:
    """Serves from construction of each server until closed. `requests` counts answers by server."""

    requests: Counter[Server] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="servers", daemon=True)
        self._error: BaseException | None = None
        self._thread.start()

    def add(self, lab: Lab, servers: Iterable[Server], at: Namespace | None = None) -> None:
        """Starts servers where their addresses are, or in the namespace `at`, as `0.0.0.0` and `::` need it."""
        for server in servers:
            kind, number = SOCKETS[server.protocol]
            family = socket.AF_INET6 if ":" in server.address else socket.AF_INET
            listener = (at or lab.at(server.address)).socket(family, kind, number)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((server.address, server.port))
                if kind == socket.SOCK_STREAM:
                    listener.listen(512)
            except OSError as error:
                listener.close()
                raise LabError(f"{server.name} cannot serve {server.address} port {server.port}: {error}") from error
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, server)

    def close(self) -> None:
        """Ends all servers and connections. Raises LabError if serving had failed before."""
        self._wake.send(b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self._selector.close()
        self._wake.close()
        if self._error is not None:
            raise LabError(f"the servers broke down: {self._error!r}") from self._error

    def __enter__(self) -> Servers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        try:
            while True:
                for key, events in self._selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    if key.fileobj is self._woken:
                        return
                    self._turn(key.fileobj, key.data, events)
        except BaseException as error:
            self._error = error

    def _turn(self, ready: socket.socket, data: Server | _Connection, events: int) -> None:
        if isinstance(data, _Connection):
            try:
                going_on = self._converse(ready, data, events)
            except OSError:
                going_on = False  # the client has gone; that is its business
            if not going_on:
                self._selector.unregister(ready)
                ready.close()
        elif data.protocol == "UDP":
            self._echo(ready, data)
        else:
            self._accept(ready, data)

    def _accept(self, listener: socket.socket, server: Server) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            client, peer = listener.accept()
            client.setblocking(False)
            if server.protocol == "TCP":
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(server, peer[0])
            self._selector.register(client, selectors.EVENT_READ, connection)
            # Often the request is there already: saves a turn of the loop.
            self._turn(client, connection, selectors.EVENT_READ)

    def _echo(self, endpoint: socket.socket, server: Server) -> None:
        # An ICMP error to an earlier answer shows up as a failure of the next call: not ours to care about.
        with contextlib.suppress(OSError):
            data, peer = endpoint.recvfrom(_CHUNK)
            self.requests[server] += 1
            endpoint.sendto(_identity(server, peer[0], len(data)), peer)

    def _converse(self, client: socket.socket, connection: _Connection, events: int) -> bool:
        """Serves a connection; returns False when it has ended."""
        if events & selectors.EVENT_READ:
            try:
                data = client.recv(_CHUNK)
            except BlockingIOError:
                return True
            if not data:
                return False
            connection.received += data
            while not connection.last and (answer := self._answer(connection)):
                connection.unsent += answer
        if connection.unsent:
            with contextlib.suppress(BlockingIOError):
                connection.unsent = connection.unsent[client.send(connection.unsent) :]
        if connection.last and not connection.unsent:
            return False
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        if self._selector.get_key(client).events != events:
            self._selector.modify(client, events, connection)
        return True

    def _answer(self, connection: _Connection) -> bytes:
        """Returns the answer to the first complete request, and nothing if there is none."""
        head, separator, rest = connection.received.partition(b"\r\n\r\n")
        if not separator:
            return b""
        request, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(fields.get("content-length", "0"))
        if len(rest) < length:
            return b""
        connection.received = rest[length:]
        connection.last = fields.get("connection", "").lower() == "close" or request.endswith("HTTP/1.0")
        self.requests[connection.server] += 1
        path = request.split(" ")[1]
        filling = int(path.removeprefix("/bytes/")) if path.startswith("/bytes/") else 0
        body = _identity(connection.server, connection.peer, length) + b"\n" + b"." * filling
        return (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\nconnection: %s\r\n\r\n"
            % (len(body), b"close" if connection.last else b"keep-alive")
        ) + body


def _identity(server: Server, peer: str, received: int) -> bytes:
    """Returns the text of an answer. `client` is the address that the server sees, which shows whether it was kept."""
    identity = {"server": server.name, "address": server.address, "port": server.port}
    return json.dumps({**identity, "client": peer, "received": received}).encode()
