"""What a Service should be on this node: the one model that every backend renders.

Values only. A `VirtualServer` is one (protocol, address, port) of one Service port. It says which real servers
it has, not how a kernel stores them; `render/` turns it into rows.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

from msgspec import Struct

from ipvsagent.address import Address, Family, endpoint_text, family_of


class Protocol(StrEnum):
    """As Kubernetes and ipvsadm spell them. FWM is no protocol: a virtual server of another program, or of an agent up
    to 0.1.0, may be identified by a firewall mark, which is then the `port` of its id (address `0.0.0.0` or `::` gives
    the family)."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"
    FWM = "FWM"


class Forwarding(IntEnum):
    """Forwarding methods with the kernel's numbers (IP_VS_CONN_F_*, include/uapi/linux/ip_vs.h)."""

    MASQUERADE = 0
    LOCAL = 1
    TUNNEL = 2
    ROUTE = 3


class Frontend(StrEnum):
    """Which of a Service's addresses a virtual server stands for."""

    CLUSTER_IP = "ClusterIP"
    EXTERNAL_IP = "ExternalIP"
    LOAD_BALANCER = "LoadBalancer"
    NODE_PORT = "NodePort"
    NODE_CLIENTS = "NodeClients"
    """None that clients know: where clients on this node find every endpoint of a Service port whose traffic policies
    are both Local. They are translated to it."""


class WhenEmpty(StrEnum):
    """What a client meets when a virtual server has no real server for it.

    REFUSE: no endpoint anywhere; the client is told at once. DROP: endpoints exist, but a Local traffic policy
    keeps them from this client (pkg/proxy/iptables/proxier.go drops, and does not reject, in that case).
    """

    REFUSE = "refuse"
    DROP = "drop"


class VirtualServerId(Struct, frozen=True, gc=False, order=True):
    """Identity in IPVS: two virtual servers with equal ids cannot both exist."""

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
    """A port of a Service, the unit that Kubernetes balances. `port` is the port's name, "" if it has none."""

    namespace: str
    service: str
    port: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}{':' + self.port if self.port else ''}"


class RealServer(Struct, frozen=True, gc=False, order=True):
    """One endpoint behind a virtual server.

    local: it runs on this node. alive: its EndpointSlice calls it ready and not terminating; an endpoint that
    vanishes while alive was moved or deselected, one that vanishes otherwise has ended (see reconcile/drain.py).
    """

    address: Address
    port: int
    weight: int = 1
    local: bool = False
    alive: bool = True


class VirtualServer(Struct, frozen=True, gc=False, kw_only=True):
    """Desired state of one virtual server. Seconds for times; 0 means none.

    real_servers:      for clients outside this node, and for all clients unless the next field is set.
    node_real_servers: for clients on this node (its pods and processes) where they differ: a Service with
                       `externalTrafficPolicy: Local` serves these from every endpoint; None = the same.
                       An IPVS virtual server has one set, so that there `inside` takes the place of this field.
    inside:            the virtual server that has all endpoints: clients on this node are translated to it.
    node_only:         its real servers are for clients on this node; no other gets an answer.
    unused:            endpoints that a slice lists but that must get no new connection now. They never add a
                       row; a real server that the kernel already has keeps its connections at weight 0.
    bind:              the address goes on our interface; False where another interface of this node has it.
    scheduler_flags:   IP_VS_SVC_F_SCHED1 to 3 (0x8, 0x10, 0x20).
    source_ranges:     CIDRs that may reach it; empty = everybody.
    drain_timeout:     for its real servers; None = the agent's.
    """

    id: VirtualServerId
    service: ServicePortName
    frontend: Frontend
    scheduler: str
    scheduler_flags: int = 0
    persistence_timeout: int = 0
    one_packet: bool = False
    real_servers: tuple[RealServer, ...] = ()
    node_real_servers: tuple[RealServer, ...] | None = None
    inside: VirtualServerId | None = None
    node_only: bool = False
    unused: tuple[RealServer, ...] = ()
    when_empty: WhenEmpty = WhenEmpty.REFUSE
    bind: bool = True
    preserve_client_address: bool = True
    source_ranges: tuple[str, ...] = ()
    drain_timeout: float | None = None
