"""Defines the parts of Kubernetes objects that ipvsagent reads, in the shape that they have in JSON.

Attributes are spelled as on the wire. Everything that the API may omit or send as null is optional; unknown fields are
skipped. Only types are checked here; `decode.py` checks values.
"""

from __future__ import annotations

from msgspec import Struct


class Metadata(Struct, frozen=True, gc=False):
    name: str | None = None
    namespace: str | None = None
    creationTimestamp: str | None = None
    deletionTimestamp: str | None = None
    resourceVersion: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class ServicePort(Struct, frozen=True, gc=False):
    port: int | None = None
    name: str | None = None
    protocol: str | None = None
    nodePort: int | None = None


class ClientIPConfig(Struct, frozen=True, gc=False):
    timeoutSeconds: int | None = None


class SessionAffinityConfig(Struct, frozen=True, gc=False):
    clientIP: ClientIPConfig | None = None


class ServiceSpec(Struct, frozen=True, gc=False):
    type: str | None = None
    clusterIP: str | None = None
    clusterIPs: tuple[str, ...] | None = None
    ipFamilies: tuple[str, ...] | None = None
    externalIPs: tuple[str, ...] | None = None
    ports: tuple[ServicePort, ...] | None = None
    internalTrafficPolicy: str | None = None
    externalTrafficPolicy: str | None = None
    sessionAffinity: str | None = None
    sessionAffinityConfig: SessionAffinityConfig | None = None
    loadBalancerSourceRanges: tuple[str, ...] | None = None
    healthCheckNodePort: int | None = None


class Ingress(Struct, frozen=True, gc=False):
    ip: str | None = None
    ipMode: str | None = None


class LoadBalancer(Struct, frozen=True, gc=False):
    ingress: tuple[Ingress, ...] | None = None


class ServiceStatus(Struct, frozen=True, gc=False):
    loadBalancer: LoadBalancer | None = None


class Service(Struct, frozen=True, gc=False):
    metadata: Metadata | None = None
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


class Conditions(Struct, frozen=True, gc=False):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(Struct, frozen=True, gc=False):
    """Describes an entry of `forZones` or `forNodes`."""

    name: str | None = None


class Hints(Struct, frozen=True, gc=False):
    forZones: tuple[Hint, ...] | None = None
    forNodes: tuple[Hint, ...] | None = None


class Endpoint(Struct, frozen=True, gc=False):
    addresses: tuple[str, ...] | None = None
    conditions: Conditions | None = None
    nodeName: str | None = None
    zone: str | None = None
    hints: Hints | None = None


class EndpointPort(Struct, frozen=True, gc=False):
    """Describes a port of a slice. A name that is absent or null is "", the API server's default
    (pkg/apis/discovery/v1/defaults.go)."""

    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class EndpointSlice(Struct, frozen=True, gc=False):
    metadata: Metadata | None = None
    addressType: str | None = None
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None


class Taint(Struct, frozen=True, gc=False):
    key: str | None = None


class NodeSpec(Struct, frozen=True, gc=False):
    podCIDR: str | None = None
    podCIDRs: tuple[str, ...] | None = None
    taints: tuple[Taint, ...] | None = None


class NodeAddress(Struct, frozen=True, gc=False):
    type: str | None = None
    address: str | None = None


class NodeStatus(Struct, frozen=True, gc=False):
    addresses: tuple[NodeAddress, ...] | None = None


class Node(Struct, frozen=True, gc=False):
    metadata: Metadata | None = None
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


Object = Service | EndpointSlice | Node
