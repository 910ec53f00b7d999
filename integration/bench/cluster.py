"""The input of every measurement: N Services with one port and ten endpoints each, in each form that somebody takes.

Beside them stands `default/kubernetes` with one endpoint that can be made to answer (`probe.py`). It comes last, so
that nothing is quick by accident.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from ipvsagent.cluster.decode import Accepted, decode_json
from ipvsagent.cluster.objects import EndpointSlice, Object

THIS_NODE = "node-00"
NODES = 50
PORT, TARGET_PORT = 80, 8080
API_ADDRESS, API_PORT = "10.96.0.1", 443
SERVICE_CIDR = "10.96.0.0/12"
API_ENDPOINT, API_ENDPOINT_PORT = "172.20.0.1", 6443
_CREATED = "2026-01-31T12:00:00Z"
_CLUSTER_IPS, _PODS, _NEW_PODS = (int(IPv4Address(first)) for first in ("10.100.0.0", "10.128.0.0", "10.192.0.0"))


class Extra(Enum):
    """State of one more endpoint of a Service, for changes."""

    ABSENT = "absent"
    READY = "ready"
    TERMINATING = "terminating"


@dataclass(frozen=True)
class Cluster:
    """Services are numbered from 0 to size - 1."""

    size: int
    endpoints: int = 10

    @property
    def virtual_servers(self) -> int:
        """As many addresses are bound."""
        return self.size + 1

    @property
    def rows(self) -> int:
        """Virtual servers, real servers and addresses: what the reference programs. The agent also fills sets."""
        return 2 * self.virtual_servers + self.size * self.endpoints + 1

    def cluster_ip(self, service: int) -> str:
        return str(IPv4Address(_CLUSTER_IPS + service))

    def pods(self, service: int) -> list[str]:
        first = _PODS + service * self.endpoints
        return [str(IPv4Address(first + number)) for number in range(self.endpoints)]

    def new_pod(self, service: int) -> str:
        return str(IPv4Address(_NEW_PODS + service))

    def slice_text(self, service: int, extra: Extra = Extra.ABSENT) -> bytes:
        """An EndpointSlice as the API server sends it."""
        return json.dumps(self._slice(service, extra)).encode()

    def slice(self, service: int, extra: Extra = Extra.ABSENT) -> EndpointSlice:
        value = _decoded("EndpointSlice", self.slice_text(service, extra))
        assert isinstance(value, EndpointSlice)
        return value

    def decoded(self) -> Iterator[Object]:
        for document in self.documents():
            yield _decoded(document["kind"], json.dumps(document).encode())

    def write_files(self, directory: Path) -> int:
        """As `kubectl get -A -o json` prints them, one file for each kind. Returns their size in bytes."""
        items: dict[str, list[str]] = {}
        for document in self.documents():
            items.setdefault(document["kind"], []).append(json.dumps(document, indent=4))
        written = 0
        for kind, texts in items.items():
            text = '{"apiVersion": "v1", "kind": "List", "items": [' + ",\n".join(texts) + "]}\n"
            written += (directory / f"{kind.lower()}s.json").write_text(text)
        return written

    def ipvsadm_rules(self) -> str:
        """For `ipvsadm -R`."""
        lines = []
        for address, port, endpoints in self.servers():
            lines.append(f"-A -t {address}:{port} -s rr\n")
            lines += [f"-a -t {address}:{port} -r {pod}:{target} -m -w 1\n" for pod, target in endpoints]
        return "".join(lines)

    def ip_commands(self, interface: str) -> str:
        """For `ip -batch`."""
        return "".join(f"address add {address}/32 dev {interface}\n" for address, _, _ in self.servers())

    def servers(self) -> Iterable[tuple[str, int, list[tuple[str, int]]]]:
        """Address, port and real servers of each virtual server."""
        for service in range(self.size):
            yield self.cluster_ip(service), PORT, [(pod, TARGET_PORT) for pod in self.pods(service)]
        yield API_ADDRESS, API_PORT, [(API_ENDPOINT, API_ENDPOINT_PORT)]

    def documents(self) -> Iterator[dict[str, Any]]:
        for number in range(NODES):
            yield _node(number)
        for service in range(self.size):
            yield _service("shop", f"service-{service}", self.cluster_ip(service), PORT, TARGET_PORT)
            yield self._slice(service, Extra.ABSENT)
        yield _service("default", "kubernetes", API_ADDRESS, API_PORT, API_ENDPOINT_PORT)
        yield _slice("default", "kubernetes", API_ENDPOINT_PORT, [{"addresses": [API_ENDPOINT], "conditions": {}}])

    def _slice(self, service: int, extra: Extra) -> dict[str, Any]:
        pods = [(pod, True) for pod in self.pods(service)]
        if extra is not Extra.ABSENT:
            pods.append((self.new_pod(service), extra is Extra.READY))
        name = f"service-{service}"
        return _slice("shop", name, TARGET_PORT, [_endpoint(name, *pod, number) for number, pod in enumerate(pods)])


def _decoded(kind: str, text: bytes) -> Object:
    result = decode_json(kind, text)
    assert isinstance(result, Accepted), result
    return result.value


def _metadata(namespace: str, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": namespace,
        "creationTimestamp": _CREATED,
        "resourceVersion": "123456",
        "uid": "0f1c9c4e-5a0b-4b8e-9d63-5f6f4a0c1b2d",
    }


def _service(namespace: str, name: str, address: str, port: int, target: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {**_metadata(namespace, name), "labels": {"app": name}},
        "spec": {
            "clusterIP": address,
            "clusterIPs": [address],
            "internalTrafficPolicy": "Cluster",
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "main", "port": port, "protocol": "TCP", "targetPort": target}],
            "selector": {"app": name},
            "sessionAffinity": "None",
            "type": "ClusterIP",
        },
        "status": {"loadBalancer": {}},
    }


def _slice(namespace: str, service: str, port: int, endpoints: list[dict[str, Any]]) -> dict[str, Any]:
    labels = {
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        "kubernetes.io/service-name": service,
    }
    owner = {"apiVersion": "v1", "blockOwnerDeletion": True, "controller": True, "kind": "Service", "name": service}
    owner["uid"] = "0f1c9c4e-5a0b-4b8e-9d63-5f6f4a0c1b2d"
    return {
        "addressType": "IPv4",
        "apiVersion": "discovery.k8s.io/v1",
        "endpoints": endpoints,
        "kind": "EndpointSlice",
        "metadata": {**_metadata(namespace, f"{service}-x7k2p"), "labels": labels, "ownerReferences": [owner]},
        "ports": [{"name": "main", "port": port, "protocol": "TCP"}],
    }


def _endpoint(service: str, address: str, ready: bool, number: int) -> dict[str, Any]:
    pod = {"kind": "Pod", "name": f"{service}-{number}", "namespace": "shop"}
    return {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": True, "terminating": not ready},
        "nodeName": f"node-{int(IPv4Address(address)) % NODES:02}",
        "targetRef": pod,
        "zone": f"zone-{number % 3}",
    }


def _node(number: int) -> dict[str, Any]:
    name = f"node-{number:02}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": f"zone-{number % 3}"}},
        "status": {"addresses": [{"type": "InternalIP", "address": f"192.168.56.{number + 10}"}]},
    }
