"""Everything that a person must know, as one type.

A rejected object, a refused address, a shadowed claim, drift, a missing sysctl: the core makes a `Finding`, and
log, status and metrics are views of that one stream. `FindingBook` keeps what holds now, by origin, and
says what appeared and what went away, so that a view never repeats itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from msgspec import Struct


class Severity(StrEnum):
    WARNING = "warning"
    ERROR = "error"


class FindingKind(StrEnum):
    """Stable names: they are metric labels and what scripts match in `-o json`."""

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
    """One thing that is wrong.

    subject: what it is about: `Service shop/cart`, `EndpointSlice shop/cart-x7f`, a file, `TCP 10.0.0.1:80`.
    field:   path inside the object, `spec.ports[0].port`; empty if it is about the whole.
    reason:  one sentence; says what the agent does about it where that is not obvious.
    file:    where the object was read from, if from a file.
    """

    kind: FindingKind
    subject: str
    reason: str
    field: str = ""
    file: str = ""
    severity: Severity = Severity.WARNING

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        field = f" {self.field}" if self.field else ""
        return f"{where}{self.subject}{field}: {self.reason}"


def input_failed(findings: Iterable[Finding]) -> bool:
    """Whether an input could not be read, or holds nothing that can be believed: what is wanted is not known whole."""
    return any(f.kind in (FindingKind.UNREADABLE_INPUT, FindingKind.EMPTY_SOURCE) for f in findings)


class FindingBook:
    """What is wrong now. `origin` is who said it: the same origin replaces what it said before."""

    def __init__(self) -> None:
        self._by_origin: dict[object, tuple[Finding, ...]] = {}

    def replace(self, origin: object, findings: Iterable[Finding]) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
        """Returns (appeared, cleared) against what the origin said before."""
        new = tuple(findings)
        old = self._by_origin.get(origin, ())
        if new:
            self._by_origin[origin] = new
        else:
            self._by_origin.pop(origin, None)
        if new == old:
            return (), ()
        # A broken source may say thousands of things under one origin.
        before, now = set(old), set(new)
        return tuple(f for f in new if f not in before), tuple(f for f in old if f not in now)

    def current(self) -> list[Finding]:
        return sorted({f for group in self._by_origin.values() for f in group})
