"""The addresses behind the table's words, and its Services as Kubernetes objects."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from integration.flows.neighbours.calico import LINKS
from integration.flows.table import Case, ServiceRow, Table
from integration.lab import LabError, Machine, Pod, Server, Target, Topology
from integration.lab.servers import Protocol, has_sctp

THIS_NODE, OTHER_NODE = "node-1", "node-2"
CLUSTER_CIDRS = "10.244.0.0/16,fd00:10:244::/56"
SERVICE_CIDRS = "10.96.0.0/16,fd00:10:96::/112"
EXTERNAL_IPS = "198.51.100.0/24,fd00:198:51:100::/112"
TARGET_PORT = 8080
DNS, DNS_PORT = "dns", 53
PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP", "SCTP")  # of every Service

ADDRESSES = {
    "node": ("192.168.56.11", "fd00:192:168:56::11"),
    "othernode": ("192.168.56.12", "fd00:192:168:56::12"),
    "pod-a": ("10.244.1.11", "fd00:10:244:1::11"),
    "pod-b": ("10.244.1.12", "fd00:10:244:1::12"),
    "pod-p": ("10.244.1.21", "fd00:10:244:1::21"),
    "pod-q": ("10.244.1.22", "fd00:10:244:1::22"),
    "pod-r": ("10.244.2.11", "fd00:10:244:2::11"),
    "pod-s": ("10.244.2.12", "fd00:10:244:2::12"),
    "outside": ("203.0.113.50", "fd00:203:0:113::50"),
    "stranger": ("203.0.113.60", "fd00:203:0:113::60"),
}
BRIDGE = ("10.244.1.1/24", "fd00:10:244:1::1/64")
CLIENTS = {"pod": "pod-b", "itself": "pod-a", "otherpod": "pod-r", "neighbour": "pod-s", "jailed": "pod-q"}
SERVICE_NETWORKS = (*SERVICE_CIDRS.split(","), "192.0.2.0/24", "fd00:192:0:2::/112", *EXTERNAL_IPS.split(","))
RANGES = {
    "outside": tuple(f"{address}/{'128' if ':' in address else '32'}" for address in ADDRESSES["outside"]),
    "stranger": ADDRESSES["stranger"],
    "pods": tuple(CLUSTER_CIDRS.split(",")),
    "node": ("192.168.56.11/32", "fd00:192:168:56::11/128"),
    "everybody": ("0.0.0.0/0", "::/0"),
}
RANGES["stranger"] = ("203.0.113.60/30", "fd00:203:0:113::60/126")  # with host bits in other places of the network
# Programs of the node that listen on all its addresses, on ports that are no Service's, and on Services' ones.
HOST_PORTS = (22, 80, 10250, TARGET_PORT)

Document = dict[str, Any]


@dataclass(frozen=True)
class Client:
    machine: str
    address: str
    """The source address; "" leaves it to the kernel."""


def topology(*, bridged: bool, policies: bool = False) -> Topology:
    """Returns the network. policies: adds two pods to this node, with the links that Calico's rules name."""
    pods = tuple(Pod(name, ADDRESSES[name]) for name in ("pod-a", "pod-b"))
    if policies:
        pods += tuple(Pod(name, ADDRESSES[name], link) for name, link in zip(("pod-p", "pod-q"), LINKS, strict=True))
    return Topology(
        Machine(THIS_NODE, ADDRESSES["node"], pods),
        (
            Machine(
                OTHER_NODE, ADDRESSES["othernode"], tuple(Pod(name, ADDRESSES[name]) for name in ("pod-r", "pod-s"))
            ),
        ),
        client=(*ADDRESSES["outside"], *ADDRESSES["stranger"]),
        service_networks=SERVICE_NETWORKS,
        pod_bridge=BRIDGE if bridged else (),
        replies_by_node=False,  # an answer must find its way by masquerade alone
    )


def node_addresses(*, bridged: bool) -> set[str]:
    return {*ADDRESSES["node"], *(own.split("/")[0] for own in BRIDGE if bridged)}


def servers(*, policies: bool = False) -> list[Server]:
    """Returns the servers of the pods, and the one outside."""
    names = ("pod-a", "pod-b", "pod-r", "outside", *(("pod-p", "pod-q") if policies else ()))
    return [Server(n, a, TARGET_PORT, p) for n in names for a in ADDRESSES[n] for p in _served()]


def host_servers() -> list[Server]:
    everywhere = ("0.0.0.0", "::")
    return [Server("host", a, n, p) for n in HOST_PORTS for a in everywhere for p in _served()]


def service_addresses(services: Iterable[ServiceRow]) -> list[str]:
    """Returns the addresses that only Services have."""
    kinds = ("ClusterIP", "LoadBalancer", "ExternalIP")
    return sorted({a for service in services for kind in kinds for a in _service_addresses(service)[kind]})


def caches(services: Iterable[ServiceRow]) -> tuple[list[str], list[Server], list[Server]]:
    """Returns the addresses of DNS, and the caches that serve them on this node and on the other one."""
    addresses = [a for s in services if s.name == DNS for a in _service_addresses(s)["ClusterIP"]]
    here, there = [
        [Server(name, a, DNS_PORT, p) for a in addresses for p in ("TCP", "UDP")] for name in ("cache", "other-cache")
    ]
    return addresses, here, there


def _served() -> Iterator[Protocol]:
    return (p for p in PROTOCOLS if p != "SCTP" or has_sctp())


