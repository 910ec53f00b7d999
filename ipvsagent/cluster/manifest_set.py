"""Merges several manifest files into one cluster, in which a mistake in one file takes nothing down.

1. The result depends on what the files hold now, not on the order in which they were read or written.
2. A broken object, or a file that cannot be read, leaves the last accepted version of its objects in use.
3. An object that vanished may have moved to where it cannot be read: while an input is unreadable, or an object is
   broken that was never accepted, the removals that it may contradict are held back.
4. A source that is empty as a whole counts as a mistake: nothing is removed until it has an object again.
5. An object that several files hold is taken from the first of them in order of their names. Of an object that one file
   holds several times the last counts, as for `kubectl apply`: `kubectl get --watch` prints it again when it changes.

It knows names of files, but no files: reading them is for sources/manifests.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from ipvsagent.cluster.decode import Accepted, Rejected
from ipvsagent.cluster.manifests import Content, Unreadable
from ipvsagent.cluster.objects import BlindSpots, Changes, EndpointSlice, Object, ObjectKey, ServiceKey
from ipvsagent.findings import Finding, FindingKind


class Update(Struct, frozen=True):
    """Holds what changed since the last `take`."""

    changes: Changes
    findings: dict[str, tuple[Finding, ...]]
    """All current findings of each input whose findings changed. Input "" is the whole set."""

    @property
    def is_empty(self) -> bool:
        changes = self.changes
        return not (changes.upserts or changes.removals or self.findings or changes.blind)


class _Input:
    """Describes a file, or a directory that cannot be listed."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, Object] = {}
        """The accepted version of each object, or the last accepted one if the present version is broken."""
        self.rejected: list[tuple[Rejected, bool]] = []
        """Broken objects in it now, each with whether its last accepted version is among `objects`."""
        self.findings: tuple[Finding, ...] = ()
        self.unreadable = False
        self.was_read = False
        """Whether it could be read at least once."""


class ManifestSet:
    """Merges inputs into one set of objects.

    Call `replace` and `remove` for each input that changed, then `take` once: all calls between two `take`s are one
    change, so that an object that moves from file to file is never removed. subject: how a finding names the whole set.
    allow_empty: rule 4 does not apply.
    """

    def __init__(self, subject: str = "the manifests", *, allow_empty: bool = False) -> None:
        self._subject = subject
        self._allow_empty = allow_empty
        self._inputs: dict[str, _Input] = {}
        self._holders: dict[ObjectKey, tuple[str, ...]] = {}
        self._shared: set[ObjectKey] = set()
        self._published: dict[ObjectKey, Object] = {}
        self._dirty: dict[ObjectKey, None] = {}
        self._troubled: set[str] = set()
        self._stale: set[str] = set()
        self._findings: dict[str, tuple[Finding, ...]] = {}
        self._blind: BlindSpots | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._inputs

    def names(self) -> list[str]:
        return sorted(self._inputs)

    def replace(self, name: str, content: Content | Unreadable) -> None:
        """Replace the content of an input."""
        old = self._inputs.get(name)
        if isinstance(content, Unreadable):
            self._put(name, _unreadable_input(name, content, old))
        else:
            self._put(name, _input_of(name, content, old))

    def remove(self, name: str) -> None:
        """Remove an input."""
        if name in self._inputs:
            self._put(name, None)

    def _put(self, name: str, new: _Input | None) -> None:
        old = self._inputs.get(name) or _Input()
        objects = new.objects if new else {}
        for key in {**old.objects, **objects} if objects is not old.objects else ():
            before, after = old.objects.get(key), objects.get(key)
            if before == after:
                continue
            self._dirty[key] = None
            if before is None or after is None:
                self._hold(key, name, after is not None)
        if new:
            self._inputs[name] = new
        else:
            self._inputs.pop(name, None)
        self._stale.add(name)
        (self._troubled.add if new and (new.unreadable or new.rejected) else self._troubled.discard)(name)

    def _hold(self, key: ObjectKey, name: str, holds: bool) -> None:
        before = self._holders.get(key, ())
        after = tuple(sorted({*before, name} if holds else {*before} - {name}))
        if after:
            self._holders[key] = after
        else:
            self._holders.pop(key, None)
        (self._shared.add if len(after) > 1 else self._shared.discard)(key)
        if len(before) > 1 or len(after) > 1:
            self._stale.update(before, after)

    def take(self) -> Update:
        """Return the changes since the last call. An object that equals the one reported before is not reported
        again."""
        upserts: list[Object] = []
        vanished: list[ObjectKey] = []
        for key in self._dirty:
            holders = self._holders.get(key)
            if holders:
                item = self._inputs[holders[0]].objects[key]
                if self._published.get(key) != item:
                    self._published[key] = item
                    upserts.append(item)
            elif key in self._published:
                vanished.append(key)
        blind = self._blindness()
        held = self._held(vanished, blind) if vanished else set()
        removals = [key for key in vanished if key not in held]
        for key in removals:
            del self._published[key]
        self._dirty = dict.fromkeys(sorted(held))
        changed = blind if blind != self._blind else None
        self._blind = blind
        changes = Changes(upserts=tuple(upserts), removals=tuple(removals), blind=changed)
        return Update(changes, self._changed_findings(sorted(held)))

    @property
    def _is_empty(self) -> bool:
        return not self._holders and not self._allow_empty

    def _blindness(self) -> BlindSpots:
        anything = self._is_empty
        services = False
        endpoints: set[ServiceKey] = set()
        for name in self._troubled:
            each = self._inputs[name]
            anything = anything or (each.unreadable and not each.was_read)
            for rejected, covered in each.rejected:
                if covered or rejected.key in self._published or rejected.key in self._holders:
                    continue
                if rejected.key.kind == "Service":
                    services = True
                elif rejected.key.kind == "EndpointSlice":
                    if rejected.service and rejected.key.namespace:
                        endpoints.add(ServiceKey(rejected.key.namespace, rejected.service))
                    else:
                        anything = True
        return BlindSpots(anything, services, frozenset(endpoints))

    def _held(self, vanished: list[ObjectKey], blind: BlindSpots) -> set[ObjectKey]:
        troubled = [self._inputs[name] for name in self._troubled]
        if blind.anything or any(each.unreadable for each in troubled):
            return set(vanished)
        broken = {rejected.key for each in troubled for rejected, _ in each.rejected}
        return {key for key in vanished if key in broken or self._may_belong(key, blind)}

    def _may_belong(self, key: ObjectKey, blind: BlindSpots) -> bool:
        item = self._published[key]
        if isinstance(item, EndpointSlice) and ServiceKey(item.namespace, item.service) in blind.endpoints:
            return True
        return blind.services and key.kind != "Node"

    def _changed_findings(self, held: list[ObjectKey]) -> dict[str, tuple[Finding, ...]]:
        now = {name: self._findings_of(name) for name in sorted(self._stale | self._troubled)}
        now[""] = tuple(self._findings_of_all(held))
        changed = {name: found for name, found in now.items() if found != self._findings.get(name, ())}
        self._findings.update(changed)
        for name in self._stale:
            if name not in self._inputs:
                self._findings.pop(name, None)
        self._stale.clear()
        return changed

    def _findings_of(self, name: str) -> tuple[Finding, ...]:
        each = self._inputs.get(name)
        if not each:
            return ()
        return (
            *each.findings,
            *(self._about_rejected(name, rejected) for rejected, _ in each.rejected if not each.unreadable),
            *(
                _duplicate(name, key, f"{self._holders[key][0]} also holds it, and comes first")
                for key in sorted(self._shared)
                if key in each.objects and self._holders[key][0] != name
            ),
        )

    def _about_rejected(self, name: str, rejected: Rejected) -> Finding:
        finding = rejected.finding
        if rejected.key.name and rejected.key in self._published:
            return replace(finding, file=name, reason=f"{finding.reason}; its last accepted version stays in use")
        return replace(finding if rejected.key.name else consequence(rejected), file=name)

    def _findings_of_all(self, held: list[ObjectKey]) -> Iterator[Finding]:
        if self._is_empty and not self._troubled:
            kept = f"; what it held before ({_objects(len(self._published))}) stays in use" if self._published else ""
            reason = f"it holds no Service, EndpointSlice or Node: nothing is removed without --allow-empty{kept}"
            yield Finding(FindingKind.EMPTY_SOURCE, self._subject, reason)
        elif held:
            more = f" and {len(held) - 1} more" if len(held) > 1 else ""
            reason = f"is gone, but kept until {' and '.join(sorted(self._troubled))} can be read without errors"
            yield Finding(FindingKind.REMOVAL_HELD, f"{held[0]}{more}", reason)


