"""What a round did, told to whoever drives the reconciler."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import VirtualServer, VirtualServerId
from ipvsagent.rows import Failure, Op, Verb

ORIGIN = "kernel"

_DRIFT = {Verb.ADD: "lost", Verb.SET: "edited", Verb.DELETE: "stray"}


class Drift(Struct, frozen=True):
    """The kernel differed from what was confirmed, and `op` repairs it. kind: lost, edited or stray."""

    kind: str
    op: Op


class Report(Struct):
    """findings: (origin, what holds for it now), as `FindingBook.replace` takes them.

    udp: virtual servers whose real servers are not what they were: flows that are older may go where none is.
    """

    written: int = 0
    failures: list[Failure] = []
    drift: list[Drift] = []
    findings: list[tuple[object, tuple[Finding, ...]]] = []
    udp: list[VirtualServer] = []

    def drifted(self, ops: Iterable[Op]) -> None:
        """These ops repair what others did."""
        self.drift.extend([Drift(_DRIFT[op.verb], op) for op in ops])

    def say(self, about: object, *findings: Finding) -> None:
        """All that is wrong about something in the kernel; nothing, if no finding is given."""
        self.findings.append(((ORIGIN, about), findings))

    def add(self, later: Report) -> None:
        """What was done after this."""
        self.written += later.written
        self.failures += later.failures
        self.drift += later.drift
        self.findings += later.findings
        self.udp += later.udp


def refusal(server_id: VirtualServerId, wanted: VirtualServer | None, failure: Failure) -> Finding:
    subject = f"Service {wanted.service}" if wanted else str(server_id)
    reason = f"the kernel refused `{failure.op}`: {failure.error}; it is tried again"
    return Finding(FindingKind.KERNEL_REFUSED, subject, reason)
