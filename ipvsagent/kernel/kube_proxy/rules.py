"""Finds out whether kube-proxy left rules, and whether they still translate packets to Services.

In its modes iptables and nftables it translates in nat PREROUTING and OUTPUT, before a packet reaches IPVS. The rules
that it left there keep sending clients to the endpoints that it last knew, whatever the agent does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event

from ipvsagent.errors import KernelError, StartError
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.kernel.host import STOP_KUBE_PROXY
from ipvsagent.kernel.iptables.commands import SavedRules, working_modes
from ipvsagent.kernel.nftables.tables import tables

REMEDY = "ipvsagent cleanup --kube-proxy"
LOOK_EVERY, LOOK_WHILE_FOUND_EVERY = 60.0, 10.0  # seconds; each time iptables-save runs

_CANARY = re.compile(r"^:KUBE-PROXY-CANARY ", re.MULTILINE)
_BASE = re.compile(r"^-A (?:PREROUTING|OUTPUT) .*-[jg] KUBE-SERVICES\b", re.MULTILINE)
_DNAT = re.compile(r"^-A KUBE-(?:SEP|SVC|SVL|EXT|XLB)-\S+ .*-j DNAT\b", re.MULTILINE)


@dataclass(frozen=True)
class Leftovers:
    """Describes rules that kube-proxy left."""

    translating: tuple[str, ...] = ()
    """Descriptions of the chains and tables that still translate packets."""
    canary: bool = False
    """Whether the chain exists by which kube-proxy, in its modes iptables and ipvs, notices that its rules were
    flushed."""


def find_leftovers(saved: SavedRules | None = None) -> Leftovers:
    """Return what kube-proxy left. saved: what `commands.saved_rules` returned a moment ago, to avoid reading twice.
    Raises KernelError, StartError."""
    texts = {str(mode): text for mode, text in working_modes(saved).items()}
    canary = any(_CANARY.search(text) for text in texts.values())
    return Leftovers((*in_iptables(texts), *_in_nftables()), canary)


def in_iptables(texts: dict[str, str]) -> Iterator[str]:
    """Describe the chains that still translate. texts: the output of iptables-save by variant."""
    for mode, text in texts.items():
        if _BASE.search(text) and _DNAT.search(text):
            yield f"chain KUBE-SERVICES of {mode} iptables"


def _in_nftables() -> list[str]:
    """Describe the table that still translates. This asks the kernel, because `nft` need not be installed."""
    return ["table kube-proxy of nftables"] if any(table.name == "kube-proxy" for table in tables()) else []


def findings(left: Leftovers) -> tuple[Finding, ...]:
    """Return at most one finding: where packets are translated, the canary chain adds nothing."""
    if left.translating:
        subject = "rules of kube-proxy"
        reason = (
            f"{' and '.join(left.translating)}: packets are translated there before this agent's rules apply, to the "
            f"endpoints that kube-proxy last knew; once it is stopped for good, run `{REMEDY}`"
        )
    elif left.canary:
        subject = "kube-proxy"
        reason = (
            "chain KUBE-PROXY-CANARY exists, so kube-proxy probably runs on this node and undoes the work of this "
            f"agent, or it ran and left its rules. {STOP_KUBE_PROXY}, then run `{REMEDY}` to remove what it left"
        )
    else:
        return ()
    return (Finding(FindingKind.HOST, subject, reason, severity=Severity.ERROR),)


def watch(
    report: Callable[[tuple[Finding, ...]], None], stop: Event, find: Callable[[], Leftovers] = find_leftovers
) -> None:
    """Look for leftovers repeatedly until `stop` is set, and report changed findings. If they cannot be read, the
    previous findings hold."""
    reported: tuple[Finding, ...] = ()
    while True:
        try:
            found = findings(find())
        except (KernelError, StartError):
            found = reported
        if found != reported:
            reported = found
            report(reported)
        if stop.wait(LOOK_WHILE_FOUND_EVERY if reported else LOOK_EVERY):
            return