def _input_of(name: str, content: Content, old: _Input | None) -> _Input:
    new = _Input()
    new.was_read = True
    findings: dict[ObjectKey, tuple[Finding, ...]] = {}
    rejected: dict[ObjectKey, Rejected] = {}
    nameless: list[Rejected] = []
    times: Counter[ObjectKey] = Counter()
    for result in content.objects:
        key = result.key
        if isinstance(result, Rejected):
            if key.name:
                rejected[key] = result
            else:
                nameless.append(result)
            continue
        rejected.pop(key, None)
        if isinstance(result, Accepted):
            times[key] += 1
            new.objects[key] = result.value
            findings[key] = result.findings
        else:
            new.objects.pop(key, None)
            findings.pop(key, None)
    known = old.objects if old else {}
    accepted = set(new.objects)
    for each in (*rejected.values(), *nameless):
        if each.key.name:
            keep = [each.key] if each.key in known and each.key not in accepted else []
        else:
            # It may be any of them, with its name damaged.
            keep = [key for key in known if key.kind == each.key.kind and key not in accepted]
        for key in keep:
            new.objects[key] = known[key]
        new.rejected.append((each, bool(keep)))
    new.findings = (
        *(replace(finding, file=name) for found in (content.findings, *findings.values()) for finding in found),
        *(
            _duplicate(name, key, f"this file holds it {count} times; the last one counts")
            for key, count in times.items()
            if count > 1
        ),
    )
    return new


def consequence(nameless: Rejected) -> Finding:
    """Return the finding of an object without a name, which may be any of its kind, with the removals that it
    delays."""
    finding = nameless.finding
    reason = (
        f"{finding.reason}; until this is fixed, no {nameless.key.kind} that vanishes is removed: it may be this one"
    )
    return replace(finding, reason=reason)


def _unreadable_input(name: str, content: Unreadable, old: _Input | None) -> _Input:
    new = _Input()
    new.unreadable = True
    reason = content.reason
    if old:
        new.objects, new.rejected, new.was_read = old.objects, old.rejected, old.was_read
    if new.objects:
        reason += f"; what it held before ({_objects(len(new.objects))}) stays in use"
    else:
        reason += "; nothing is removed until it can be read"
    new.findings = (Finding(FindingKind.UNREADABLE_INPUT, name, reason),)
    return new


def _duplicate(name: str, key: ObjectKey, reason: str) -> Finding:
    return Finding(FindingKind.DUPLICATE_OBJECT, str(key), reason, file=name)


def _objects(count: int) -> str:
    return f"{count} object{'s' if count != 1 else ''}"
