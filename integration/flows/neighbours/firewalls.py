"""These functions install the rules of firewalls that guard the whole host: ufw and firewalld."""

from __future__ import annotations

from typing import Literal

from integration.flows.neighbours.recorded import RULES, TOOLS, read_rules, restore
from integration.lab import Namespace


def install_ufw(node: Namespace, policy: Literal["deny", "reject"] = "deny") -> None:
    """Installs ufw's rules where only ssh is allowed in. policy: of what comes in and of what is forwarded.

    Raises LabError if a tool refuses.
    """
    _restore_both(node, f"ufw-{policy}")


def install_firewalld(node: Namespace, *, eth0_in_zone: bool = False) -> None:
    """Installs the rules of firewalld's iptables backend, zone public.

    eth0_in_zone: eth0 is assigned to the zone; otherwise it is merely the default zone. Traffic may then be
    forwarded out by eth0, and nowhere else. Raises LabError if a tool refuses.
    """
    _restore_both(node, f"firewalld-{_zone(eth0_in_zone)}")


def install_firewalld_nftables(node: Namespace, *, eth0_in_zone: bool = False) -> None:
    """Installs the table of firewalld's nftables backend. Raises LabError on a kernel without nf_tables."""
    node.run("nft", "-f", "-", stdin=(RULES / f"firewalld-{_zone(eth0_in_zone)}.nft").read_text())


def _zone(eth0_in_zone: bool) -> str:
    return "eth0" if eth0_in_zone else "none"


def _restore_both(node: Namespace, name: str) -> None:
    for version in TOOLS:
        restore(node, version, read_rules(name, version))
