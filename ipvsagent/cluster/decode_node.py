"""Decodes a v1 Node: its addresses, its zone, its pod CIDRs."""

from __future__ import annotations

from ipvsagent.address import Address, parse_address
from ipvsagent.cluster import wire
from ipvsagent.cluster.fields import NO_METADATA, annotations_of, identity_of, left_out, network_of, quoted
from ipvsagent.cluster.objects import Node, ObjectKey
from ipvsagent.findings import Finding

ZONE_LABEL = "topology.kubernetes.io/zone"
AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"


def node_of(item: wire.Node, findings: list[Finding]) -> Node:
    """Decode a Node, and add to `findings` what is left out. Raises Broken."""
    metadata = item.metadata or NO_METADATA
    key = ObjectKey("Node", "", identity_of(metadata)[1])
    found: dict[str, dict[Address, None]] = {"InternalIP": {}, "ExternalIP": {}}
    for index, entry in enumerate((item.status.addresses or ()) if item.status else ()):
        if entry.type in found and entry.address:
            try:
                found[entry.type][parse_address(entry.address)] = None
            except ValueError:
                reason = f"{quoted(entry.address)} is not an IP address; it is left out"
                findings.append(left_out(key, f"status.addresses[{index}].address", reason))
    spec = item.spec or wire.NodeSpec()
    pod_cidrs = []
    for index, text in enumerate(spec.podCIDRs or ((spec.podCIDR,) if spec.podCIDR else ())):
        network = network_of(text)
        if network:
            pod_cidrs.append(network)
        else:
            reason = f"{quoted(text)} is not a range of addresses; it is left out"
            findings.append(left_out(key, f"spec.podCIDRs[{index}]", reason))
    return Node(
        name=key.name,
        # The first of a family is the node's primary address (GetNodeHostIPs, pkg/util/node/node.go).
        addresses=tuple(found["InternalIP"] | found["ExternalIP"]),
        zone=(metadata.labels or {}).get(ZONE_LABEL, ""),
        # As NodeEligible in pkg/proxy/healthcheck/proxy_health.go.
        leaving=bool(metadata.deletionTimestamp) or any(taint.key == AUTOSCALER_TAINT for taint in spec.taints or ()),
        pod_cidrs=tuple(pod_cidrs),
        annotations=annotations_of(metadata),
    )
