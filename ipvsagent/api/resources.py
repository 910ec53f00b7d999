"""Where the API has what a Service proxy follows, and which of it. Selectors are kube-proxy's
(cmd/kube-proxy/app/server.go)."""

from __future__ import annotations

from msgspec import Struct


class Resource(Struct, frozen=True):
    """Where objects of a kind are, and which of them a Service proxy follows."""

    path: str
    labels: str = ""
    fields: str = ""

    @property
    def plural(self) -> str:
        return self.path.rpartition("/")[2]


RESOURCES = {
    "Service": Resource("/api/v1/services", "!service.kubernetes.io/service-proxy-name", "spec.clusterIP!=None"),
    "EndpointSlice": Resource("/apis/discovery.k8s.io/v1/endpointslices", "!service.kubernetes.io/headless"),
    "Node": Resource("/api/v1/nodes"),
}


class Request(Struct, frozen=True):
    """What is asked. timeout: seconds of silence after which the connection is taken for dead."""

    path: str
    query: tuple[tuple[str, str], ...]
    timeout: float
