"""A namespace of a test's own, on the double or on the API server that is named (see test_apiserver_contract.py)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration.apiserver import Access
from tests.support.api_client import ApiClient
from tests.support.api_server import api_server

REAL = "IPVSAGENT_TEST_KUBECONFIG"


@dataclass
class Place:
    """A namespace of its own on an API server."""

    api: ApiClient
    namespace: str

    @property
    def services(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/services"

    @property
    def slices(self) -> str:
        return f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"

    def add(self, name: str, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
        reply = self.api.call("POST", self.services, service(name, labels, **spec))
        assert reply.code == 201, reply.text
        thing: dict[str, Any] = reply.thing
        return thing

    def version(self) -> str:
        """Of a list now."""
        version: str = self.api.get(self.services).thing["metadata"]["resourceVersion"]
        return version


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


def service(name: str, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "labels": labels or {}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}], **spec}}


def endpoint_slice(name: str, *addresses: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }
