"""This module installs what node-local-dns writes: it is a DNS cache that also listens on the cluster's DNS address.

After cmd/node-cache/app/cache_app.go and pkg/netif/netif.go of kubernetes/dns.
"""

from __future__ import annotations

from collections.abc import Iterable

from integration.flows.neighbours.recorded import by_version, restore
from integration.lab import LabError, Namespace

DEVICE = "nodelocaldns"
LINK_LOCAL = "169.254.20.10"
# The plugins of CoreDNS that answer the kubelet's probes.
_HEALTH, _READY = 8080, 8181
_SKIP = '-j NOTRACK -m comment --comment "NodeLocal DNS Cache: skip conntrack"'
_ALLOW = '-j ACCEPT -m comment --comment "NodeLocal DNS Cache: allow DNS traffic"'


def install_node_local_dns(node: Namespace, addresses: Iterable[str]) -> None:
    """Creates the device with the addresses, and installs the rules in front of all others.

    addresses: where the cache listens: the DNS Service's cluster IP and LINK_LOCAL, of either or both families.
    Raises LabError if a tool refuses.
    """
    listened = list(addresses)
    _create_device(node)
    node.ip(f"address add {each} dev {DEVICE}{' nodad' if ':' in each else ''}" for each in listened)
    for version, group in by_version(listened).items():
        restore(node, version, node_local_dns_rules(group))


def node_local_dns_rules(addresses: Iterable[str]) -> str:
    """Returns input of iptables-restore. Each rule is put first, so the last one comes to stand first."""
    raw: list[str] = []
    accept: list[str] = []
    for address in addresses:
        to, by = f"-d {address} --dport", f"-s {address} --sport"
        both = ("tcp", "udp")
        raw += [f"-I PREROUTING -p {protocol} {to} 53 {_SKIP}" for protocol in both]
        accept += [f"-I INPUT -p {protocol} {to} 53 {_ALLOW}" for protocol in both]
        raw += [f"-I OUTPUT -p {protocol} {by} 53 {_SKIP}" for protocol in both]
        accept += [f"-I OUTPUT -p {protocol} {by} 53 {_ALLOW}" for protocol in both]
        raw += [f"-I OUTPUT -p {protocol} {to} 53 {_SKIP}" for protocol in both]
        for port in (_HEALTH, _READY):
            raw += [f"-I OUTPUT -p tcp {side} {port} {_SKIP}" for side in (to, by)]
    return "\n".join(["*raw", *raw, "COMMIT", "*filter", *accept, "COMMIT", ""])


def _create_device(node: Namespace) -> None:
    """Creates a dummy device, down as the cache leaves it. Where the kernel has no dummies, a bridge is one."""
    try:
        node.run("ip", "link", "add", DEVICE, "type", "dummy")
    except LabError as error:
        if "Unknown device type" not in str(error):
            raise
        node.run("ip", "link", "add", DEVICE, "type", "bridge")
