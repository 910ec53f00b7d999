"""The catalogue has every neighbour by a word, such as a stand of the packet table has in its column `host`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from integration.flows.neighbours.bans import ban, ban_with_fail2ban
from integration.flows.neighbours.calico import LINKS, install_calico
from integration.flows.neighbours.docker import BRIDGE, install_docker
from integration.flows.neighbours.firewalls import install_firewalld, install_firewalld_nftables, install_ufw
from integration.flows.neighbours.host_ports import call_portmap, install_host_port
from integration.flows.neighbours.kube_proxy import install_kube_proxy
from integration.flows.neighbours.node_local_dns import install_node_local_dns
from integration.lab import LabError, Namespace


@dataclass(frozen=True)
class Site:
    """A site is what neighbours need to know of a lab.

    addresses: the node's own. pod, pod_addresses: the pod that host ports and published ports lead to, at most one
    address of each family. dns: addresses of node-local-dns. clients: the banned ones. pod_links: Calico's two pods'.
    docker_bridge: the device that leads to the published pod. services: addresses of Services that a kube-proxy knew.
    """

    node: Namespace
    addresses: tuple[str, ...]
    pod: Namespace
    pod_addresses: tuple[str, ...]
    dns: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    pod_links: tuple[str, str] = LINKS
    docker_bridge: str = BRIDGE
    services: tuple[str, ...] = ()


# nftables alone needs a kernel with nf_tables; the others need iptables, whichever of its variants.
NEIGHBOURS: Mapping[str, Callable[[Site], None]] = {
    "calico": lambda site: install_calico(site.node, site.addresses, site.pod_links),
    "ufw deny": lambda site: install_ufw(site.node, "deny"),
    "ufw reject": lambda site: install_ufw(site.node, "reject"),
    "docker": lambda site: install_docker(site.node, bridge=site.docker_bridge),
    "docker port": lambda site: install_docker(site.node, site.pod_addresses, site.docker_bridge),
    "firewalld": lambda site: install_firewalld(site.node),
    "firewalld eth0": lambda site: install_firewalld(site.node, eth0_in_zone=True),
    "firewalld nftables": lambda site: install_firewalld_nftables(site.node),
    "firewalld nftables eth0": lambda site: install_firewalld_nftables(site.node, eth0_in_zone=True),
    "portmap": lambda site: call_portmap(site.node, site.pod, site.pod_addresses),
    "host port": lambda site: install_host_port(site.node, site.pod_addresses),
    "node-local-dns": lambda site: install_node_local_dns(site.node, site.dns),
    "kube-proxy": lambda site: install_kube_proxy(site.node, site.services, [(each, 80) for each in site.services]),
    "banned": lambda site: ban(site.node, site.clients),
    "fail2ban": lambda site: ban_with_fail2ban(site.node, site.clients),
    "fail2ban all ports": lambda site: ban_with_fail2ban(site.node, site.clients, all_ports=True),
}


def install(word: str, site: Site) -> None:
    """Installs the neighbour. Raises LabError for an unknown word, and if a tool refuses."""
    if word not in NEIGHBOURS:
        raise LabError(f"no neighbour is called {word}: there are {', '.join(NEIGHBOURS)}")
    NEIGHBOURS[word](site)
