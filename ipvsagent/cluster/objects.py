"""Defines Kubernetes' objects, reduced to what a Service proxy uses.

Values are validated: they are in the ranges documented here. `decode.py` makes them, and nothing else should.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from ipvsagent.address import Address, Family, family_of
from ipvsagent.model import Protocol


class ObjectKey(NamedTuple):
    """Identifies an object. `kind` is `Service`, `EndpointSlice` or `Node`; a Node's namespace is ""."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace + '/' if self.namespace else ''}{self.name}"


class ServicePort(Struct, frozen=True, gc=False):
    """Describes a port of a Service."""

    name: str
    """"" if it has none."""
    protocol: Protocol
    port: int
    """1 to 65535"""
    node_port: int = 0
    """0 if it has none."""


class LoadBalancerIngress(Struct, frozen=True, gc=False):
    """Describes an entry of status.loadBalancer.ingress that has an IP address."""

    address: Address
    proxied: bool = False
    """The entry has `ipMode: Proxy`: traffic must leave the node."""


class Service(Struct, frozen=True, gc=False, kw_only=True):
    """Describes a v1 Service."""

    namespace: str
    name: str
    created: int | None = None
    """Seconds since 1970; None if the object has no creation time."""
    type: str = "ClusterIP"
    headless: bool = False
    """It has no cluster IP, is of type ExternalName, or has the label `service.kubernetes.io/service-proxy-name`. It is
    kept because it exists, but never served (pkg/proxy/util/utils.go ShouldSkipService; cmd/kube-proxy/app/server.go).
    """
    cluster_ips: tuple[Address, ...] = ()
    """In the object's order, without "None"."""
    external_ips: tuple[Address, ...] = ()
    ingress: tuple[LoadBalancerIngress, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    internal_local: bool = False
    external_local: bool = False
    affinity_timeout: int = 0
    """Seconds; 0 = no affinity."""
    source_ranges: tuple[str, ...] = ()
    health_check_node_port: int = 0
    annotations: dict[str, str] = {}
    """Only those that ipvsagent reads."""

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Service", self.namespace, self.name)

    @property
    def families(self) -> frozenset[Family]:
        """Return the families that it has a cluster IP of, and is served in."""
        return frozenset([family_of(address) for address in self.cluster_ips])


class Endpoint(Struct, frozen=True, gc=False):
    """Describes an endpoint of a slice. The hints are the zones and nodes that it should serve."""

    address: Address
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    """"" if unknown."""
    zone: str = ""
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


class EndpointPort(Struct, frozen=True, gc=False):
    """Describes a port of a slice, for the Service port of the same name and protocol. `port` is 1 to 65535."""

    name: str
    protocol: Protocol
    port: int


class EndpointSlice(Struct, frozen=True, gc=False, kw_only=True):
    """Describes a discovery.k8s.io/v1 EndpointSlice."""

    namespace: str
    name: str
    service: str
    """The name of its Service, in the same namespace; "" if the slice names none (then it is ignored)."""
    family: Family
    ports: tuple[EndpointPort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("EndpointSlice", self.namespace, self.name)


class Node(Struct, frozen=True, gc=False, kw_only=True):
    """Describes a v1 Node."""

    name: str
    addresses: tuple[Address, ...] = ()
    """InternalIP and ExternalIP, in the object's order."""
    zone: str = ""
    """The label topology.kubernetes.io/zone, or ""."""
    leaving: bool = False
    """It is being deleted, or the cluster autoscaler is about to remove it: load balancers must send no new traffic."""
    pod_cidrs: tuple[str, ...] = ()
    annotations: dict[str, str] = {}

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Node", "", self.name)


Object = Service | EndpointSlice | Node


class ServiceKey(NamedTuple):
    """Identifies a Service in every table."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Changes(Struct, frozen=True, kw_only=True):
    """Holds changes that a source reports, to be applied together."""

    upserts: tuple[Object, ...] = ()
    """Objects that were added or changed, as they are now."""
    removals: tuple[ObjectKey, ...] = ()
    """Keys of objects that are gone."""
    synced: bool = False
    """The source has delivered its first complete state, with this message or before."""
    blind: BlindSpots | None = None
    """What the source knows to exist but could not read; None = as before."""
    triggered: tuple[float, ...] = ()
    """When the changes that led to these EndpointSlices happened, from their annotations; seconds since 1970."""


class BlindSpots(Struct, frozen=True):
    """Describes objects that exist but could not be read, and of which no accepted version is known.

    While there are any, the agent must not remove from the kernel what such an object may claim.
    """

    anything: bool = False
    """An input that may hold any object is unreadable."""
    services: bool = False
    """Some Service is unreadable, and may claim a virtual server that no known Service asks for."""
    endpoints: frozenset[ServiceKey] = frozenset()
    """Services of which some EndpointSlice is unreadable: their real servers are kept."""

    @property
    def holds_virtual_servers(self) -> bool:
        """Return whether a virtual server in the kernel that no Service asks for must be kept."""
        return self.anything or self.services

    def holds_real_servers(self, namespace: str, service: str) -> bool:
        """Return whether a real server in the kernel that this Service does not ask for must be kept."""
        return self.anything or ServiceKey(namespace, service) in self.endpoints


EVERYTHING_KNOWN = BlindSpots()
