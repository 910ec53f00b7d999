"""These functions make ports of the node lead to a pod, as `hostPort` of a container does."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

from integration.flows.neighbours.recorded import one_by_version, restore, version_of, with_port
from integration.lab import Namespace

PORTMAP = "/usr/lib/cni/portmap"
HOST_PORTS = (443, 80)
CONTAINER_PORT = 8080
_CHAIN = "H"


def call_portmap(
    node: Namespace, pod: Namespace, addresses: Iterable[str], command: Literal["ADD", "DEL"] = "ADD"
) -> None:
    """Calls the CNI plugin portmap as a container runtime does, so that it writes or removes its own chains.

    It maps HOST_PORTS, TCP and UDP, to CONTAINER_PORT. addresses: the pod's, at most one of each family.
    With ip6tables-legacy 1.8.9, as in Debian 12, the chains of IPv6 have only the first port: -C, by which the plugin
    asks before it adds, does not compare ports there.
    Raises LabError, with the plugin's answer, if the plugin is absent or fails.
    """
    given = portmap_config(pod, list(addresses))
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": f"lab-{pod.name}",
        "CNI_NETNS": pod.path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": PORTMAP.rpartition("/")[0],
    }
    # It prints its errors to standard output, where success has the result.
    words = [f"{name}={value}" for name, value in environment.items()]
    node.run("env", *words, "sh", "-c", f'answer=$({PORTMAP}) || {{ echo "$answer" >&2; exit 1; }}', stdin=given)


def portmap_config(pod: Namespace, addresses: list[str]) -> str:
    """Returns the plugin's standard input, after the CNI specification 1.0.0."""
    mappings = [
        {"hostPort": port, "containerPort": CONTAINER_PORT, "protocol": protocol}
        for port in HOST_PORTS
        for protocol in ("tcp", "udp")
    ]
    config: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": "lab",
        "type": "portmap",
        "capabilities": {"portMappings": True},
        "snat": True,
        "runtimeConfig": {"portMappings": mappings},
        "prevResult": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "eth0", "sandbox": pod.path}],
            "ips": [
                {"interface": 0, "address": f"{address}/{128 if version_of(address) == 6 else 32}"}
                for address in addresses
            ],
        },
    }
    return json.dumps(config)


def install_host_port(node: Namespace, pod: Iterable[str], port: int = 443) -> None:
    """Installs the smallest rules that are a host port: TCP to any local address of the node goes to the pod.

    pod: its addresses, at most one of each family; they are reached on CONTAINER_PORT. Raises LabError if a tool
    refuses.
    """
    for version, address in one_by_version(pod).items():
        destination = with_port(address, CONTAINER_PORT)
        lines = ["*nat", f":{_CHAIN} -"]
        lines.append(f"-A {_CHAIN} -p tcp --dport {port} -j DNAT --to-destination {destination}")
        lines += [f"-A {hook} -m addrtype --dst-type LOCAL -j {_CHAIN}" for hook in ("PREROUTING", "OUTPUT")]
        restore(node, version, "\n".join([*lines, "COMMIT", ""]))
