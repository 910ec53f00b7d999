"""Finds UDP virtual servers whose flows may have lost their real server. Pure.

`agent/udp_flows.py` ends such flows; it finds them by the address that a client sent to.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from ipvsagent.cluster.objects import ServiceKey
from ipvsagent.model import VirtualServer
from ipvsagent.policy.desired import DesiredState


def moved(before: VirtualServer | None, after: VirtualServer) -> bool:
    """Return whether clients of the virtual server may have lost their real server."""
    return before is None or (before.real_servers, before.inside) != (after.real_servers, after.inside)


def with_flows_of(server: VirtualServer, desired: DesiredState) -> Iterator[VirtualServer]:
    """Yield a virtual server whose rows change, and those whose clients on this node are translated to it. The
    `node_real_servers` of each are what may answer such clients."""
    key = ServiceKey(server.service.namespace, server.service.service)
    others = (desired.get(server_id) for server_id in desired.ids_of(key))
    for each in (server, *(other for other in others if other and other.inside == server.id)):
        target = desired.get(each.inside) if each.inside else None
        yield replace(each, node_real_servers=target.real_servers) if target else each
