"""The settings, as one frozen value. Names and defaults follow kube-proxy where it has the setting
(pkg/proxy/apis/config/types.go, v1alpha1/defaults.go), so that what operators know goes on being true."""

from __future__ import annotations

import socket
from enum import StrEnum
from pathlib import Path

import msgspec
from msgspec import Struct

from ipvsagent.config.parsers import Network, PortRange


class BackendChoice(StrEnum):
    """IPVS is strict: without ip_vs the start fails. AUTO falls back to iptables where the kernel says that it has no
    ip_vs, and for no other reason."""

    AUTO = "auto"
    IPVS = "ipvs"
    IPTABLES = "iptables"


class Config(Struct, frozen=True, kw_only=True):
    """Durations in seconds. A kernel timeout of 0 leaves the kernel's value alone.

    What is read
      sources: files and folders of objects; if there are none, the Kubernetes API is. kubeconfig, master: how the API
      server is found, "" = as a pod or kubectl finds it; master overrides what the kubeconfig says, and is an option
      only. allow_api_by_cluster_ip: it may be at a Service address that this agent itself makes work.
      node_name: "" = the host name, which who builds a Config for a node fills in (`node_name()`).
      allow_empty: a source that became empty is believed.

    What is served
      backend: see BackendChoice. interface: the dummy interface that Service addresses are bound to.
      scheduler: of Services that name none. excluded: CIDRs whose virtual servers are left alone unless we made them.
      allowed_external: CIDRs from which Services may take externalIPs. node_port_addresses: CIDRs of node addresses
      that serve node ports, or the one word "primary"; empty = every address of the node.
      bind_address: unless unspecified (0.0.0.0, ::), this node's first address, whatever its Node object says; no
      socket is bound to it. service_cidrs, route_mode: deliver whole ranges of cluster IPs to this node by a route,
      instead of binding each address. drain_timeout: how long a real server keeps old connections. window: seconds
      between rounds, and how long a vanished endpoint is waited for.

    Packet rules
      cluster_cidrs: where pods' addresses are. detect_local: how traffic of pods is told from other traffic, as
      kube-proxy names it (ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix); pod_bridge,
      pod_interface_prefix: for the last two. masquerade_bit: 0 to 31. localhost_node_ports: node ports on 127.0.0.1,
      with the iptables backend.

    The host
      idle_timeout: how long a TCP connection of a Service may be idle, for IPVS and connection tracking.
      strict_arp: sets arp_ignore and arp_announce for the whole host. answer_arp: the kernel goes on answering ARP for
      Service addresses; else it is kept from that on the LAN's interfaces. conntrack_max_per_core: 0 leaves the size of
      the connection tracking table alone, and conntrack_min with it. service_node_port_range: the API server's; no
      connection of the node itself takes its source port from there. oom_score_adj: of this process.

    Servers
      healthz_address, metrics_address: `ADDRESS:PORT`, "" = no server. bind_hard_fail: a server that cannot listen
      ends the agent. events: findings are written to the API as Events. sync_period: a change that waits for twice as
      long makes the node unhealthy.

    state_dir holds the lock, the ledger and the status socket of each network namespace; gone at boot.
    """

    sources: tuple[Path, ...] = ()
    kubeconfig: str = ""
    master: str = ""
    allow_api_by_cluster_ip: bool = False
    node_name: str = ""
    allow_empty: bool = False
    backend: BackendChoice = BackendChoice.AUTO
    interface: str = "kube-ipvs0"
    scheduler: str = "rr"
    excluded: tuple[Network, ...] = ()
    allowed_external: tuple[Network, ...] = ()
    node_port_addresses: tuple[str, ...] = ()
    bind_address: str = "0.0.0.0"
    service_cidrs: tuple[Network, ...] = ()
    route_mode: bool = False
    drain_timeout: float = 900.0
    window: float = 0.1
    cluster_cidrs: tuple[Network, ...] = ()
    detect_local: str = "ClusterCIDR"
    pod_bridge: str = ""
    pod_interface_prefix: str = ""
    masquerade_all: bool = False
    masquerade_bit: int = 14
    localhost_node_ports: bool = True
    idle_timeout: float = 0.0
    tcp_timeout: float = 0.0
    tcp_fin_timeout: float = 0.0
    udp_timeout: float = 0.0
    strict_arp: bool = False
    answer_arp: bool = False
    conntrack_max_per_core: int = 32768
    conntrack_min: int = 131072
    conntrack_tcp_established: float = 86400.0
    conntrack_tcp_close_wait: float = 3600.0
    conntrack_be_liberal: bool = False
    conntrack_udp: float = 0.0
    conntrack_udp_stream: float = 0.0
    service_node_port_range: PortRange = PortRange(30000, 32767)
    oom_score_adj: int = -999
    healthz_address: str = "0.0.0.0:10256"
    metrics_address: str = "127.0.0.1:10249"
    bind_hard_fail: bool = False
    events: bool = True
    sync_period: float = 30.0
    log_level: str = "info"
    state_dir: Path = Path("/run/ipvsagent")

    @property
    def pod_interface(self) -> str:
        """What packets of pods come in by, as iptables writes it: a prefix ends in `+`. "" = not told by interface."""
        if self.detect_local == "BridgeInterface":
            return self.pod_bridge
        if self.detect_local == "InterfaceNamePrefix":
            return self.pod_interface_prefix.rstrip("+") + "+"
        return ""


def node_name(override: str) -> str:
    """The name under which this node's objects are found: the override, else the host name; trimmed, lower case
    (cmd/kube-proxy/app/options.go)."""
    return (override.strip() or socket.gethostname()).strip().lower()


def for_this_node(config: Config) -> Config:
    """With the node's name filled in."""
    return msgspec.structs.replace(config, node_name=node_name(config.node_name))
