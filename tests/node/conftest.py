"""Fixtures of the node that the tests of a whole agent run on, and of agents on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_processes import Agents
from tests.support.cluster_documents import Document, endpoint_slice, service
from tests.support.proxied_node import A, B, ProxiedNode


@pytest.fixture(scope="module")
def place() -> Iterator[ProxiedNode]:
    made = ProxiedNode()
    yield made
    made.close()


@pytest.fixture
def agents(place: ProxiedNode, tmp_path: Path) -> Iterator[Agents]:
    """Agents with an empty source directory; afterwards they, their virtual servers and addresses are gone."""
    made = Agents(place.node, tmp_path)
    yield made
    made.close()
    place.node.run("sh", "-c", "ipvsadm -C; ip link delete kube-ipvs0 2>/dev/null; true")


@pytest.fixture
def web(place: ProxiedNode) -> tuple[Document, Document, str]:
    """A Service with the endpoints A and B, its slice, and its address."""
    address = place.free_address()
    return service("web", address), endpoint_slice("web", [A, B]), address
