"""Defines the resources of the API that a Service proxy follows, with the selectors of kube-proxy
(cmd/kube-proxy/app/server.go)."""

from __future__ import annotations

from msgspec import Struct


class Resource(Struct, frozen=True):
    """Holds the path of a kind's objects, and selectors for those that a Service proxy follows."""

    path: str
    labels: str = ""
    """A label selector."""
    fields: str = ""
    """A field selector."""

    @property
    def plural(self) -> str:
        return self.path.rpartition("/")[2]


RESOURCES = {
    "Service": Resource("/api/v1/services", "!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None"),
    "EndpointSlice": Resource("/apis/discovery.k8s.io/v1/endpointslices", "!service.kubernetes.io/headless"),
    "Node": Resource("/api/v1/nodes"),
}


class Request(Struct, frozen=True):
    """Describes a request to the API server."""

    path: str
    query: tuple[tuple[str, str], ...]
    timeout: float
    """Seconds of silence after which the connection counts as dead."""
