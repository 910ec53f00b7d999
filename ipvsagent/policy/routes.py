"""Decides, for route mode, which ranges of Service addresses a route can make local to this node, and with which source
address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from ipvsagent.address import Address
from ipvsagent.config import Network
from ipvsagent.findings import Finding, FindingKind


class ServiceRoute(Struct, frozen=True):
    """Describes a range of Service addresses that a route makes local to this node."""

    network: Network
    source: Address = Address("")
    """The source address of this node's processes towards the range; "" = unknown."""


def service_routes(
    networks: Iterable[Network],
    own: Sequence[Address],
    interface_addresses: frozenset[Address],
    other_nodes: Mapping[Address, str],
) -> tuple[tuple[ServiceRoute, ...], tuple[Finding, ...]]:
    """Return the routes, and a finding for each range that gets none.

    A range that contains an address of a node gets no route, which would cut that node off from here; its Service
    addresses are bound one by one. own: this node's addresses, the primary one first.
    """
    routes, findings = [], []
    nodes = [(ipaddress.ip_address(a), a, "this node") for a in sorted(interface_addresses)]
    nodes += [(ipaddress.ip_address(a), a, f"Node {name}") for a, name in sorted(other_nodes.items())]
    for network in networks:
        inside = next(((text, whose) for address, text, whose in nodes if address in network), None)
        if inside:
            reason = (
                f"range {network} gets no route, because it contains {inside[0]}, an address of {inside[1]}; cluster "
                "IPs of that range are bound one by one"
            )
            findings.append(Finding(FindingKind.ADDRESS_REFUSED, "route mode", reason))
            continue
        sources = [a for a in own if a in interface_addresses and (":" in a) is (network.version == 6)]
        routes.append(ServiceRoute(network, sources[0] if sources else Address("")))
    return tuple(routes), tuple(findings)
