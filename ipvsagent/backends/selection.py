"""Which backend this node gets: IPVS, or where the kernel has none, iptables."""

from __future__ import annotations

import contextlib

from ipvsagent.backends.iptables import IptablesNode, empty_iptables_recorder, iptables_pipeline
from ipvsagent.backends.ipvs import Node, empty_recorder, pipeline_for
from ipvsagent.config import Backend, Config
from ipvsagent.errors import IpvsAgentError, KernelError, StartError
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.kernel import host
from ipvsagent.kernel.host import IpvsAbsent
from ipvsagent.pipeline import Pipeline
from ipvsagent.rows import Op

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


def open_as_found(config: Config, told: str = "") -> AnyNode:
    """The node with the backend that serves on it now, for who only looks: iptables if the kernel has no IPVS, or if
    virtual servers are chains here, which new connections meet first. told: what the agent here says, if one runs.
    Raises StartError.
    """
    if told == IptablesNode.backend_name or host.ip_vs_presence() is host.IpvsPresence.ABSENT:
        return IptablesNode(config)
    if not told:
        with contextlib.suppress(StartError, KernelError):
            other = IptablesNode(config)
            if any(other.servers.read(None)):
                return other
    return Node(config)


def open_ipvs(config: Config) -> Node:
    """The node with its IPVS table, whoever serves. Raises StartError, and IpvsAgentError if there is none because
    Services are on iptables."""
    if host.ip_vs_presence() is host.IpvsPresence.ABSENT and any(IptablesNode(config).servers.read(None)):
        raise IpvsAgentError("Services are on iptables here: there is no IPVS to list; use `iptables-save -t nat`")
    return Node(config)


def empty_pipeline(config: Config, ops: list[Op]) -> Pipeline:
    """For a dry run anywhere, against a kernel that holds nothing."""
    if config.backend is Backend.IPTABLES:
        return iptables_pipeline(config, empty_iptables_recorder(config, ops), window=0)
    return pipeline_for(config, empty_recorder(ops), window=0)
