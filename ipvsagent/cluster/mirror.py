"""Keeps the objects of an API server as last reported, so that no mistake takes anything down.

1. The result depends on what the server holds, not on how it was reported: a relist reports differences only.
2. A broken object leaves its last accepted version in use; one that was never accepted is a blind spot of the agent.
3. Endpoints move from slice to slice: while a slice of a Service is broken and was never accepted, slices of the same
   Service that vanish are kept.
4. An empty list counts as a mistake, because every cluster has the Service `default/kubernetes` and its slice, and a
   cluster that had nodes has them: the known objects of that kind stay until a list has an object again. An event does
   not end this, because it does not show that the others are gone; the reflector lists again in the meantime.

It is the counterpart of `ManifestSet`, and knows nothing of connections.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from ipvsagent.cluster.decode import Accepted, Decoded, Rejected
from ipvsagent.cluster.manifest_set import Update, consequence
from ipvsagent.cluster.objects import BlindSpots, Changes, EndpointSlice, Object, ObjectKey, ServiceKey
from ipvsagent.findings import Finding, FindingKind

NEVER_EMPTY = ("Service", "EndpointSlice")
NOT_LOST_AT_ONCE = ("Node",)
"""Kinds whose first list may be empty, and of which all objects may be deleted one by one."""


class Mirror:
    """Holds the objects of one API server.

    Call `replace`, `put` and `delete` as the server reports, then `take` once. allow_empty: rule 4 does not apply.
    """

    def __init__(self, *, allow_empty: bool = False) -> None:
        self._allow_empty = allow_empty
        self._objects: dict[ObjectKey, Object] = {}
        self._rejected: dict[ObjectKey, Rejected] = {}
        self._vanished: dict[ObjectKey, None] = {}
        self._nameless: dict[str, Rejected] = {}
        self._empty: set[str] = set()
        self._changed: dict[ObjectKey, None] = {}
        self._findings: dict[str, tuple[Finding, ...]] = {}
        self._stale: dict[str, None] = {}
        self._blind: BlindSpots | None = None

    def replace(self, kind: str, listed: Iterable[Decoded]) -> None:
        """Replace all objects of a kind."""
        implausible = kind in NEVER_EMPTY or kind in self._empty or self._knows_of(kind)
        seen: set[ObjectKey] = set()
        nameless = None
        for decoded in listed:
            key = decoded.key
            if isinstance(decoded, Rejected) and not key.name:
                nameless = decoded
            else:
                seen.add(key)
                self._put(key, decoded)
        for key in [key for key in {**self._objects, **self._rejected} if key.kind == kind and key not in seen]:
            self.delete(key)
        if nameless:
            self._nameless[kind] = nameless
        else:
            self._nameless.pop(kind, None)
        self._set_findings(f"nameless {kind}", (consequence(nameless),) if nameless else ())
        if seen or nameless or self._allow_empty or not implausible:
            self._empty.discard(kind)
        else:
            self._empty.add(kind)

    def put(self, decoded: Decoded) -> bool:
        """Add or replace an object. Return whether that makes a difference to a proxy."""
        return self._put(decoded.key, decoded)

    def _put(self, key: ObjectKey, decoded: Decoded) -> bool:
        if isinstance(decoded, Rejected):
            self._vanished.pop(key, None)
            self._rejected[key] = decoded
            finding = decoded.finding
            if key in self._objects:
                finding = replace(finding, reason=f"{finding.reason}; its last accepted version stays in use")
            self._set_findings(str(key), (finding,))
            return False
        if not isinstance(decoded, Accepted):
            return self.delete(key)
        self._vanished.pop(key, None)
        self._rejected.pop(key, None)
        if decoded.findings or self._findings:
            self._set_findings(str(key), decoded.findings)
        if self._objects.get(key) == decoded.value:
            return False
        self._objects[key] = decoded.value
        self._changed[key] = None
        return True

    def delete(self, key: ObjectKey) -> bool:
        """Delete an object. Return whether it existed."""
        self._rejected.pop(key, None)
        if self._findings:
            self._set_findings(str(key), ())
        if key not in self._objects or key in self._vanished:
            return False
        self._vanished[key] = None
        return True

    def take(self) -> Update:
        """Return the changes since the last call. An object that equals the one reported before is not reported
        again."""
        blind = self._blindness()
        held = {key: None for key in self._vanished if self._is_held(key, blind)}
        removals = [key for key in self._vanished if key not in held]
        for key in removals:
            del self._objects[key]
            self._changed.pop(key, None)
        self._vanished = held
        changed = blind if blind != self._blind else None
        self._blind = blind
        upserts = tuple([self._objects[key] for key in self._changed])
        self._changed.clear()
        self._report_held(list(held))
        findings = {origin: self._findings.get(origin, ()) for origin in self._stale}
        self._stale.clear()
        return Update(Changes(upserts=upserts, removals=tuple(removals), blind=changed), findings)

    def _knows_of(self, kind: str) -> bool:
        return any(key.kind == kind and key not in self._vanished for key in self._objects)

    def _set_findings(self, origin: str, findings: tuple[Finding, ...]) -> None:
        if self._findings.get(origin, ()) == findings:
            return
        if findings:
            self._findings[origin] = findings
        else:
            del self._findings[origin]
        self._stale[origin] = None

    def _report_held(self, held: list[ObjectKey]) -> None:
        for kind in NEVER_EMPTY + NOT_LOST_AT_ONCE:
            findings: tuple[Finding, ...] = ()
            if kind in self._empty:
                reason = (
                    f"it lists no {kind}, but every cluster has some: those known before stay in use until a list has "
                    "one; if there are none, start with --allow-empty"
                )
                findings = (Finding(FindingKind.EMPTY_SOURCE, "the API server", reason),)
            self._set_findings(f"empty {kind}", findings)
        findings = ()
        held = [key for key in held if key.kind not in self._empty]
        if held:
            more = f" and {len(held) - 1} more" if len(held) > 1 else ""
            reason = "is gone, but kept until the broken objects that may replace it can be read without errors"
            findings = (Finding(FindingKind.REMOVAL_HELD, f"{held[0]}{more}", reason),)
        self._set_findings("held", findings)

    def _blindness(self) -> BlindSpots:
        # State in the kernel may belong to an unknown Service or slice, but never to a Node.
        anything, services = bool(self._empty.intersection(NEVER_EMPTY) or self._nameless), False
        endpoints: set[ServiceKey] = set()
        for key, rejected in self._rejected.items():
            if key in self._objects:
                continue
            if key.kind == "Service":
                services = True
            elif key.kind == "EndpointSlice":
                if rejected.service:
                    endpoints.add(ServiceKey(key.namespace, rejected.service))
                else:
                    anything = True
        return BlindSpots(anything, services, frozenset(endpoints))

    def _is_held(self, key: ObjectKey, blind: BlindSpots) -> bool:
        if key.kind in self._empty or key.kind in self._nameless:
            return True
        item = self._objects[key]
        return isinstance(item, EndpointSlice) and ServiceKey(item.namespace, item.service) in blind.endpoints
