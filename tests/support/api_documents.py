"""Builds Kubernetes objects as an API server writes them, and the lines of a watch that carry them."""

from __future__ import annotations

import json
from typing import Any

Document = dict[str, Any]


def service(name="web", version=1, address="10.96.0.10", **spec) -> Document:
    return {
        "metadata": {"namespace": "shop", "name": name, "resourceVersion": str(version)},
        "spec": {"clusterIP": address, "ports": [{"port": 80}], **spec},
    }


def endpoint_slice(name="web-x", version=1, addresses=("10.1.0.1",), of="web", **more) -> Document:
    return {
        "metadata": {
            "namespace": "shop",
            "name": name,
            "resourceVersion": str(version),
            "labels": {"kubernetes.io/service-name": of},
            **more,
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080}],
        "endpoints": [{"addresses": [address]} for address in addresses],
    }


def node(name="node-1", version=1) -> Document:
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


def line(event: str, document: Document) -> bytes:
    return json.dumps({"type": event, "object": document}).encode() + b"\n"


def bookmark(version, *, end: bool = False) -> bytes:
    metadata: Document = {"resourceVersion": str(version)}
    if end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return line("BOOKMARK", {"kind": "Service", "metadata": metadata})


def status(code, reason="", message="", **details) -> Document:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message, **details}


def page(*documents: Document, version=1, more="") -> bytes:
    metadata = {"resourceVersion": str(version), **({"continue": more} if more else {})}
    return json.dumps({"kind": "List", "metadata": metadata, "items": list(documents)}).encode()
