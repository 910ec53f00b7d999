"""Claim (f), from outside: when does `default/kubernetes` answer a client of this node?

Plays the API server behind the Service, too. It takes part of a CPU while the agent works, which is a
part of the truth: clients that wait for the API do the same.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

from integration.bench.cluster import API_ADDRESS, API_ENDPOINT, API_ENDPOINT_PORT, API_PORT

_PAUSE = 0.01
_PATIENCE = 0.05


def main(limit: float) -> None:
    """Prints `ready`, then the time on the monotonic clock at which the first answer was there."""
    with socket.create_server((API_ENDPOINT, API_ENDPOINT_PORT)) as server:
        server.settimeout(_PATIENCE)
        print("ready", flush=True)
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                _ask(server)
                print(time.monotonic(), flush=True)
                return
            time.sleep(_PAUSE)
    raise SystemExit(f"probe: no answer from {API_ADDRESS} within {limit:g} s")


def _ask(server: socket.socket) -> None:
    """Raises OSError while there is no answer."""
    with socket.create_connection((API_ADDRESS, API_PORT), timeout=_PATIENCE) as client:
        accepted, _ = server.accept()
        with accepted:
            accepted.sendall(b"ok")
        if client.recv(2) != b"ok":
            raise OSError("not the answer")


if __name__ == "__main__":
    main(float(sys.argv[1]))
