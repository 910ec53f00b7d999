"""Defines the desired state of Services on this node: the one model that every backend renders.

It consists of values only. A `VirtualServer` is one (protocol, address, port) of one Service port. It names its real
servers, not how a kernel stores them; `render/` turns it into rows.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from msgspec import Struct

from ipvsagent.address import Address, Family, endpoint_text, family_of


class Protocol(StrEnum):
    """Names a protocol, as Kubernetes and ipvsadm spell it.

    FWM is not a protocol: a firewall mark may identify a virtual server of another program, or of an agent up to 0.1.0.
    The mark is then the `port` of its id, and the address `0.0.0.0` or `::` gives the family.
    """

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"
    FWM = "FWM"


class Forwarding(IntEnum):
    """Names forwarding methods, with the kernel's numbers (IP_VS_CONN_F_*, include/uapi/linux/ip_vs.h)."""

    MASQUERADE = 0
    LOCAL = 1
    TUNNEL = 2
    ROUTE = 3


class Frontend(StrEnum):
    """Names which kind of a Service's addresses a virtual server has."""

    CLUSTER_IP = "ClusterIP"
    EXTERNAL_IP = "ExternalIP"
    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT = "NodePort"
    NODE_CLIENTS = "NodeClients"
    """A hidden address, not known to clients. It has every endpoint of a Service port whose traffic policies are both
    Local, and clients on this node are translated to it."""


class WhenEmpty(StrEnum):
    """Names what happens to new connections to a virtual server without real servers."""

    REFUSE = "refuse"
    """There is no endpoint anywhere: the client gets a refusal at once."""
    DROP = "drop"
    """Endpoints exist, but a Local traffic policy excludes this client. pkg/proxy/iptables/proxier.go drops, and does
    not reject, in that case."""


class VirtualServerId(Struct, frozen=True, gc=False, order=True):
    """Identifies a virtual server in IPVS: two with equal ids cannot both exist."""

    protocol: Protocol
    address: Address
    port: int

    @property
    def family(self) -> Family:
        return family_of(self.address)

    def __str__(self) -> str:
        if self.protocol is Protocol.FWM:
            return f"FWM {self.port}{' IPv6' if self.family is Family.IPV6 else ''}"
        return f"{self.protocol} {endpoint_text(self.address, self.port)}"


class ServicePortName(Struct, frozen=True, gc=False, order=True):
    """Names a port of a Service, the unit that Kubernetes balances. `port` is the port's name, "" if it has none."""

    namespace: str
    service: str
    port: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}{':' + self.port if self.port else ''}"


class RealServer(Struct, frozen=True, gc=False, order=True):
    """Describes one endpoint behind a virtual server."""

    address: Address
    port: int
    weight: int = 1
    local: bool = False
    """It runs on this node."""
    alive: bool = True
    """Its EndpointSlice calls it ready and not terminating. An endpoint that vanishes while alive was moved or
    deselected; one that vanishes otherwise has ended (see reconcile/drain.py)."""


class VirtualServer(Struct, frozen=True, gc=False, kw_only=True):
    """Describes the desired state of one virtual server. Times are in seconds; 0 means none."""

    id: VirtualServerId
    service: ServicePortName
    frontend: Frontend
    scheduler: str
    scheduler_flags: int = 0
    """IP_VS_SVC_F_SCHED1 to 3 (0x8, 0x10, 0x20)."""
    persistence_timeout: int = 0
    one_packet: bool = False
    real_servers: tuple[RealServer, ...] = ()
    """The real servers for clients outside this node, and for all clients unless the next field is set."""
    node_real_servers: tuple[RealServer, ...] | None = None
    """The real servers for clients on this node, which are its pods and processes; None = the same. A Service with
    `externalTrafficPolicy: Local` serves these clients from every endpoint. An IPVS virtual server has one set, so that
    `inside` takes the place of this field there."""
    inside: VirtualServerId | None = None
    """The virtual server with all endpoints that clients on this node are translated to."""
    node_only: bool = False
    """Its real servers are for clients on this node; no other client gets an answer."""
    unused: tuple[RealServer, ...] = ()
    """Endpoints that a slice lists but that must get no new connection now. They never add a row; a real server that
    the kernel already has keeps its connections at weight 0."""
    when_empty: WhenEmpty = WhenEmpty.REFUSE
    bind: bool = True
    """Its address is added to our interface; False if another interface of this node has it."""
    preserve_client_address: bool = True
    source_ranges: tuple[str, ...] = ()
    """CIDRs that may reach it; empty = all clients."""
    drain_timeout: float | None = None
    """Seconds for which its real servers drain; None = the agent's setting."""
