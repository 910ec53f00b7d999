"""Route mode: which ranges of Service addresses can be made local to this node by a route, and with which source."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from ipvsagent.address import Address
from ipvsagent.config import Network
from ipvsagent.findings import Finding, FindingKind


class ServiceRoute(Struct, frozen=True):
    """source: what this node's processes take as their own address towards the range; "" = nothing is known."""

    network: Network
    source: Address = Address("")


def service_routes(
    wanted: Iterable[Network],
    own: Sequence[Address],
    interface_addresses: frozenset[Address],
    other_nodes: Mapping[Address, str],
) -> tuple[tuple[ServiceRoute, ...], tuple[Finding, ...]]:
    """A range with an address of a node in it gets no route: it would cut that node off from here. Its Service
    addresses are bound one by one.

    own: this node's addresses, the first one first.
    """
    routes, findings = [], []
    nodes = [(ipaddress.ip_address(a), a, "this node") for a in sorted(interface_addresses)]
    nodes += [(ipaddress.ip_address(a), a, f"Node {name}") for a, name in sorted(other_nodes.items())]
    for network in wanted:
        inside = next(((text, whose) for address, text, whose in nodes if address in network), None)
        if inside:
            reason = (
                f"range {network} gets no route, because {inside[0]}, an address of {inside[1]}, is in it; cluster IPs "
                "of that range are bound one by one"
            )
            findings.append(Finding(FindingKind.ADDRESS_REFUSED, "route mode", reason))
            continue
        sources = [a for a in own if a in interface_addresses and (":" in a) is (network.version == 6)]
        routes.append(ServiceRoute(network, sources[0] if sources else Address("")))
    return tuple(routes), tuple(findings)
