"""Decodes a discovery.k8s.io/v1 EndpointSlice.

This is the hot path of every rolling update: it runs for each endpoint of the cluster. It skips what kube-proxy's slice
cache skips (pkg/proxy/endpointslicecache.go).
"""

from __future__ import annotations

from collections.abc import Iterable
from sys import intern

from ipvsagent.address import Address, Family, is_ordinary_ipv4, parse_address
from ipvsagent.cluster import wire
from ipvsagent.cluster.fields import (
    FAMILIES,
    NO_METADATA,
    Broken,
    identity_of,
    number_at,
    protocol_at,
    quoted,
    why_not_ordinary,
)
from ipvsagent.cluster.objects import Endpoint, EndpointPort, EndpointSlice, ObjectKey
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import Protocol

SERVICE_LABEL = "kubernetes.io/service-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
_NO_CONDITIONS = wire.Conditions()


def endpoint_slice_of(item: wire.EndpointSlice, findings: list[Finding]) -> EndpointSlice | None:
    """Decode an EndpointSlice, and add to `findings` what is left out. Raises Broken.

    Return None if kube-proxy would not watch it.
    """
    metadata = item.metadata or NO_METADATA
    namespace, name = identity_of(metadata)
    labels = metadata.labels or {}
    if HEADLESS_LABEL in labels or item.addressType == "FQDN":
        return None
    if not item.addressType:
        raise Broken("addressType", "is missing")
    family = FAMILIES.get(item.addressType)
    if family is None:
        raise Broken("addressType", f"{quoted(item.addressType)} is not IPv4, IPv6 or FQDN")
    key = ObjectKey("EndpointSlice", namespace, name)
    return EndpointSlice(
        namespace=namespace,
        name=name,
        service=intern(labels.get(SERVICE_LABEL, "")),
        family=family,
        ports=_ports(item.ports or ()),
        endpoints=_endpoints(item.endpoints or (), family, key, findings),
    )


def _ports(ports: tuple[wire.EndpointPort, ...]) -> tuple[EndpointPort, ...]:
    found: dict[tuple[str, Protocol], EndpointPort] = {}
    for index, port in enumerate(ports):
        if not port.port:
            continue
        field = f"ports[{index}]"
        name = intern(port.name or "")
        protocol = protocol_at(f"{field}.protocol", port.protocol)
        if (name, protocol) in found:
            raise Broken(f"{field}.name", f"{quoted(name)} is also the name of an earlier {protocol} port")
        found[name, protocol] = EndpointPort(name, protocol, number_at(f"{field}.port", port.port, 1, 65535))
    return tuple(found.values())


def _endpoints(
    endpoints: Iterable[wire.Endpoint], family: Family, key: ObjectKey, findings: list[Finding]
) -> tuple[Endpoint, ...]:
    result = []
    is_ipv6 = family is Family.IPV6
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}
    for index, endpoint in enumerate(endpoints):
        if not endpoint.addresses:
            continue
        text = endpoint.addresses[0]
        if not is_ipv6 and is_ordinary_ipv4(text):
            address = Address(text)
        else:
            field = f"endpoints[{index}].addresses[0]"
            try:
                address = parse_address(text)
            except ValueError:
                raise Broken(field, f"{quoted(text)} is not an IP address") from None
            why = why_not_ordinary(address)
            if why or (":" in address) is not is_ipv6:
                reason = f"{address} gets no traffic: {why or f'the slice is for {family.value} addresses'}"
                findings.append(Finding(FindingKind.ENDPOINT_REFUSED, str(key), reason, field))
                continue
        conditions = endpoint.conditions or _NO_CONDITIONS
        zones: tuple[str, ...] = ()
        nodes: tuple[str, ...] = ()
        if endpoint.hints:
            zones = _hints(endpoint.hints.forZones, shared)
            nodes = _hints(endpoint.hints.forNodes, shared)
        result.append(
            Endpoint(
                address,
                conditions.ready is not False,
                conditions.serving is not False,
                conditions.terminating is True,
                intern(endpoint.nodeName or ""),
                intern(endpoint.zone or ""),
                zones,
                nodes,
            )
        )
    return tuple(result)


def _hints(hints: tuple[wire.Hint, ...] | None, shared: dict[tuple[str, ...], tuple[str, ...]]) -> tuple[str, ...]:
    if not hints:
        return ()
    names = tuple([intern(hint.name) for hint in hints if hint.name])
    return shared.setdefault(names, names)
