"""This module loads recorded rules into a namespace."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from integration.lab import LabError, Namespace

RULES = Path(__file__).with_name("rules")
TOOLS = {4: "iptables", 6: "ip6tables"}
_OPEN = re.compile(r"^:\S+ ACCEPT\n", re.MULTILINE)


def read_rules(name: str, version: int) -> str:
    """Returns rules/NAME-VERSION.rules: input of iptables-restore, or of ip6tables-restore if the version is 6."""
    return (RULES / f"{name}-{version}.rules").read_text()


def restore(node: Namespace, version: int, rules: str) -> None:
    """Adds rules to those of the namespace. Raises LabError if a tool refuses them.

    Lines that set a policy to ACCEPT are left out: in a new namespace it is ACCEPT, and on a node where another
    program closed a chain, a program that never touches the policy must not open it.
    """
    node.run(f"{TOOLS[version]}-restore", "--noflush", stdin=_OPEN.sub("", rules))


def version_of(address: str) -> int:
    return 6 if ":" in address else 4


def by_version(addresses: Iterable[str]) -> dict[int, list[str]]:
    """Groups addresses by the version of IP. A version without addresses is left out."""
    groups: dict[int, list[str]] = {}
    for address in addresses:
        groups.setdefault(version_of(address), []).append(address)
    return groups


def one_by_version(addresses: Iterable[str]) -> dict[int, str]:
    """Returns the address of each version. Raises LabError for two of one version."""
    groups = by_version(addresses)
    if any(len(group) > 1 for group in groups.values()):
        raise LabError(f"two addresses of one family: {groups}")
    return {version: address for version, (address,) in groups.items()}


def with_port(address: str, port: int) -> str:
    """Returns a destination as iptables wants it: IPv6 addresses stand in brackets."""
    return f"[{address}]:{port}" if version_of(address) == 6 else f"{address}:{port}"
