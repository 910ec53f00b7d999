"""An HTTP server that answers as a test scripts it, and otherwise as a small API server without faults."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.support.api_documents import bookmark, line, page


class Asked:
    """A request, and the means to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler, server: ScriptedServer) -> None:
        parts = urlsplit(handler.path)
        self.plural = parts.path.rpartition("/")[2]
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.authorization = handler.headers.get("Authorization")
        self.headers = dict(handler.headers)
        self.server = server
        self.handler = handler

    @property
    def watches(self) -> bool:
        return self.query.get("watch") == "true"

    @property
    def streams(self) -> bool:
        return "sendInitialEvents" in self.query

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.handler.send_response(status)
        for name, value in headers.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.send_header("Content-Length", str(len(body)))
        self.handler.end_headers()
        self.handler.wfile.write(body)

    def refuse(self, document: dict[str, Any], **headers: str) -> None:
        self.answer(json.dumps(document).encode(), document["code"], **headers)

    def begin(self) -> None:
        self.handler.send_response(200)
        self.handler.send_header("Transfer-Encoding", "chunked")
        self.handler.end_headers()

    def send(self, *lines: bytes) -> None:
        for each in lines:
            self.handler.wfile.write(b"%x\r\n%s\r\n" % (len(each), each))
        self.handler.wfile.flush()

    def end(self) -> None:
        self.handler.wfile.write(b"0\r\n\r\n")

    def hang(self) -> None:
        """Send nothing until the server closes."""
        self.server.closing.wait(30)

    def reset(self) -> None:
        """Close the connection by RST instead of FIN."""
        sock = self.handler.connection
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handler.close_connection = True
        sock.close()
        self.handler.wfile = open("/dev/null", "wb")  # noqa: SIM115


class ScriptedServer:
    """Serves lists and watches of `objects`, except where `script` says otherwise."""

    def __init__(self, certificate: Path | None = None, client_ca: Path | None = None) -> None:
        self.objects: dict[str, list[dict[str, Any]]] = {"services": [], "endpointslices": [], "nodes": []}
        """By plural, what good answers hold."""
        self.script: dict[str, list[Callable[[Asked], None] | None]] = {}
        """By plural, how the next requests are answered; None, and the end of the list, is a good answer."""
        self.asked: list[Asked] = []
        """Every request, in order."""
        self.closing = threading.Event()
        self.watches: list[Asked] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                asked = Asked(self, server)
                server.asked.append(asked)
                script = server.script.get(asked.plural, [])
                answer = script.pop(0) if script else None
                try:
                    (answer or server.good)(asked)
                except OSError:
                    self.close_connection = True

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._http = Server(("127.0.0.1", 0), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            if client_ca:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(client_ca)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def good(self, asked: Asked) -> None:
        """Answer with a list, or with a watch that sends the objects and then nothing; `watches` holds it."""
        objects = self.objects[asked.plural]
        if not asked.watches:
            asked.answer(page(*objects, version=100))
            return
        asked.begin()
        if asked.streams:
            asked.send(*(line("ADDED", each) for each in objects), bookmark(100, end=True))
        self.watches.append(asked)
        asked.hang()

    def of(self, plural: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.plural == plural]

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
