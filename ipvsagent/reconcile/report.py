"""Reports what a round did to the caller of the reconciler."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import VirtualServer, VirtualServerId
from ipvsagent.rows import Failure, Op, Verb

ORIGIN = "kernel"

_DRIFT = {Verb.ADD: "lost", Verb.SET: "edited", Verb.DELETE: "stray"}


class Drift(Struct, frozen=True):
    """Describes a difference between the kernel and what was confirmed, which `op` repairs."""

    kind: str
    """`lost`, `edited` or `stray`."""
    op: Op


class Report(Struct):
    """Collects what was written, what failed and what was found."""

    written: int = 0
    """Ops that were sent to the kernel."""
    failures: list[Failure] = []
    drift: list[Drift] = []
    findings: list[tuple[object, tuple[Finding, ...]]] = []
    """(origin, all that is wrong there now), as `FindingBook.replace` takes them."""
    udp: list[VirtualServer] = []
    """Virtual servers whose real servers have changed: older flows may go to real servers that are no longer there."""

    def record_drift(self, ops: Iterable[Op]) -> None:
        """Record ops that repair what other programs changed."""
        self.drift.extend([Drift(_DRIFT[op.verb], op) for op in ops])

    def replace_findings(self, about: object, *findings: Finding) -> None:
        """Report all that is wrong with something in the kernel; without findings, that nothing is."""
        self.findings.append(((ORIGIN, about), findings))


def refusal(server_id: VirtualServerId, desired: VirtualServer | None, failure: Failure) -> Finding:
    subject = f"Service {desired.service}" if desired else str(server_id)
    reason = f"the kernel refused `{failure.op}`: {failure.error}; it is tried again"
    return Finding(FindingKind.KERNEL_REFUSED, subject, reason)
