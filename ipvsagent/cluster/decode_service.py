"""Decodes a v1 Service: its addresses and ports, and how they are to be served.

It is lenient where kube-proxy is, and validates what kube-proxy leaves to the API server
(pkg/proxy/serviceport.go, pkg/apis/core/validation/validation.go).
"""

from __future__ import annotations

from sys import intern

from ipvsagent.address import Address, family_of, parse_address
from ipvsagent.cluster import wire
from ipvsagent.cluster.fields import (
    FAMILIES,
    NO_METADATA,
    Broken,
    address_at,
    annotations_of,
    created_at,
    identity_of,
    left_out,
    network_of,
    number_at,
    protocol_at,
    quoted,
    why_not_ordinary,
)
from ipvsagent.cluster.objects import LoadBalancerIngress, ObjectKey, Service, ServicePort
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import Protocol

PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
DEFAULT_AFFINITY_TIMEOUT = 10800
MAX_AFFINITY_TIMEOUT = 86400


def service_of(item: wire.Service, findings: list[Finding]) -> Service:
    """Decode a Service, and add to `findings` what is left out. Raises Broken."""
    metadata, spec = item.metadata or NO_METADATA, item.spec
    namespace, name = identity_of(metadata)
    if spec is None:
        raise Broken("spec", "is missing")
    kind = spec.type or "ClusterIP"
    created = created_at(metadata)
    annotations = annotations_of(metadata)
    first = spec.clusterIP or (spec.clusterIPs or ("",))[0]
    key = ObjectKey("Service", namespace, name)
    not_ours = kind == "ExternalName" or PROXY_NAME_LABEL in (metadata.labels or ())
    if not first and not not_ours:
        reason = (
            "is missing, so the Service is not served: a cluster assigns it when the Service is applied; apply it, and "
            "use what `kubectl get services -o yaml` prints"
        )
        findings.append(left_out(key, "spec.clusterIP", reason))
    if first in ("", "None") or not_ours:
        return Service(
            namespace=namespace,
            name=name,
            created=created,
            type=kind,
            headless=True,
            annotations=annotations,
        )
    ingress = _ingress(item.status, key, findings)
    source_ranges = _source_ranges(spec, key, findings) if spec.loadBalancerSourceRanges else ()
    if source_ranges is None:
        # The ranges restrict these addresses only; without them the addresses would be open to all clients.
        ingress, source_ranges = (), ()
    return Service(
        namespace=namespace,
        name=name,
        created=created,
        type=kind,
        cluster_ips=_cluster_ips(spec, first),
        external_ips=_external_ips(spec.externalIPs, key, findings) if spec.externalIPs else (),
        ingress=ingress,
        ports=_ports(spec.ports or ()),
        internal_local=_is_local("internalTrafficPolicy", spec.internalTrafficPolicy, key, findings),
        external_local=_is_local("externalTrafficPolicy", spec.externalTrafficPolicy, key, findings),
        affinity_timeout=_affinity_timeout(spec, key, findings),
        source_ranges=source_ranges,
        health_check_node_port=number_at("spec.healthCheckNodePort", spec.healthCheckNodePort or 0, 0, 65535),
        annotations=annotations,
    )


def _cluster_ips(spec: wire.ServiceSpec, first: str) -> tuple[Address, ...]:
    """Return the cluster IPs in use: `clusterIP` only if there are no ipFamilies, otherwise those with the index of a
    family (pkg/proxy/util/utils.go GetClusterIPByFamily)."""
    listed = spec.clusterIPs or (first,)
    addresses = []
    for index, text in enumerate(listed):
        field = f"spec.clusterIPs[{index}]" if spec.clusterIPs else "spec.clusterIP"
        addresses.append(_cluster_ip(field, text))
    if listed[0] != first and _cluster_ip("spec.clusterIP", first) != addresses[0]:
        raise Broken("spec.clusterIPs[0]", f"is {addresses[0]}, but spec.clusterIP is {quoted(first)}")
    families = spec.ipFamilies
    if not families:
        return (addresses[0],)
    if len(set(families)) < len(families):
        raise Broken("spec.ipFamilies", "names a family twice")
    for index, (text, address) in enumerate(zip(families, addresses, strict=False)):
        if text not in FAMILIES:
            raise Broken(f"spec.ipFamilies[{index}]", f"{quoted(text)} is not IPv4 or IPv6")
        if FAMILIES[text] is not family_of(address):
            raise Broken(f"spec.ipFamilies[{index}]", f"is {text}, but the cluster IP there is {address}")
    return tuple(addresses[: len(families)])


