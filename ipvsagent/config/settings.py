"""Defines the settings, as one frozen value. Names and defaults are kube-proxy's where it has the setting
(pkg/proxy/apis/config/types.go, v1alpha1/defaults.go), so that operators find what they know."""

from __future__ import annotations

import socket
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct

from ipvsagent.config.parsers import Network, PortRange


class BackendChoice(StrEnum):
    """Names the backend that the operator chose."""

    AUTO = "auto"
    """IPVS, or iptables if the kernel reports that it has no ip_vs, and for no other reason."""
    IPVS = "ipvs"
    """IPVS; without ip_vs the start fails."""
    IPTABLES = "iptables"


class Config(Struct, frozen=True, kw_only=True):
    """Holds every setting. Durations are in seconds; a kernel timeout of 0 leaves the kernel's value alone."""

    sources: tuple[Path, ...] = ()
    """Files and directories of objects; if there are none, objects come from the Kubernetes API."""
    kubeconfig: str = ""
    """"" = the API server is found as in a pod, or as kubectl finds it."""
    master: str = ""
    """The URL of the API server, which overrides the kubeconfig; an option only."""
    allow_api_by_cluster_ip: bool = False
    """The API server may be at a Service address that this agent itself serves."""
    node_name: str = ""
    """"" = the host name, which `for_this_node` fills in."""
    allow_empty: bool = False
    """A source that became empty is accepted."""
    backend: BackendChoice = BackendChoice.AUTO
    interface: str = "kube-ipvs0"
    """The dummy interface that Service addresses are bound to."""
    scheduler: str = "rr"
    """The scheduler of Services that name none."""
    excluded: tuple[Network, ...] = ()
    """CIDRs whose virtual servers are left alone, unless this agent created them."""
    allowed_external: tuple[Network, ...] = ()
    """CIDRs in which externalIPs of Services are served."""
    node_port_addresses: tuple[str, ...] = ()
    """CIDRs of node addresses that serve node ports, or the one word "primary"; empty = every address of the node."""
    bind_address: str = "0.0.0.0"
    """Unless unspecified (0.0.0.0, ::), this node's primary address, whatever its Node object says. No socket is bound
    to it."""
    service_cidrs: tuple[Network, ...] = ()
    route_mode: bool = False
    """A route makes the ranges of `service_cidrs` local, so that their addresses are not bound."""
    drain_timeout: float = 900.0
    """How long a real server keeps its connections after its endpoint is gone."""
    window: float = 0.1
    """The time between rounds, and how long a vanished endpoint may take to appear in another slice."""
    cluster_cidrs: tuple[Network, ...] = ()
    """The ranges of pods' addresses."""
    detect_local: str = "ClusterCIDR"
    """How traffic of pods is recognized: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix."""
    pod_bridge: str = ""
    """The bridge of pods, for BridgeInterface."""
    pod_interface_prefix: str = ""
    """The prefix of the names of pods' interfaces, for InterfaceNamePrefix."""
    masquerade_all: bool = False
    masquerade_bit: int = 14
    """0 to 31"""
    localhost_node_ports: bool = True
    """Node ports are served on 127.0.0.1, with the iptables backend."""
    idle_timeout: float = 0.0
    """How long a TCP connection of a Service may be idle, for IPVS and connection tracking."""
    tcp_timeout: float = 0.0
    tcp_fin_timeout: float = 0.0
    udp_timeout: float = 0.0
    strict_arp: bool = False
    """Sets arp_ignore and arp_announce for the whole host."""
    answer_arp: bool = False
    """The kernel answers ARP for Service addresses; otherwise it is kept from that on the LAN's interfaces."""
    conntrack_max_per_core: int = 32768
    """0 leaves the size of the connection tracking table alone, whatever `conntrack_min` is."""
    conntrack_min: int = 131072
    conntrack_tcp_established: float = 86400.0
    conntrack_tcp_close_wait: float = 3600.0
    conntrack_be_liberal: bool = False
    conntrack_udp: float = 0.0
    conntrack_udp_stream: float = 0.0
    service_node_port_range: PortRange = PortRange(30000, 32767)
    """The range of the API server; no connection of the node itself uses a source port from it."""
    oom_score_adj: int = -999
    """The OOM score adjustment of this process."""
    healthz_address: str = "0.0.0.0:10256"
    """`ADDRESS:PORT`; "" = no server."""
    metrics_address: str = "127.0.0.1:10249"
    """`ADDRESS:PORT`; "" = no server."""
    bind_hard_fail: bool = False
    """The agent exits if a server cannot listen."""
    events: bool = True
    """Findings are written to the API as Events."""
    sync_period: float = 30.0
    """The node is unhealthy if a change waits for more than twice this period."""
    log_level: str = "info"
    state_dir: Path = Path("/run/ipvsagent")
    """The directory of the lock, the ledger and the status socket of each network namespace; emptied at boot."""

    @property
    def pod_interface(self) -> str:
        """Return the interface of packets from pods as iptables writes it, a prefix with a `+`; "" = any interface."""
        if self.detect_local == "BridgeInterface":
            return self.pod_bridge
        if self.detect_local == "InterfaceNamePrefix":
            return self.pod_interface_prefix.rstrip("+") + "+"
        return ""


def node_name(override: str) -> str:
    """Return the name of this node's objects: the override or the host name, trimmed and in lower case
    (cmd/kube-proxy/app/options.go)."""
    return (override.strip() or socket.gethostname()).strip().lower()


def for_this_node(config: Config) -> Config:
    """Return a configuration with the node's name filled in."""
    return msgspec.structs.replace(config, node_name=node_name(config.node_name))
