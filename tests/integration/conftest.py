"""Fixtures of labs, and of namespaces on an API server.

Labs need root, not ip_vs: without root they fail and say so, because a skip would look like a pass.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.apiserver import Access
from integration.lab import Lab, Servers
from tests.support.api_client import ApiClient
from tests.support.api_namespace import REAL, Place
from tests.support.api_server import api_server
from tests.support.lab_topology import TOPOLOGY

NOT_ROOT = "network namespaces need root: run these tests as root (`sudo make test-native`)"


@pytest.fixture(scope="session")
def root() -> None:
    if os.geteuid() != 0:
        pytest.fail(NOT_ROOT, pytrace=False)


@pytest.fixture
def servers() -> Iterator[Servers]:
    with Servers() as running:
        yield running


@pytest.fixture
def lab(root: None) -> Iterator[Lab]:
    with Lab(TOPOLOGY) as built:
        yield built


@pytest.fixture(scope="module", params=["double", *(["real"] if REAL in os.environ else [])])
def kubeconfig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if request.param == "real":
        yield Path(os.environ[REAL])
        return
    access = Access({"a-token": "kubernetes-admin"}, required=True)
    with api_server(access=access) as server:
        server.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}})
        server.store.compact()
        server.store.fresh_within = 0.3
        yield server.write_kubeconfig(tmp_path_factory.mktemp("double") / "kubeconfig")


@pytest.fixture
def place(kubeconfig: Path) -> Iterator[Place]:
    api = ApiClient(kubeconfig)
    name = f"ipvsagent-{secrets.token_hex(4)}"
    assert api.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}}).code == 201
    yield Place(api, name)
    api.call("DELETE", f"/api/v1/namespaces/{name}")
