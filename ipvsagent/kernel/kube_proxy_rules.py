"""Whether rules that kube-proxy left still translate packets to Services.

In its modes iptables and nftables it translates in nat PREROUTING and OUTPUT, before IPVS sees a packet. What it left
there goes on sending clients to the endpoints of its last day, whatever the agent does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from threading import Event

from ipvsagent.errors import KernelError, StartError
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.kernel.iptables_tool import working_modes
from ipvsagent.kernel.nftables import tables

REMEDY = "ipvsagent cleanup --kube-proxy"
LOOK_EVERY, LOOK_WHILE_FOUND_EVERY = 60.0, 10.0  # seconds; a look runs iptables-save

_BASE = re.compile(r"^-A (?:PREROUTING|OUTPUT) .*-[jg] KUBE-SERVICES\b", re.MULTILINE)
_DNAT = re.compile(r"^-A KUBE-(?:SEP|SVC|SVL|EXT|XLB)-\S+ .*-j DNAT\b", re.MULTILINE)


def translating() -> list[str]:
    """Where its rules still translate, in words. Raises KernelError, StartError."""
    return [*in_iptables({str(mode): text for mode, text in working_modes().items()}), *_in_nftables()]


def in_iptables(texts: dict[str, str]) -> Iterator[str]:
    """texts: what iptables-save prints, by kind of iptables."""
    for mode, text in texts.items():
        if _BASE.search(text) and _DNAT.search(text):
            yield f"chain KUBE-SERVICES of {mode} iptables"


def _in_nftables() -> list[str]:
    """Asked of the kernel: `nft` need not be installed."""
    return ["table kube-proxy of nftables"] if any(table.name == "kube-proxy" for table in tables()) else []


def findings(places: list[str]) -> tuple[Finding, ...]:
    if not places:
        return ()
    reason = (
        f"{' and '.join(places)}: packets are translated there before this agent's turn, to the endpoints that "
        f"kube-proxy knew last; once it is stopped for good, run `{REMEDY}`"
    )
    return (Finding(FindingKind.HOST, "rules of kube-proxy", reason, severity=Severity.ERROR),)


def watch(
    tell: Callable[[tuple[Finding, ...]], None], stop: Event, look: Callable[[], list[str]] = translating
) -> None:
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
