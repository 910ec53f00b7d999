"""Serves and queries the status socket: a Unix socket in the state directory that answers with one JSON document.

The serving thread owns nothing: it puts a `Query` into the inbox and waits for the loop to answer between rounds.
Only root may connect (the directory and the socket are 0700 and 0600).
"""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from queue import Empty, SimpleQueue

import msgspec
from msgspec import Struct

from ipvsagent.printable import to_json
from ipvsagent.sources.inbox import Inbox
from ipvsagent.status.snapshot import Snapshot

ANSWER_WITHIN = 30.0


class Query(Struct, frozen=True):
    """Asks the loop for a snapshot, which it puts into `answer`."""

    answer: SimpleQueue[Snapshot]


def serve(path: Path, inbox: Inbox, stop: threading.Event) -> threading.Thread:
    """Answer on `path` in a thread of its own until `stop`; a leftover socket file is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(os.fspath(path))
    path.chmod(0o600)
    listener.listen(8)
    thread = threading.Thread(target=_serve, args=(listener, inbox, stop), name="status", daemon=True)
    thread.start()
    return thread


def _serve(listener: socket.socket, inbox: Inbox, stop: threading.Event) -> None:
    with listener:
        while not stop.is_set():
            try:
                _answer(listener, inbox)
            except (OSError, Empty):
                stop.wait(0.1)  # the client has gone, or the loop is busy, or there is no free descriptor
            except Exception as error:
                inbox.put(error)
                return


def _answer(listener: socket.socket, inbox: Inbox) -> None:
    connection, _ = listener.accept()
    with connection:
        query = Query(SimpleQueue())
        inbox.put(query)
        connection.settimeout(ANSWER_WITHIN)
        connection.sendall(to_json(query.answer.get(timeout=ANSWER_WITHIN)))


def ask(path: Path) -> Snapshot | None:
    """Return the snapshot of the agent that serves `path`; None if no agent does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_WITHIN)
        try:
            connection.connect(os.fspath(path))
            parts = []
            while part := connection.recv(1 << 20):
                parts.append(part)
        except (FileNotFoundError, ConnectionRefusedError, TimeoutError):
            return None
    return msgspec.json.decode(b"".join(parts), type=Snapshot) if parts else None
