"""This package installs packet rules of other programs in a lab's node, beside the agent's.

    catalogue.py       every neighbour by a word, with what it needs to know of the node: begin here
    recorded.py        loads a file of rules/, with the tool of its family
    calico.py          Calico's policy chains beside IPVS, and its jumps, put first again
    firewalls.py       ufw and firewalld
    docker.py          dockerd, with or without a published port
    host_ports.py      pods' host ports: the CNI plugin portmap, and the smallest rules that do the same
    node_local_dns.py  node-local-dns: rules without connection tracking, and its device
    kube_proxy.py      what kube-proxy's ipvs mode refused when it ran last
    bans.py            banned clients: a bare rule, and fail2ban
    rules/, README.md  what the programs wrote, and how it was recorded

Every function runs the tools that PATH finds in the namespace, so the rules are iptables-nft's or iptables-legacy's
as the agent's are. Several neighbours may share a node: none sets a policy to ACCEPT, so none opens
what another closed.
"""

from integration.flows.neighbours.catalogue import NEIGHBOURS, Site, install

__all__ = ["NEIGHBOURS", "Site", "install"]