def client_of(case: Case) -> Client:
    """Returns the client of a case. Only a process of the node lets the kernel choose its address."""
    owner = CLIENTS.get(case.client, case.client)
    if owner not in ADDRESSES:
        raise LabError(f"the table has an unknown client {case.client}")
    return Client(owner, "" if owner == "node" else _of(case.version, ADDRESSES[owner]))


def target(case: Case, table: Table) -> Target:
    kind, _, port = case.address.partition(":")
    if kind in ADDRESSES:
        address, own_port = _of(case.version, ADDRESSES[kind]), 0
    else:
        service = table.service(case.service)
        address = _of(case.version, _service_addresses(service)[kind])
        own_port = _port(service, kind)
    # A datagram is answered with the server's name alone, whatever the size.
    answer_size = case.size if case.protocol in ("TCP", "SCTP") else 0
    number = 0 if case.protocol == "PING" else int(port or own_port)
    return Target(address, number, case.protocol, body=case.size, answer_size=answer_size)


def health_checks(services: Iterable[ServiceRow]) -> list[Target]:
    """Returns where this node answers health checks of these Services."""
    checked = [service for service in services if "eTP" in service.policies]
    return [Target(a, _port(s, "HealthCheck"), "HTTP") for s in checked for a in ADDRESSES["node"]]


def documents(services: Iterable[ServiceRow]) -> str:
    """Services, their slices and the nodes, as the text of a manifest."""
    items = [_node(THIS_NODE, ADDRESSES["node"]), _node(OTHER_NODE, ADDRESSES["othernode"])]
    for service in services:
        items.append(_service(service))
        items.extend(_slice(service, version) for version in (4, 6))
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _of(version: int, addresses: Iterable[str]) -> str:
    return next(address for address in addresses if (":" in address) is (version == 6))


def _service_addresses(service: ServiceRow) -> dict[str, tuple[str, ...]]:
    n = service.number
    return {
        "ClusterIP": (f"10.96.0.{n}", f"fd00:10:96::{n:x}"),
        "NodePort": ADDRESSES["node"],
        "HealthCheck": ADDRESSES["node"],
        "HealthCheckLB": service.addresses or (f"192.0.2.{n}", f"fd00:192:0:2::{n:x}"),
        "Localhost": ("127.0.0.1", "::1"),
        "LoadBalancer": service.addresses or (f"192.0.2.{n}", f"fd00:192:0:2::{n:x}"),
        "ExternalIP": (f"198.51.100.{n}", f"fd00:198:51:100::{n:x}"),
    }


def _port(service: ServiceRow, kind: str) -> int:
    """kind: of the address that it goes with."""
    if kind in ("NodePort", "Localhost"):
        return 31000 + service.number
    return 32000 + service.number if kind.startswith("HealthCheck") else service.port


def _node(name: str, addresses: Iterable[str]) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"] if name == THIS_NODE else []},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }


def _service(service: ServiceRow) -> Document:
    addresses = _service_addresses(service)
    cluster_ips = [a for a in addresses["ClusterIP"] if ("IPv6" if ":" in a else "IPv4") in service.families]
    spec: Document = {
        "type": "LoadBalancer",
        "clusterIP": cluster_ips[0],
        "clusterIPs": cluster_ips,
        "ipFamilies": list(service.families),
        "ipFamilyPolicy": "RequireDualStack" if len(cluster_ips) > 1 else "SingleStack",
        "externalIPs": list(addresses["ExternalIP"]),
        "externalTrafficPolicy": "Local" if "eTP" in service.policies else "Cluster",
        "internalTrafficPolicy": "Local" if "iTP" in service.policies else "Cluster",
        "ports": [
            {
                "name": protocol.lower(),
                "protocol": protocol,
                "port": service.port,
                "targetPort": TARGET_PORT,
                "nodePort": _port(service, "NodePort"),
            }
            for protocol in PROTOCOLS
        ],
    }
    if "eTP" in service.policies:
        spec["healthCheckNodePort"] = _port(service, "HealthCheck")
    if service.ranges:
        networks = [ipaddress.ip_network(text, strict=False) for word in service.ranges for text in RANGES[word]]
        spec["loadBalancerSourceRanges"] = [str(network) for network in networks]
    if service.affinity:
        spec["sessionAffinity"] = "ClientIP"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.name, "namespace": "flows", "annotations": _preference(service)},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": [{"ip": address} for address in addresses["LoadBalancer"]]}},
    }


def _preference(service: ServiceRow) -> dict[str, str]:
    """Weights that leave next to nothing to chance: 1000 to 1 missed once in a run of all cases."""
    if not service.prefers:
        return {}
    weights = ",".join(f"{address}=65535" for address in ADDRESSES[service.prefers])
    return {"ipvsagent.io/scheduler": "sed", "ipvsagent.io/weights": f"{weights},*=1"}


def _slice(service: ServiceRow, version: int) -> Document:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service.name}-{version}",
            "namespace": "flows",
            "labels": {"kubernetes.io/service-name": service.name},
        },
        "addressType": f"IPv{version}",
        "endpoints": [
            {
                "addresses": [_of(version, ADDRESSES[name])],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": OTHER_NODE if name == "pod-r" else THIS_NODE,
            }
            for name in service.endpoints
        ],
        "ports": [{"name": p.lower(), "protocol": p, "port": TARGET_PORT} for p in PROTOCOLS],
    }
