"""Asks the HTTP servers of an agent on the node of the lab."""

from __future__ import annotations

import http.client

from integration.lab import Namespace
from tests.support.exposition import samples_of
from tests.support.proxied_node import ProxiedNode

HEALTH, METRICS = 10256, 10249


def get(place: ProxiedNode, port: int, path: str) -> tuple[int, str]:
    """Return the status and the body of an answer to a request from within the node."""
    return ask(place.node, "127.0.0.1", port, path)


def ask(namespace: Namespace, host: str, port: int, path: str = "/") -> tuple[int, str]:
    with namespace.entered():
        connection = http.client.HTTPConnection(host, port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def samples(place: ProxiedNode) -> dict[str, float]:
    status, text = get(place, METRICS, "/metrics")
    assert status == 200
    return samples_of(text)
