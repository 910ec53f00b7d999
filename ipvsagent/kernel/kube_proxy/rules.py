"""Whether kube-proxy left rules, and whether they still translate packets to Services.

In its modes iptables and nftables it translates in nat PREROUTING and OUTPUT, before IPVS sees a packet. What it left
there goes on sending clients to the endpoints of its last day, whatever the agent does.
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
LOOK_EVERY, LOOK_WHILE_FOUND_EVERY = 60.0, 10.0  # seconds; a look runs iptables-save

_CANARY = re.compile(r"^:KUBE-PROXY-CANARY ", re.MULTILINE)
_BASE = re.compile(r"^-A (?:PREROUTING|OUTPUT) .*-[jg] KUBE-SERVICES\b", re.MULTILINE)
_DNAT = re.compile(r"^-A KUBE-(?:SEP|SVC|SVL|EXT|XLB)-\S+ .*-j DNAT\b", re.MULTILINE)


@dataclass(frozen=True)
class Left:
    """translating: where its rules still translate, in words. canary: the chain by which it sees that its rules were
    flushed is there, which it makes in its modes iptables and ipvs."""

    translating: tuple[str, ...] = ()
    canary: bool = False


def left(saved: SavedRules | None = None) -> Left:
    """Raises KernelError, StartError. saved: what `iptables_tool.saved_rules` read a moment ago, if anybody did."""
    texts = {str(mode): text for mode, text in working_modes(saved).items()}
    canary = any(_CANARY.search(text) for text in texts.values())
    return Left((*in_iptables(texts), *_in_nftables()), canary)


def in_iptables(texts: dict[str, str]) -> Iterator[str]:
    """texts: what iptables-save prints, by kind of iptables."""
    for mode, text in texts.items():
        if _BASE.search(text) and _DNAT.search(text):
            yield f"chain KUBE-SERVICES of {mode} iptables"


def _in_nftables() -> list[str]:
    """Asked of the kernel: `nft` need not be installed."""
    return ["table kube-proxy of nftables"] if any(table.name == "kube-proxy" for table in tables()) else []


def findings(left: Left) -> tuple[Finding, ...]:
    """At most one: who reads that packets are translated needs not be told of the chain."""
    if left.translating:
        subject = "rules of kube-proxy"
        reason = (
            f"{' and '.join(left.translating)}: packets are translated there before this agent's turn, to the "
            f"endpoints that kube-proxy knew last; once it is stopped for good, run `{REMEDY}`"
        )
    elif left.canary:
        subject = "kube-proxy"
        reason = (
            "chain KUBE-PROXY-CANARY is there, so most likely kube-proxy runs on this node and undoes the work of this "
            f"agent, or it ran and left its rules. {STOP_KUBE_PROXY}, then `{REMEDY}` takes away what it left"
        )
    else:
        return ()
    return (Finding(FindingKind.HOST, subject, reason, severity=Severity.ERROR),)


def watch(tell: Callable[[tuple[Finding, ...]], None], stop: Event, look: Callable[[], Left] = left) -> None:
    """Look now and then until told to stop; tells what changed. What cannot be read now is looked at again."""
    said: tuple[Finding, ...] = ()
    while True:
        try:
            found = findings(look())
        except (KernelError, StartError):
            found = said
        if found != said:
            said = found
            tell(said)
        if stop.wait(LOOK_WHILE_FOUND_EVERY if said else LOOK_EVERY):
            return
