"""Defines everything that an operator must know, as one type.

A rejected object, a refused address, a shadowed claim, drift, a missing sysctl: the core makes a `Finding`, and
log, status and metrics are views of that one stream. `FindingBook` keeps the current findings by origin, and
reports which appeared and which were cleared, so that a view never repeats itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct


class Severity(StrEnum):
    WARNING = "warning"
    ERROR = "error"


class FindingKind(StrEnum):
    """Names the kinds of findings. The names must not change: they are metric labels, and scripts match them in `-o
    json`."""

    UNREADABLE_INPUT = "unreadable-input"
    EMPTY_SOURCE = "empty-source"
    INVALID_OBJECT = "invalid-object"
    INVALID_ANNOTATION = "invalid-annotation"
    DUPLICATE_OBJECT = "duplicate-object"
    ADDRESS_REFUSED = "address-refused"
    ENDPOINT_REFUSED = "endpoint-refused"
    SHADOWED_BY_SERVICE = "shadowed-by-service"
    SHADOWED_BY_FOREIGN = "shadowed-by-foreign"
    AFFINITY_FLOOR = "affinity-floor"
    ONE_WAY = "one-way"
    KERNEL_REFUSED = "kernel-refused"
    REMOVAL_HELD = "removal-held"
    CONFIGURATION = "configuration"
    NODE_UNKNOWN = "node-unknown"
    API_UNREACHABLE = "api-unreachable"
    FALLBACK = "fallback"
    HOST = "host"


class Finding(Struct, frozen=True, gc=False, order=True, omit_defaults=True):
    """Describes one thing that is wrong."""

    kind: FindingKind
    subject: str
    """What it is about: `Service shop/cart`, `EndpointSlice shop/cart-x7f`, a file, `TCP 10.0.0.1:80`."""
    reason: str
    """One sentence, which also explains what the agent does about it where that is not obvious."""
    field: str = ""
    """The path inside the object, `spec.ports[0].port`; empty if it is about the whole object."""
    file: str = ""
    """The file that the object was read from, if any."""
    severity: Severity = Severity.WARNING

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        field = f" {self.field}" if self.field else ""
        return f"{where}{self.subject}{field}: {self.reason}"


def input_failed(findings: Iterable[Finding]) -> bool:
    """Return whether an input could not be read, or was implausibly empty: the desired state is then incomplete."""
    return any(f.kind in (FindingKind.UNREADABLE_INPUT, FindingKind.EMPTY_SOURCE) for f in findings)


class FindingBook:
    """Holds the current findings. Each belongs to an origin, which replaces all of its findings at once."""

    def __init__(self) -> None:
        self._by_origin: dict[object, tuple[Finding, ...]] = {}

    def replace(self, origin: object, findings: Iterable[Finding]) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
        """Replace the findings of an origin. Return (those that appeared, those that were cleared)."""
        new = tuple(findings)
        old = self._by_origin.get(origin, ())
        if new:
            self._by_origin[origin] = new
        else:
            self._by_origin.pop(origin, None)
        if new == old:
            return (), ()
        before, now = set(old), set(new)  # a broken source may have thousands of findings
        return tuple(f for f in new if f not in before), tuple(f for f in old if f not in now)

    def current(self) -> list[Finding]:
        """Return all findings, each once, sorted."""
        return sorted({f for group in self._by_origin.values() for f in group})
