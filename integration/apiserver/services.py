"""Fills in what the API server does when a Service is written: defaults, addresses, node ports.

Only for Services that clients write; those from files are taken as they are.
"""

from __future__ import annotations

import copy
from ipaddress import ip_network
from typing import Any

from integration.apiserver.errors import ApiError
from integration.apiserver.records import Thing
from integration.apiserver.resources import SERVICES
from integration.apiserver.store import Store

RANGES = {"IPv4": ip_network("10.96.0.0/16"), "IPv6": ip_network("fd00:96::/112")}
NODE_PORTS = range(30000, 32768)


def complete_service(store: Store, thing: Thing, old: Thing | None = None) -> Thing:
    """old: what it replaces; what was given to that is kept. Raises ApiError."""
    thing = copy.deepcopy(thing)
    spec = thing.setdefault("spec", {})
    before: dict[str, Any] = (old or {}).get("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {"clientIP": {"timeoutSeconds": 10800}})
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
    if spec["type"] == "ExternalName":
        return thing
    spec.setdefault("internalTrafficPolicy", "Cluster")
    if spec["type"] != "ClusterIP":
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if before.get("clusterIP"):
        if spec.setdefault("clusterIP", before["clusterIP"]) != before["clusterIP"]:
            value = spec["clusterIP"]
            name = thing["metadata"]["name"]
            text = (
                f'Service "{name}" is invalid: spec.clusterIPs[0]: Invalid value: ["{value}"]: may not change once set'
            )
            raise ApiError(422, "Invalid", text, {"name": name, "kind": "Service"})
        for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if field in before:
                spec.setdefault(field, before[field])
    used = _used(store)
    _give_addresses(spec, used)
    if spec["type"] in ("NodePort", "LoadBalancer") and spec.get("allocateLoadBalancerNodePorts", True):
        _give_node_ports(spec, before, used)
    return thing


def _give_addresses(spec: Thing, used: set[object]) -> None:
    if not spec.get("clusterIP") and spec.get("clusterIPs"):
        spec["clusterIP"] = spec["clusterIPs"][0]
    dual = spec.get("ipFamilyPolicy") in ("PreferDualStack", "RequireDualStack")
    families = spec.setdefault("ipFamilies", ["IPv4", "IPv6"] if dual else [_family(spec.get("clusterIP") or "")])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    if not spec.get("clusterIP"):
        addresses = [next(str(a) for a in RANGES[family].hosts() if str(a) not in used) for family in families]
        spec["clusterIP"], spec["clusterIPs"] = addresses[0], addresses
    spec.setdefault("clusterIPs", [spec["clusterIP"]])


def _family(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def _give_node_ports(spec: Thing, before: Thing, used: set[object]) -> None:
    had = {(p.get("protocol", "TCP"), p.get("port")): p.get("nodePort") for p in before.get("ports") or []}
    for port in spec.get("ports") or []:
        if not port.get("nodePort"):
            kept = had.get((port["protocol"], port.get("port")))
            port["nodePort"] = kept or next(number for number in NODE_PORTS if number not in used)
            used.add(port["nodePort"])


def _used(store: Store) -> set[object]:
    """Allocates addresses and node ports."""
    used: set[object] = set()
    for record in store.records(SERVICES):
        spec = record.decoded().get("spec") or {}
        used.update(spec.get("clusterIPs") or [spec.get("clusterIP")])
        used.update(port.get("nodePort") for port in spec.get("ports") or [])
    return used
