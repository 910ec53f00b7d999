"""Finds the fronts of a Service on this node: the addresses and ports that it is reached at, and why one is refused.

An address of a family that the Service has no cluster IP of is refused, and so is an address of another Node, and an
external IP outside the allowed ranges. A cluster IP that another program put on an interface of its own, as
node-local-dns does, is served by that program: no virtual server may take its packets.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct

from ipvsagent.address import Address, Family, family_of
from ipvsagent.cluster.objects import Service, ServicePort
from ipvsagent.config import Network
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.model import Frontend
from ipvsagent.policy.capabilities import Capabilities
from ipvsagent.policy.limits import MAX_RANGE_MEMBERS
from ipvsagent.policy.node import NodeFacts
from ipvsagent.source_ranges import NOBODY, Networks, networks_of


class Front(Struct, frozen=True):
    """Describes one address and port of a Service port."""

    frontend: Frontend
    address: Address
    port: int
    local: bool
    """A Local traffic policy applies to it."""


def fronts_of(service: Service, port: ServicePort, node: NodeFacts) -> Iterable[Front]:
    """Yield the fronts of one Service port in order of precedence: a Service may name one address twice."""
    for address in service.cluster_ips:
        yield Front(Frontend.CLUSTER_IP, address, port.port, service.internal_local)
    local = _external_local(service)
    for ingress in service.ingress:
        if not ingress.proxied:
            yield Front(Frontend.LOAD_BALANCER, ingress.address, port.port, local)
    for address in service.external_ips:
        yield Front(Frontend.EXTERNAL_IP, address, port.port, local)
    if port.node_port:
        families = service.families
        for address in node.node_port_addresses:
            if family_of(address) in families:
                yield Front(Frontend.NODE_PORT, address, port.node_port, local)


def _external_local(service: Service) -> bool:
    """Return whether externalTrafficPolicy Local applies: only where the Service can be reached from outside
    (pkg/api/v1/service/util.go ExternalPolicyLocal)."""
    return service.external_local and (
        service.type in ("LoadBalancer", "NodePort") or (service.type == "ClusterIP" and bool(service.external_ips))
    )


def why_refused(
    service: Service,
    front: Front,
    node: NodeFacts,
    capabilities: Capabilities,
    allowed_external: tuple[Network, ...],
) -> Finding | None:
    """Return why a front is not served, or None. allowed_external: CIDRs from which external IPs are served."""
    if family_of(front.address) not in service.families:
        return _other_family(service, front)
    other = node.other_nodes.get(front.address)
    if other is not None:
        # Bound on every node, the address would cut that node off from all others (kubernetes/kubernetes#127410).
        reason = (
            f"{front.frontend} address {front.address} is an address of Node {other}; serving it here would cut that "
            "node off, so it is not served"
        )
        return Finding(FindingKind.ADDRESS_REFUSED, str(service.key), reason)
    holder = node.held_addresses.get(front.address)
    if holder is not None and front.frontend is Frontend.CLUSTER_IP and capabilities.takes_untracked:
        reason = (
            f"cluster IP {front.address} is on interface {holder} of this node, so it is left to the program that put "
            "it there, as node-local-dns does; its external addresses are still served"
        )
        return Finding(FindingKind.ADDRESS_REFUSED, str(service.key), reason)
    if front.frontend is Frontend.EXTERNAL_IP and not is_within(front.address, allowed_external):
        reason = f"external IP {front.address} is not allowed; allow its range with --allow-external-ips"
        return Finding(FindingKind.ADDRESS_REFUSED, str(service.key), reason, "spec.externalIPs")
    return None


def _other_family(service: Service, front: Front) -> Finding:
    """Return the finding of an address of a family that the Service has no cluster IP of.

    It is not served in that family (pkg/proxy/servicechangetracker.go serviceToServiceMap), though cloud controllers
    write load balancer addresses of both.
    """
    family = family_of(front.address).value
    reason = (
        f"{front.frontend} address {front.address} is not served: it is {family}, and the Service has no {family} "
        f"cluster IP, only {', '.join(service.cluster_ips)}; spec.ipFamilyPolicy: PreferDualStack gives it one"
    )
    field = "spec.externalIPs" if front.frontend is Frontend.EXTERNAL_IP else "status.loadBalancer.ingress"
    return Finding(FindingKind.ADDRESS_REFUSED, str(service.key), reason, field)


def no_node_port_address(subject: str, port: ServicePort) -> Finding:
    """Return the finding of a node port on a node without an address that serves node ports."""
    reason = f"node port {port.node_port} is not served: no address of this node serves node ports"
    return Finding(FindingKind.ADDRESS_REFUSED, subject, reason, "spec.ports.nodePort")


def source_ranges_of(service: Service, front: Front, node: NodeFacts) -> tuple[str, ...]:
    """Return the CIDRs that may reach a front; empty = all clients.

    Source ranges apply to load balancer addresses only. A node that is inside one may connect to such an address, and
    then has that very address as its source (pkg/proxy/ipvs/proxier.go, KUBE-LOAD-BALANCER-SOURCE-IP).
    """
    if front.frontend is not Frontend.LOAD_BALANCER or not service.source_ranges:
        return ()
    family = family_of(front.address)
    if len(networks_of(service.source_ranges, family)) > _max_ranges(service):
        return NOBODY[family]
    if any(
        is_within(address, networks_of(service.source_ranges, family_of(address))) for address in node.node_addresses
    ):
        return (*service.source_ranges, front.address)
    return service.source_ranges


def _max_ranges(service: Service) -> int:
    """Return how many ranges of one family a Service may have: one set holds the ranges of all Services."""
    families = service.families
    addresses = sum(not each.proxied and family_of(each.address) in families for each in service.ingress)
    return MAX_RANGE_MEMBERS // max(1, addresses * len(service.ports))


def too_many_ranges(service: Service) -> Iterable[Finding]:
    """Yield a finding if the Service has more source ranges than are honoured."""
    limit = _max_ranges(service)
    if service.source_ranges and any(len(networks_of(service.source_ranges, family)) > limit for family in Family):
        reason = (
            f"has more than {limit} source ranges, the most for {len(service.ports)} ports: its load balancer "
            "addresses are closed to all clients; use fewer and wider ranges"
        )
        field = "spec.loadBalancerSourceRanges"
        yield Finding(FindingKind.INVALID_OBJECT, str(service.key), reason, field, severity=Severity.ERROR)


@lru_cache(maxsize=4096)
def is_within(address: Address, networks: tuple[Network, ...] | Networks) -> bool:
    """Return whether any of the networks contains the address."""
    ip = ipaddress.ip_address(address)
    return any(ip in network for network in networks)
