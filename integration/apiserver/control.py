"""What a person or another process tells the server while it runs, below /double. Needs the same credentials.

GET, PUT, POST, DELETE /double/faults     the script that is left; replace it; add to it; empty it
POST /double/compact                      forget what happened: older versions are expired
POST /double/restart                      {"down": SECONDS, "history": "kept" | "lost"}
POST /double/disconnect                   reset all connections
POST /double/advance                      {"versions": N}: the counter moves on
GET /double/requests                      the latest requests
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import msgspec

from integration.apiserver.api import Answer, Request
from integration.apiserver.errors import ApiError, bad_request, no_such_path
from integration.apiserver.faults import read_script

if TYPE_CHECKING:
    from integration.apiserver.server import ApiServer

PREFIX = "/double/"


def control(server: ApiServer, request: Request) -> Answer | None:
    """None for a request that is not about the server itself."""
    if not request.path.startswith(PREFIX):
        return None
    try:
        server.access.user(request.headers, request.certificate)
        return Answer(200, _obey(server, request))
    except ApiError as error:
        return Answer(error.code, json.dumps(error.status()).encode())


def _obey(server: ApiServer, request: Request) -> bytes:
    what = (request.method, request.path.removeprefix(PREFIX))
    try:
        match what:
            case ("GET", "faults"):
                pass
            case ("PUT", "faults"):
                server.faults.replace(read_script(request.body))
            case ("POST", "faults"):
                server.faults.add(*read_script(request.body))
            case ("DELETE", "faults"):
                server.faults.clear()
            case ("POST", "compact"):
                server.store.compact()
            case ("POST", "advance"):
                server.store.advance(int(_options(request).get("versions", 1)))
            case ("POST", "disconnect"):
                threading.Timer(0.05, server.disconnect).start()
            case ("POST", "restart"):
                options = _options(request)
                arguments = {"down": float(options.get("down", 0)), "history": options.get("history", "kept")}
                # The answer should get out before.
                threading.Timer(0.05, server.restart, kwargs=arguments).start()
            case ("GET", "requests"):
                return msgspec.json.encode(list(server.requests))
            case _:
                raise no_such_path()
    except (ValueError, TypeError) as error:
        raise bad_request(str(error)) from error
    return msgspec.json.encode(server.faults.left)


def _options(request: Request) -> dict[str, str]:
    options = json.loads(request.body or b"{}")
    if not isinstance(options, dict):
        raise ValueError("an object is expected")
    return options
