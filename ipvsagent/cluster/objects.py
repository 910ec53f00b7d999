"""What Kubernetes says, reduced to what a Service proxy uses.

`Service` is always the Kubernetes one. Values are validated: whoever holds one may rely on the ranges named
here. `decode.py` makes them; nothing else should.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from ipvsagent.address import Address, Family, family_of
from ipvsagent.model import Protocol


class ObjectKey(NamedTuple):
    """kind is `Service`, `EndpointSlice` or `Node`; a Node's namespace is ""."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace + '/' if self.namespace else ''}{self.name}"


class ServicePort(Struct, frozen=True, gc=False):
    """name: "" if it has none. port: 1 to 65535. node_port: 0 if it has none."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0


class LoadBalancerIngress(Struct, frozen=True, gc=False):
    """An entry of status.loadBalancer.ingress that has an ip. proxied: `ipMode: Proxy`, traffic must leave the node."""

    address: Address
    proxied: bool = False


class Service(Struct, frozen=True, gc=False, kw_only=True):
    """created: seconds since 1970, None if the object does not say. cluster_ips: in order, without "None".

    headless: no cluster IP, or ExternalName, or carries the label `service.kubernetes.io/service-proxy-name`: kept
    because the object exists, never served (pkg/proxy/util/utils.go ShouldSkipService; cmd/kube-proxy/app/server.go).
    affinity_timeout: seconds, 0 = no affinity. annotations: only those that ipvsagent reads.
    """

    namespace: str
    name: str
    created: int | None = None
    type: str = "ClusterIP"
    headless: bool = False
    cluster_ips: tuple[Address, ...] = ()
    external_ips: tuple[Address, ...] = ()
    ingress: tuple[LoadBalancerIngress, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    internal_local: bool = False
    external_local: bool = False
    affinity_timeout: int = 0
    source_ranges: tuple[str, ...] = ()
    health_check_node_port: int = 0
    annotations: dict[str, str] = {}

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Service", self.namespace, self.name)

    @property
    def families(self) -> frozenset[Family]:
        """The families that it has a cluster IP of, and is served in."""
        return frozenset([family_of(address) for address in self.cluster_ips])


class Endpoint(Struct, frozen=True, gc=False):
    """One endpoint of a slice. node: "" if unknown. hints: zones and nodes it should serve."""

    address: Address
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    zone: str = ""
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()


class EndpointPort(Struct, frozen=True, gc=False):
    """A port of a slice: joins the Service port of the same name and protocol; port: 1 to 65535."""

    name: str
    protocol: Protocol
    port: int


class EndpointSlice(Struct, frozen=True, gc=False, kw_only=True):
    """service: name of the Service in the same namespace, "" if the slice names none (then it is ignored)."""

    namespace: str
    name: str
    service: str
    family: Family
    ports: tuple[EndpointPort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("EndpointSlice", self.namespace, self.name)


class Node(Struct, frozen=True, gc=False, kw_only=True):
    """addresses: InternalIP and ExternalIP, in the object's order. zone: label topology.kubernetes.io/zone, or "".

    leaving: it is being deleted, or the cluster autoscaler is about to remove it: no new traffic from load balancers.
    """

    name: str
    addresses: tuple[Address, ...] = ()
    zone: str = ""
    leaving: bool = False
    pod_cidrs: tuple[str, ...] = ()
    annotations: dict[str, str] = {}

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("Node", "", self.name)


Object = Service | EndpointSlice | Node


class ServiceKey(NamedTuple):
    """A Service's place in every table: (namespace, name)."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Changes(Struct, frozen=True, kw_only=True):
    """What a source says happened, to be applied as one.

    upserts:   objects as they are now. removals: keys of objects that are gone.
    synced:    the source has delivered its first complete state (with this message, or before).
    blind:     what the source knows that it does not know; None = as before.
    triggered: when what changed EndpointSlices here happened, as they say themselves; seconds since 1970.
    """

    upserts: tuple[Object, ...] = ()
    removals: tuple[ObjectKey, ...] = ()
    synced: bool = False
    blind: BlindSpots | None = None
    triggered: tuple[float, ...] = ()


class BlindSpots(Struct, frozen=True):
    """Objects that exist but could not be read, and of which no accepted version is known.

    While the agent is blind it must not remove from the kernel what such an object may claim.

    anything:  an input that may hold any object is unreadable.
    services:  some Service is unreadable, so a virtual server that no known Service wants may be its.
    endpoints: Services of which some EndpointSlice is unreadable: their real servers stay.
    """

    anything: bool = False
    services: bool = False
    endpoints: frozenset[ServiceKey] = frozenset()

    @property
    def holds_virtual_servers(self) -> bool:
        """A virtual server found in the kernel that nobody wants must stay."""
        return self.anything or self.services

    def holds_real_servers(self, namespace: str, service: str) -> bool:
        """A real server found in the kernel that this Service does not want must stay."""
        return self.anything or ServiceKey(namespace, service) in self.endpoints


EVERYTHING_KNOWN = BlindSpots()
