"""Sends HTTP requests to the API server through the official client's `call_api`, which does TLS, proxies and
authentication and returns raw answers.

The client's models, Watch and informers are not used: an object of a watch costs them ten times as much, they wait
without limit on a connection that has gone silent, and they reconnect without a pause. Its retries are off, so that
there is one policy (follow.py). Importing it takes 0.3 s, which is why the first request does so.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from threading import Lock, get_ident
from typing import Any

from ipvsagent import __version__
from ipvsagent.api.credentials import REREAD, Access, CredentialSource, load, named, without_userinfo
from ipvsagent.api.resources import Request
from ipvsagent.api.response import Response, TransportError
from ipvsagent.errors import SourceError

CONNECT_TIMEOUT = 10.0
HEAD_TIMEOUT = 30.0
PIECE = 65536


class ApiTransport:
    """Sends requests for any number of threads. clock: monotonic seconds."""

    def __init__(self, source: CredentialSource, environment: Mapping[str, str], clock: Callable[[], float]) -> None:
        self._source = source
        self._environment = environment
        self._clock = clock
        self._loading = Lock()
        self._reads = 0
        self._failure = ""
        self._connections: dict[int, Any] = {}
        self._access: Access | None = None
        self._client: Any = None
        self._read_at = float("-inf")
        self._used: dict[int, tuple[object, object]] = {}

    @property
    def server(self) -> str:
        """Return the server's address, "" while no credentials could be read."""
        return self._access.configuration.host if self._access else without_userinfo(self._source.master)

    def get(self, request: Request) -> Response:
        return self._ask("GET", request, None, {})

    def send(
        self, method: str, request: Request, document: dict[str, Any], content_type: str = "application/json"
    ) -> Response:
        return self._ask(method, request, document, {"Content-Type": content_type})

    def _ask(
        self, method: str, request: Request, document: dict[str, Any] | None, headers: Mapping[str, str]
    ) -> Response:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        client = self._ready()
        self._used[get_ident()] = self._identity()
        try:
            call = client.param_serialize(
                method,
                request.path,
                query_params=list(request.query),
                header_params={"Accept": "application/json", **headers},
                body=document,
                auth_settings=["BearerToken"],
            )
            answer = client.call_api(*call, _request_timeout=(CONNECT_TIMEOUT, min(HEAD_TIMEOUT, request.timeout)))
            line = self._connections.get(get_ident())
        except (HTTPError, ApiException, OSError, ValueError) as error:
            raise TransportError(_in_words(error)) from None
        finally:
            self._connections.pop(get_ident(), None)
        return _Response(answer.response, getattr(line, "line", None), request.timeout)

    def interrupt(self, thread: int) -> bool:
        connection = self._connections.get(thread)
        if connection is None or connection.line is None:
            return False
        _cut(connection.line)
        return True

    def renew(self) -> bool:
        """Read the credentials again, whatever their age; return False if this thread has already used them.

        Another thread that was refused, too, may have read them a moment ago, or may be reading them now.
        """
        used, reads = self._used.get(get_ident()), self._reads
        if self._identity() == used:
            with self._loading:
                if self._reads == reads and self._access is not None and self._clock() - self._read_at >= 1.0:
                    self._read()
        return self._identity() != used

    def _identity(self) -> tuple[object, object]:
        access = self._access
        return (access.fingerprint, access.configuration.api_key.get("BearerToken")) if access else (None, None)

    def _ready(self) -> Any:
        """Return the client, with credentials that are new enough. Raises TransportError.

        One thread reads, for as long as a plugin takes; the others continue with the last credentials.
        """
        if self._access is None:
            reads = self._reads
            with self._loading:
                if self._access is None and self._reads == reads:
                    self._read()
            if self._access is None:
                raise TransportError(self._failure)
        elif self._old() and self._loading.acquire(blocking=False):
            try:
                if self._old():
                    self._read()
            finally:
                self._loading.release()
        return self._client

    def _old(self) -> bool:
        return self._clock() - self._read_at >= REREAD and self._access is not None and self._access.expires()

    def _read(self) -> None:
        """Read the credentials; keep the last ones if that fails or if they cannot be used for a connection."""
        self._read_at = self._clock()
        try:
            access = load(self._source, self._environment)
            if self._access is None or access.fingerprint != self._access.fingerprint:
                self._client = _client(access, named(self._source), self._connections)
            else:
                self._client.configuration.api_key = access.configuration.api_key
            self._access = access
        except SourceError as error:
            self._failure = str(error)
        finally:
            self._reads += 1


