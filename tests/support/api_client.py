"""A client of the Kubernetes API that shows status codes, headers and lines as they are, and retries nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
LIMIT = 20.0


class Reply:
    """Holds an answer. `thing` is the body if it is JSON, otherwise None."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self.code, self.headers, self.text = response.status, response.headers, response.data
        try:
            self.thing: Any = json.loads(self.text)
        except ValueError:
            self.thing = None


class Stream:
    """Iterates over the events of an open watch, and ends when the server ends it."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self.code = response.status
        self._lines = _lines(response)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(next(self._lines))
        return event

    def take(self, count: int) -> list[tuple[str, str]]:
        """Return the types of the next events, each with the name of its object."""
        return [shown(next(self)) for _ in range(count)]


class ApiClient:
    """Calls the API server of a kubeconfig. A token replaces all credentials of the kubeconfig."""

    def __init__(self, kubeconfig: Path, token: str = "") -> None:
        configuration = client.Configuration()
        config.load_kube_config(str(kubeconfig), client_configuration=configuration)
        if token:
            configuration.cert_file = configuration.key_file = None
        self._pool = client.ApiClient(configuration).rest_client.pool_manager
        self._server = configuration.host
        self.headers = {auth["key"]: auth["value"] for auth in configuration.auth_settings().values()}
        if token:
            self.headers = {"authorization": f"Bearer {token}"}

    def call(
        self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None, **query: object
    ) -> Reply:
        return Reply(self._request(method, path, body, headers, query))

    def get(self, path: str, **query: object) -> Reply:
        return self.call("GET", path, **query)

    def patch(self, path: str, body: object, kind: str = MERGE, **query: object) -> Reply:
        return self.call("PATCH", path, body, headers={"Content-Type": kind}, **query)

    @contextmanager
    def watch(self, path: str, **query: object) -> Iterator[Stream]:
        response = self._request("GET", path, None, None, {"watch": "1", **query}, preload_content=False)
        try:
            yield Stream(response)
        finally:
            response.close()

    def _request(
        self, method: str, path: str, body: object, headers: dict[str, str] | None, query: dict[str, object], **how: Any
    ) -> urllib3.BaseHTTPResponse:
        return self._pool.request(
            method,
            f"{self._server}{path}{'?' + urlencode(query) if query else ''}",
            body=body if body is None or isinstance(body, bytes) else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **self.headers, **(headers or {})},
            timeout=LIMIT,
            retries=False,
            **how,
        )


def shown(event: dict[str, Any]) -> tuple[str, str]:
    return event["type"], event["object"].get("metadata", {}).get("name", "")


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    rest = b""
    for piece in response.stream(65536):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    assert rest == b"", rest
