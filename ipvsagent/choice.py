"""Which backend this node gets: IPVS, or where the kernel has none, iptables."""

from __future__ import annotations

from ipvsagent.config import Backend, Config
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.iptables_node import IptablesNode
from ipvsagent.kernel.host import IpvsAbsent
from ipvsagent.node import Node

AnyNode = Node | IptablesNode


def open_node(config: Config, *, load_modules: bool = False) -> AnyNode:
    """Raises StartError; with backend ipvs also where IPVS is absent.

    auto takes iptables only where the kernel says that it has no IPVS: whatever else is wrong with IPVS is for a person
    to put right, and virtual servers of ours cannot exist without it.
    """
    if config.backend is Backend.IPTABLES:
        return IptablesNode(config)
    try:
        return Node(config, load_modules=load_modules)
    except IpvsAbsent as absent:
        if config.backend is Backend.IPVS:
            raise
        reason = (
            f"{absent.what}, so Services are on iptables: endpoints are chosen at random, and every change costs more "
            f"the more Services there are. {absent.remedy}, and start the agent again"
        )
        return IptablesNode(config, (Finding(FindingKind.FALLBACK, "backend", reason),))
