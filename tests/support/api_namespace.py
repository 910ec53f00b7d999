"""A namespace on the API server double, or on the real API server of test_apiserver_contract.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.api_client import ApiClient

REAL = "IPVSAGENT_TEST_KUBECONFIG"


@dataclass
class Place:
    """A namespace that one test uses alone."""

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
        """Return the resourceVersion that a list has now."""
        version: str = self.api.get(self.services).thing["metadata"]["resourceVersion"]
        return version


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