def _cluster_ip(field: str, text: str) -> Address:
    address = address_at(field, text)
    why = why_not_ordinary(address)
    if why:
        raise Broken(field, f"{address} cannot be served: {why}")
    return address


def _ports(ports: tuple[wire.ServicePort, ...]) -> tuple[ServicePort, ...]:
    result = []
    names: set[str] = set()
    numbers: set[tuple[Protocol, int]] = set()
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        if port.port is None:
            raise Broken(f"{field}.port", "is missing")
        number = number_at(f"{field}.port", port.port, 1, 65535)
        protocol = protocol_at(f"{field}.protocol", port.protocol)
        name = port.name or ""
        if not name and len(ports) > 1:
            raise Broken(f"{field}.name", "is missing; a Service with several ports must name each of them")
        if name in names:
            raise Broken(f"{field}.name", f"{quoted(name)} is also the name of an earlier port")
        if (protocol, number) in numbers:
            raise Broken(f"{field}.port", f"{protocol} {number} is also an earlier port")
        names.add(name)
        numbers.add((protocol, number))
        node_port = number_at(f"{field}.nodePort", port.nodePort, 0, 65535) if port.nodePort else 0
        result.append(ServicePort(intern(name), protocol, number, node_port))
    return tuple(result)


def _affinity_timeout(spec: wire.ServiceSpec, key: ObjectKey, findings: list[Finding]) -> int:
    if spec.sessionAffinity != "ClientIP":
        if spec.sessionAffinity not in (None, "", "None"):
            reason = f"{quoted(spec.sessionAffinity)} is not None or ClientIP; it counts as None"
            findings.append(left_out(key, "spec.sessionAffinity", reason))
        return 0
    client_ip = spec.sessionAffinityConfig.clientIP if spec.sessionAffinityConfig else None
    if client_ip is None or client_ip.timeoutSeconds is None:
        return DEFAULT_AFFINITY_TIMEOUT
    field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    return number_at(field, client_ip.timeoutSeconds, 1, MAX_AFFINITY_TIMEOUT)


def _is_local(field: str, policy: str | None, key: ObjectKey, findings: list[Finding]) -> bool:
    if policy not in (None, "", "Cluster", "Local"):
        reason = f"{quoted(policy)} is not Cluster or Local; it counts as Cluster"
        findings.append(left_out(key, f"spec.{field}", reason))
    return policy == "Local"


def _external_ips(texts: tuple[str, ...], key: ObjectKey, findings: list[Finding]) -> tuple[Address, ...]:
    found: dict[Address, None] = {}
    for index, text in enumerate(texts):
        if text.strip():
            address = _served_address(text, key, f"spec.externalIPs[{index}]", findings)
            if address:
                found[address] = None
    return tuple(found)


def _ingress(
    status: wire.ServiceStatus | None, key: ObjectKey, findings: list[Finding]
) -> tuple[LoadBalancerIngress, ...]:
    entries = (status.loadBalancer.ingress or ()) if status and status.loadBalancer else ()
    found: dict[Address, LoadBalancerIngress] = {}
    for index, entry in enumerate(entries):
        if entry.ip:
            field = f"status.loadBalancer.ingress[{index}].ip"
            address = _served_address(entry.ip, key, field, findings)
            if address:
                found.setdefault(address, LoadBalancerIngress(address, entry.ipMode not in (None, "", "VIP")))
    return tuple(found.values())


def _source_ranges(spec: wire.ServiceSpec, key: ObjectKey, findings: list[Finding]) -> tuple[str, ...] | None:
    """Return the ranges as CIDRs; None if there are some, but all are invalid."""
    listed = [(index, text.strip()) for index, text in enumerate(spec.loadBalancerSourceRanges or ())]
    listed = [(index, text) for index, text in listed if text]
    found: dict[str, None] = {}
    for index, text in listed:
        network = network_of(text)
        if network:
            found[network] = None
        else:
            reason = f"{quoted(text)} is not a range of addresses; it is left out"
            findings.append(left_out(key, f"spec.loadBalancerSourceRanges[{index}]", reason))
    if listed and not found:
        reason = "has no valid range, so the load balancer addresses are not served, rather than opened to all clients"
        findings.append(left_out(key, "spec.loadBalancerSourceRanges", reason))
        return None
    return tuple(found)


def _served_address(text: str, key: ObjectKey, field: str, findings: list[Finding]) -> Address | None:
    try:
        address = parse_address(text)
    except ValueError:
        reason = f"{quoted(text)} is not an IP address; it is left out"
    else:
        why = why_not_ordinary(address)
        if not why:
            return address
        reason = f"{address} is not served: {why}"
    findings.append(Finding(FindingKind.ADDRESS_REFUSED, str(key), reason, field))
    return None