def _client(access: Access, where: str, connections: dict[int, Any]) -> Any:
    from kubernetes.client import ApiClient

    try:
        client = ApiClient(access.configuration)
    except Exception as error:
        raise SourceError(f"{where}: {_in_words(error)}") from None
    client.user_agent = f"ipvsagent/{__version__}"
    client.rest_client.pool_manager.pool_classes_by_scheme = _pools(connections)
    return client


def _pools(connections: dict[int, Any]) -> dict[str, type]:
    """Return urllib3's pools with connections that record themselves by the thread that uses them.

    A response gives its socket only once its head has come, and not at all if the connection closes with it.
    """
    from urllib3.connection import HTTPConnection, HTTPSConnection
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    class Recorded(HTTPConnection):
        line: socket.socket | None = None

        def _new_conn(self) -> socket.socket:
            made: socket.socket = super()._new_conn()
            # TLS takes the socket over and returns its own only after the handshake, so a duplicate serves until then.
            self.line = made.dup()
            return made

        def connect(self) -> None:
            connections[get_ident()] = self
            try:
                super().connect()
            finally:
                if self.line is not None:
                    self.line.close()
                self.line = self.sock

        def request(self, *arguments: Any, **options: Any) -> None:
            connections[get_ident()] = self
            super().request(*arguments, **options)

    class RecordedTls(Recorded, HTTPSConnection):
        pass

    class Pool(HTTPConnectionPool):
        ConnectionCls = Recorded

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = RecordedTls

    return {"http": Pool, "https": TlsPool}


def _cut(line: socket.socket | None) -> None:
    if line is not None:
        with contextlib.suppress(OSError):  # it may be closed already
            # TLS's own method would free what the reading thread is using.
            socket.socket.shutdown(line, socket.SHUT_RDWR)


class _Response:
    def __init__(self, answer: Any, line: socket.socket | None, timeout: float) -> None:
        self.status: int = answer.status
        self.retry_after = _seconds(answer.headers.get("Retry-After"))
        self._answer = answer
        # A healthy server sends the head at once, but the body of a watch may be silent for long.
        self._line = line
        if line is not None:
            with contextlib.suppress(OSError):  # the answer is complete and the connection closed
                line.settimeout(timeout)

    def pieces(self) -> Iterator[bytes]:
        from urllib3.exceptions import HTTPError

        try:
            while piece := self._answer.read1(PIECE, decode_content=False):
                yield piece
        except (HTTPError, OSError, ValueError) as error:
            raise TransportError(_in_words(error)) from None

    def shutdown(self) -> None:
        _cut(self._line)

    def close(self) -> None:
        self._answer.close()


def _seconds(text: str | None) -> float | None:
    return float(text) if text and text.isascii() and text.isdigit() else None


def _in_words(error: Exception) -> str:
    """Return the innermost reason of urllib3's nested errors."""
    reason = getattr(error, "reason", None)
    error = reason if isinstance(reason, Exception) else error
    # Without the connection or the pool before it: an object's address would make each attempt a new trouble.
    args: tuple[object, ...] = error.args
    text = str(args[-1]) if len(args) > 1 and not isinstance(error, OSError) else str(error)
    text = re.sub(r"<[\w.]+ object at 0x[0-9a-f]+>:? *|^\w*Pool\(host=.*?, port=\w+\): ", "", text)
    for mark in ("Failed to establish a new connection: ", "Connection broken: "):
        text = text.partition(mark)[2] or text
    return " ".join(text.split()) or type(error).__name__
