"""The demo's cluster: Kubernetes objects read from files, and edited the way a cluster's controllers would.

Reads the objects by itself, not with the agent's code: what is expected must not come from what is shown.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from integration.lab import Machine, Pod, Server, Target, Topology

HERE = Path(__file__).parent
OBJECTS = HERE / "online-boutique.yaml"
NODES = HERE / "cluster.yaml"
THIS_NODE = "node-1"
CLIENT_POD = Pod("client-pod", ("10.244.1.250",))

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True)
class ServicePort:
    """A port of a Service, its addresses, and the endpoints that should answer."""

    namespace: str
    service: str
    port: str
    cluster_ip: Target
    others: tuple[Target, ...]  # load balancer addresses and node ports on this node
    endpoints: tuple[Server, ...]
    only: bool = True  # the Service has no other port
    at_home: tuple[Target, ...] = ()  # for the node itself only

    @property
    def name(self) -> str:
        return f"{self.namespace}/{self.service}:{self.port}"

    @property
    def short_name(self) -> str:
        """The name for a narrow table: without namespace, and with the port's name only where a Service has several."""
        return self.service if self.only else f"{self.service}:{self.port}"

    @property
    def targets(self) -> tuple[Target, ...]:
        return (self.cluster_ip, *self.others, *self.at_home)


class Cluster:
    """The objects in a directory that the agent watches. localhost: node ports are on 127.0.0.1, too."""

    def __init__(self, directory: Path, *, localhost: bool = False) -> None:
        self.directory = directory
        self._localhost = localhost
        self._objects: list[dict[str, Any]] = yaml.load(OBJECTS.read_text(), _LOADER)["items"]
        self._nodes: list[dict[str, Any]] = yaml.load(NODES.read_text(), _LOADER)["items"]
        (directory / NODES.name).write_bytes(NODES.read_bytes())
        (directory / OBJECTS.name).write_bytes(OBJECTS.read_bytes())

    @property
    def services(self) -> list[dict[str, Any]]:
        return [thing for thing in self._objects if thing["kind"] == "Service"]

    @property
    def slices(self) -> list[dict[str, Any]]:
        return [thing for thing in self._objects if thing["kind"] == "EndpointSlice"]

    def node_addresses(self, name: str) -> tuple[str, ...]:
        node = next(node for node in self._nodes if node["metadata"]["name"] == name)
        return tuple(a["address"] for a in node["status"]["addresses"] if a["type"] == "InternalIP")

    def service_ports(self) -> list[ServicePort]:
        return [self._service_port(service, port) for service in self.services for port in service["spec"]["ports"]]

    def service_port(self, name: str) -> ServicePort:
        return next(port for port in self.service_ports() if port.name == name)

    def servers(self) -> list[Server]:
        """Returns a server for each address and port of the slices, which Services may share."""
        return sorted({server for port in self.service_ports() for server in port.endpoints})

    def topology(self) -> Topology:
        """Endpoints that no pod and no node stands behind (the API server's) are on machines of their own."""
        pods: dict[str, dict[str, Pod]] = {node["metadata"]["name"]: {} for node in self._nodes}
        alone: dict[str, Machine] = {}
        for piece in self.slices:
            for endpoint in piece["endpoints"]:
                name, addresses = _endpoint_name(piece, endpoint), tuple(endpoint["addresses"])
                if node := endpoint.get("nodeName"):
                    pods[node][name] = Pod(name, addresses)
                else:
                    alone[name] = Machine(name, addresses)
        machines = {
            node: Machine(node, self.node_addresses(node), tuple(there.values())) for node, there in pods.items()
        }
        this = machines.pop(THIS_NODE)
        this = Machine(this.name, this.addresses, (*this.pods, CLIENT_POD))
        return Topology(this, (*machines.values(), *alone.values()))

    def set_conditions(self, server: Server, **conditions: bool) -> None:
        """Edits a slice as the EndpointSlice controller does when a pod's state changes."""
        for piece in self.slices:
            for endpoint in piece["endpoints"]:
                if server.address in endpoint["addresses"]:
                    endpoint["conditions"] = {**endpoint["conditions"], **conditions}
        self._write()

    def remove(self, server: Server) -> None:
        """Edits a slice as that controller does when the pod is gone."""
        for piece in self.slices:
            piece["endpoints"] = [e for e in piece["endpoints"] if server.address not in e["addresses"]]
        self._write()

    def _write(self) -> None:
        """Replaces the file atomically, so that the agent never reads half of it."""
        content = yaml.dump(
            {"apiVersion": "v1", "kind": "List", "items": self._objects}, Dumper=_DUMPER, sort_keys=False
        )
        new = self.directory.with_name(f"{OBJECTS.name}.new")
        new.write_text(content)
        os.replace(new, self.directory / OBJECTS.name)

    def _service_port(self, service: dict[str, Any], port: dict[str, Any]) -> ServicePort:
        metadata, spec = service["metadata"], service["spec"]
        number, protocol = port["port"], port["protocol"]
        ingress = service.get("status", {}).get("loadBalancer", {}).get("ingress", [])
        others = [Target(entry["ip"], number, protocol) for entry in ingress]
        at_home: list[Target] = []
        if node_port := port.get("nodePort"):
            if self._localhost and ":" not in spec["clusterIP"]:
                at_home.append(Target("127.0.0.1", node_port, protocol))
            # A single-stack Service has node ports on the addresses of its own family only.
            same_family = [a for a in self.node_addresses(THIS_NODE) if (":" in a) == (":" in spec["clusterIP"])]
            others += [Target(address, node_port, protocol) for address in same_family]
        return ServicePort(
            metadata["namespace"],
            metadata["name"],
            port["name"],
            Target(spec["clusterIP"], number, protocol),
            tuple(others),
            tuple(self._endpoints(metadata["namespace"], metadata["name"], port)),
            only=len(spec["ports"]) == 1,
            at_home=tuple(at_home),
        )

    def _endpoints(self, namespace: str, service: str, port: dict[str, Any]) -> list[Server]:
        found = []
        for piece in self.slices:
            metadata = piece["metadata"]
            if (metadata["namespace"], metadata["labels"]["kubernetes.io/service-name"]) != (namespace, service):
                continue
            for other in piece["ports"]:
                if (other["name"], other["protocol"]) == (port["name"], port["protocol"]):
                    found += [
                        Server(_endpoint_name(piece, endpoint), address, other["port"], other["protocol"])
                        for endpoint in piece["endpoints"]
                        for address in endpoint["addresses"]
                    ]
        return found


def _endpoint_name(piece: dict[str, Any], endpoint: dict[str, Any]) -> str:
    target = endpoint.get("targetRef")
    return target["name"] if target else f"{piece['metadata']['name']}-{endpoint['addresses'][0]}"
