"""Settings, as one frozen value, and the parsers of what people write in them.

Names and defaults follow kube-proxy where it has the setting (pkg/proxy/apis/config/types.go), so that what
operators know goes on being true. The environment is not read here or anywhere else.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from pathlib import Path

from msgspec import Struct

from ipvsagent.errors import ConfigError

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Config(Struct, frozen=True, kw_only=True):
    """Durations in seconds. A kernel timeout of 0 leaves the kernel's value alone.

    allowed_external: CIDRs from which Services may take externalIPs. node_port_addresses: CIDRs of node addresses that
    serve node ports, or the one word "primary"; empty = every address of the node.
    cluster_cidrs: where pods' addresses are. detect_local: how traffic of pods is told from other traffic, as
    kube-proxy names it (ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix); pod_interface: the bridge, or a
    prefix with a `+` behind it, for the last two. masquerade_bit: 0 to 31.
    state_dir holds the lock, the ledger and the status socket of each network namespace; gone at boot.
    """

    sources: tuple[Path, ...] = ()
    node_name: str = ""
    interface: str = "kube-ipvs0"
    scheduler: str = "rr"
    excluded: tuple[Network, ...] = ()
    allowed_external: tuple[Network, ...] = ()
    node_port_addresses: tuple[str, ...] = ()
    cluster_cidrs: tuple[Network, ...] = ()
    masquerade_all: bool = False
    masquerade_bit: int = 14
    detect_local: str = "ClusterCIDR"
    pod_interface: str = ""
    drain_timeout: float = 900.0
    window: float = 0.1
    tcp_timeout: float = 0.0
    tcp_fin_timeout: float = 0.0
    udp_timeout: float = 0.0
    allow_empty: bool = False
    state_dir: Path = Path("/run/ipvsagent")


def parse_duration(text: str) -> float:
    """Seconds of a Go duration such as `1h30m`, `15m`, `100ms` or `0`. Raises ConfigError."""
    text = text.strip()
    if text == "0":
        return 0.0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError([f"{text!r} is not a duration; write for example 30s, 15m or 1h30m"])
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def parse_network(text: str) -> Network:
    """An IPv4 or IPv6 CIDR, host bits allowed. Raises ConfigError."""
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise ConfigError([f"{text!r} is not a CIDR: {error}"]) from None


def node_name(override: str) -> str:
    """The name under which this node's objects are found: the override, else the host name; trimmed, lower case
    (cmd/kube-proxy/app/options.go)."""
    return (override or socket.gethostname()).strip().lower()
