"""Reads the IPVS table of a namespace from /proc: without a process, netlink or any code under test."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from integration.lab.errors import LabError
from integration.lab.namespaces import Namespace


@dataclass(frozen=True)
class RealServer:
    weight: int
    active: int
    inactive: int


# `TCP 10.96.0.1:443` -> `10.0.0.1:6443` -> what the kernel says of it
VirtualServers = dict[str, dict[str, RealServer]]


def virtual_servers(namespace: Namespace) -> VirtualServers:
    """Returns the table. Raises LabError if the kernel has no IPVS."""
    try:
        text = namespace.read_proc("ip_vs")
    except FileNotFoundError:
        raise LabError("this kernel has no ip_vs, or has not loaded it") from None
    return parse(text)


def parse(text: str) -> VirtualServers:
    """Parses the content of /proc/net/ip_vs."""
    found: VirtualServers = {}
    for line in text.splitlines()[3:]:
        words = line.split()
        if words[0] != "->":
            protocol, address = words[:2]
            name = f"FWM {int(address, 16)}" if protocol == "FWM" else f"{protocol} {_endpoint(address)}"
            current = found.setdefault(name, {})
        else:
            current[_endpoint(words[1])] = RealServer(*map(int, words[3:6]))
    return found


def _endpoint(text: str) -> str:
    """Decodes `0A600001:0050` as `10.96.0.1:80`, and `[fd00:...:0001]:0050` as `[fd00::1]:80`."""
    address, _, port = text.rpartition(":")
    if address.startswith("["):
        return f"[{ipaddress.IPv6Address(address[1:-1])}]:{int(port, 16)}"
    return f"{ipaddress.IPv4Address(int(address, 16))}:{int(port, 16)}"
