"""Stores all objects, with one counter of versions for all kinds, and a log of the latest changes.

What etcd and the API server's watch cache do together: a version that the log does not reach back to is expired.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from integration.apiserver.errors import expired
from integration.apiserver.records import Record, Thing, record
from integration.apiserver.resources import RESOURCES, Resource

HISTORY = 10_000
FRESH_WITHIN = 3.0
"""Seconds that a request for a version still to come waits for it (apiserver/pkg/storage/cacher/watch_cache.go)."""


@dataclass(frozen=True, slots=True)
class Change:
    """before is None: created. after is None: deleted; `last` is the object then, with the version of the deletion."""

    version: int
    resource: Resource
    before: Record | None
    after: Record | None


@dataclass(frozen=True)
class Snapshot:
    """The content of a backup of etcd."""

    version: int
    objects: dict[Resource, dict[str, Record]]


class Store:
    """Holds the objects. history: the number of changes to remember at least; at most twice as many are.

    `lock` guards everything; hold it to change several objects at once, or to decide by what exists.
    """

    def __init__(self, history: int = HISTORY) -> None:
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self.fresh_within = FRESH_WITHIN
        self._history = history
        self._version = 1
        self._compacted = 1
        self._objects: dict[Resource, dict[str, Record]] = {resource: {} for resource in RESOURCES}
        self._log: list[Change] = []
        self._versions: list[int] = []

    @property
    def version(self) -> int:
        return self._version

    @property
    def compacted(self) -> int:
        """The oldest version from which a watch can start."""
        return self._compacted

    @property
    def resources(self) -> Iterable[Resource]:
        return self._objects.keys()

    def get(self, resource: Resource, key: str) -> Record | None:
        return self._objects[resource].get(key)

    def records(self, resource: Resource, version: int | None = None) -> list[Record]:
        """In no order; as it was at a version. Raises ApiError (410) if that is too long ago."""
        with self.lock:
            there = self._objects[resource]
            if version is None or version >= self._version:
                return list(there.values())
            if version < self._compacted:
                raise expired("The resourceVersion for the provided list is too old.")
            there = dict(there)
            for change in reversed(self.changes_after(version)):
                if change.resource is not resource:
                    continue
                if change.before is not None:
                    there[change.before.key] = change.before
                elif change.after is not None:
                    del there[change.after.key]
            return list(there.values())

    def put(self, resource: Resource, thing: Thing) -> Record:
        """Creates or replaces an object. As in etcd, an unchanged object keeps its version."""
        with self.lock:
            made = record(resource, thing, self._version + 1)
            there = self._objects[resource]
            before = there.get(made.key)
            if before is not None and before.rest == made.rest:
                return before
            there[made.key] = made
            self._note(Change(made.version, resource, before, made))
            return made

    def remove(self, resource: Resource, key: str) -> Record:
        """Deletes an object, and returns its last state with the version of the deletion. Raises KeyError."""
        with self.lock:
            before = self._objects[resource].pop(key)
            change = Change(self._version + 1, resource, before, None)
            self._note(change)
            return before.at(change.version)

    def _note(self, change: Change) -> None:
        self._version = change.version
        self._log.append(change)
        self._versions.append(change.version)
        if len(self._log) > 2 * self._history:
            self._forget(len(self._log) - self._history)
        self._changed.notify_all()

    def _forget(self, count: int) -> None:
        if count:
            self._compacted = self._versions[count - 1]
            del self._log[:count], self._versions[:count]

    def changes_after(self, version: int) -> list[Change]:
        """In order. Of a version that is forgotten: what is left."""
        with self.lock:
            return self._log[bisect_right(self._versions, version) :]

    def wait(self, version: int, timeout: float) -> bool:
        """Whether something is newer than that, which it may take so many seconds to become."""
        with self.lock:
            return self._changed.wait_for(lambda: self._version > version, timeout)

    def wake(self) -> None:
        """Wakes all waiting requests."""
        with self.lock:
            self._changed.notify_all()

    def compact(self) -> None:
        """Discards the history."""
        with self.lock:
            self._forget(len(self._log))
            self._compacted = self._version
            self._changed.notify_all()

    def advance(self, versions: int) -> None:
        """Advances the counter as if other kinds had changed."""
        with self.lock:
            self._version += versions
            self._changed.notify_all()

    def snapshot(self) -> Snapshot:
        with self.lock:
            return Snapshot(self._version, {resource: dict(there) for resource, there in self._objects.items()})

    def restore(self, snapshot: Snapshot) -> None:
        """As etcd comes back from a backup: the counter goes backwards, and what happened since never did."""
        with self.lock:
            self._objects = {resource: dict(there) for resource, there in snapshot.objects.items()}
            self._version = self._compacted = snapshot.version
            self._log.clear()
            self._versions.clear()
            self._changed.notify_all()

    def copy(self) -> Store:
        """With what is there, but not what happened."""
        made = Store(self._history)
        made.restore(self.snapshot())
        return made

    def fill(self, things: Iterable[tuple[Resource, Thing]]) -> None:
        for resource, thing in things:
            self.put(resource, thing)
