"""Lists the variants and families that tests of iptables run with, and builds a rule set for them."""

from __future__ import annotations

import functools
import os
import subprocess

import pytest

from ipvsagent.address import Family
from ipvsagent.kernel.iptables.commands import Mode
from ipvsagent.rows.packet_rules import Chain, Jump, RuleSet

FAMILIES = [Family.IPV4, Family.IPV6]


def rule_set(family: Family, extra: str = "-p udp -j ACCEPT") -> RuleSet:
    return RuleSet(
        family,
        (
            Chain("mangle", "IPVSAGENT-MARK", ("-p tcp -j MARK --or-mark 0x4000", "-p udp -j MARK --or-mark 0x4000")),
            Chain("nat", "IPVSAGENT-MASQ", ("-m mark --mark 0x4000/0x4000 -j MASQUERADE",)),
            Chain("filter", "IPVSAGENT-INPUT", ("-p tcp --dport 80 -j IPVSAGENT-HOST", extra)),
            Chain("filter", "IPVSAGENT-HOST", ("-p tcp -j REJECT --reject-with tcp-reset", "-j DROP")),
            Chain("filter", "IPVSAGENT-FORWARD", ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",)),
        ),
        (
            Jump("mangle", "INPUT", "IPVSAGENT-MARK"),
            Jump("nat", "POSTROUTING", "IPVSAGENT-MASQ"),
            Jump("filter", "INPUT", "IPVSAGENT-INPUT"),
            Jump("filter", "FORWARD", "IPVSAGENT-FORWARD"),
        ),
    )


@functools.cache
def not_native(mode: Mode) -> str:
    """Return why the kernel that runs the tests has no rules of this kind; "" if it has."""
    if os.geteuid() != 0:
        return "needs root"
    words = ["unshare", "-n", f"iptables-{mode}", "-A", "INPUT", "-j", "ACCEPT"]
    try:
        return subprocess.run(words, capture_output=True, text=True).stderr.strip()
    except FileNotFoundError:
        return "needs unshare"


def skip_unless_native(mode: Mode) -> None:
    if reason := not_native(mode):
        pytest.skip(reason)


NATIVE = [pytest.param((mode, family), id=f"{mode}-{family}") for mode in Mode for family in FAMILIES]
GUEST = [pytest.param((Mode.LEGACY, family), id=f"guest-{family}", marks=pytest.mark.kernel) for family in FAMILIES]
