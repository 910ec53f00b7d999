"""This module installs what dockerd writes at its start, and for `docker run -p 443:8080`."""

from __future__ import annotations

from collections.abc import Iterable

from integration.flows.neighbours.recorded import TOOLS, one_by_version, read_rules, restore
from integration.lab import Namespace

BRIDGE = "docker0"
# The recorded container's.
_CONTAINER = {4: "172.17.0.2", 6: "fd00:172:17::242:ac11:2"}


def install_docker(node: Namespace, container: Iterable[str] = (), bridge: str = BRIDGE) -> None:
    """Installs Docker's chains, with the policy DROP of FORWARD, for both families.

    container: addresses to which port 443 of this node is published, on their port 8080; of a family without one,
    and by default, there are only the rules of dockerd's start. bridge: the device by which the node reaches the
    container; Docker lets nothing else through FORWARD. Raises LabError if a tool refuses.
    """
    addresses = one_by_version(container)
    for version in TOOLS:
        restore(node, version, docker_rules(version, addresses.get(version, ""), bridge))


def docker_rules(version: int, container: str = "", bridge: str = BRIDGE) -> str:
    """Returns input of iptables-restore. container: "" for none."""
    recorded = _CONTAINER[version]
    lines = read_rules("docker", version).replace(BRIDGE, bridge).splitlines()
    kept = (line.replace(recorded, container) for line in lines if container or recorded not in line)
    return "\n".join([*kept, ""])
