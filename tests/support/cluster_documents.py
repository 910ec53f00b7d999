"""Builds Kubernetes objects as the documents of a manifest, with only the fields that a test needs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Document = dict[str, Any]

OTHER_NODE = "node-2"
THIS_NODE, NODE_ADDRESS = "node-1", "192.168.56.11"
NAMESPACE = "shop"
# name: (protocol, Service port, target port)
HTTP = {"http": ("TCP", 80, 8080)}
DNS = {"dns": ("UDP", 53, 8080)}
Ports = Mapping[str, tuple[str, int, int]]


def service(
    name: str,
    address: str,
    ports: Ports = HTTP,
    *,
    annotations: Mapping[str, str] | None = None,
    affinity: int = 0,
    local_at: str = "",
) -> Document:
    """Return a Service.

    annotations: without the prefix `ipvsagent.io/`. affinity: the seconds of sessionAffinity ClientIP, 0 = none.
    local_at: a load balancer address, with externalTrafficPolicy Local.
    """
    document: Document = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "annotations": {f"ipvsagent.io/{key}": value for key, value in (annotations or {}).items()},
        },
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "ports": [
                {"name": key, "protocol": protocol, "port": port, "targetPort": target}
                for key, (protocol, port, target) in ports.items()
            ],
        },
    }
    if affinity:
        document["spec"]["sessionAffinity"] = "ClientIP"
        document["spec"]["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": affinity}}
    if local_at:
        document["spec"] |= {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
        document["status"] = {"loadBalancer": {"ingress": [{"ip": local_at}]}}
    return document


def endpoint(address: str, state: str = "ready", node: str = THIS_NODE) -> Document:
    """Return an endpoint in the state "ready", "terminating" (and still serving) or "unready"."""
    ready = state == "ready"
    conditions = {"ready": ready, "serving": state != "unready", "terminating": state == "terminating"}
    return {"addresses": [address], "conditions": conditions, "nodeName": node}


def endpoint_slice(
    service_name: str, endpoints: Iterable[Document | str], ports: Ports = HTTP, *, name: str = ""
) -> Document:
    """Return an EndpointSlice. endpoints: documents of `endpoint`, or addresses of ready endpoints."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name or f"{service_name}-1",
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service_name},
        },
        "addressType": "IPv4",
        "endpoints": [endpoint(each) if isinstance(each, str) else each for each in endpoints],
        "ports": [{"name": key, "protocol": protocol, "port": target} for key, (protocol, _, target) in ports.items()],
    }


def node(name: str = THIS_NODE, address: str = NODE_ADDRESS, *, weight: int | None = None) -> Document:
    annotations = {} if weight is None else {"ipvsagent.io/weight": str(weight)}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "annotations": annotations},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def manifest(documents: Sequence[Document]) -> str:
    """Return the text of a manifest: JSON, which is YAML too and which a guest reads much faster."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})
