"""Makes the tables that `kubectl get` prints, with the server's cells (kubernetes/pkg/printers/internalversion)."""

from __future__ import annotations

import calendar
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from integration.apiserver.records import Record, Thing
from integration.apiserver.resources import ENDPOINT_SLICES, EVENTS, NAMESPACES, NODES, SERVICES, Resource

WANTED = "as=Table"
_SHOWN_AT_MOST = 3


def table(resource: Resource, records: Iterable[Record], metadata: dict[str, Any]) -> dict[str, Any]:
    columns, cells = _COLUMNS.get(resource, (["Age"], lambda thing: [_age(thing)]))
    definitions = [{"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}]
    definitions += [
        {"name": name, "type": "string", "format": "", "description": "", "priority": 0} for name in columns
    ]
    rows = []
    for record in records:
        thing = record.decoded()
        partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": thing["metadata"]}
        rows.append({"cells": [record.name, *cells(thing)], "object": partial})
    head = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    return {**head, "columnDefinitions": definitions, "rows": rows}


def encoder() -> Callable[[Record], bytes]:
    """For the events of one watch: only the first says what the columns are."""
    seen = False

    def encode(record: Record) -> bytes:
        nonlocal seen
        document = table(record.resource, [record], {"resourceVersion": str(record.version)})
        if seen:
            document["columnDefinitions"] = None
        seen = True
        return msgspec.json.encode(document)

    return encode


def _service(thing: Thing) -> list[str]:
    spec = thing.get("spec") or {}
    ingress = ((thing.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    outside = [str(each.get("ip") or each.get("hostname")) for each in ingress] + (spec.get("externalIPs") or [])
    pending = "<pending>" if spec.get("type") == "LoadBalancer" else "<none>"
    ports = []
    for port in spec.get("ports") or []:
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        ports.append(f"{port.get('port')}{node}/{port.get('protocol', 'TCP')}")
    kind = spec.get("type") or "ClusterIP"
    return [
        kind,
        spec.get("clusterIP") or "<none>",
        ",".join(outside) or pending,
        ",".join(ports) or "<none>",
        _age(thing),
    ]


def _slice(thing: Thing) -> list[str]:
    ports = [str(port.get("port")) for port in thing.get("ports") or []]
    addresses = [address for endpoint in thing.get("endpoints") or [] for address in endpoint.get("addresses") or []]
    return [str(thing.get("addressType")), _some(ports) or "<unset>", _some(addresses) or "<unset>", _age(thing)]


def _some(words: list[str]) -> str:
    more = len(words) - _SHOWN_AT_MOST
    return ",".join(words[:_SHOWN_AT_MOST]) + (f" + {more} more..." if more > 0 else "")


def _node(thing: Thing) -> list[str]:
    status = thing.get("status") or {}
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or [])
    labels = thing["metadata"].get("labels") or {}
    prefix = "node-role.kubernetes.io/"
    roles = [label.removeprefix(prefix) for label in labels if label.startswith(prefix)]
    version = (status.get("nodeInfo") or {}).get("kubeletVersion", "")
    known = bool(status.get("conditions"))
    return ["Ready" if ready else "NotReady" if known else "Unknown", ",".join(roles) or "<none>", _age(thing), version]


def _namespace(thing: Thing) -> list[str]:
    return [(thing.get("status") or {}).get("phase", ""), _age(thing)]


def _event(thing: Thing) -> list[str]:
    about = thing.get("involvedObject") or {}
    subject = f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"
    return [_age(thing), thing.get("type", ""), thing.get("reason", ""), subject, thing.get("message", "")]


_COLUMNS: dict[Resource, tuple[list[str], Callable[[Thing], list[str]]]] = {
    SERVICES: (["Type", "Cluster-IP", "External-IP", "Port(s)", "Age"], _service),
    ENDPOINT_SLICES: (["AddressType", "Ports", "Endpoints", "Age"], _slice),
    NODES: (["Status", "Roles", "Age", "Version"], _node),
    NAMESPACES: (["Status", "Age"], _namespace),
    EVENTS: (["Last Seen", "Type", "Reason", "Object", "Message"], _event),
}


def _age(thing: Thing) -> str:
    created = thing["metadata"].get("creationTimestamp")
    try:
        seconds = int(time.time()) - calendar.timegm(time.strptime(str(created), "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return "<unknown>"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"
