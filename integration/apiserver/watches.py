"""A watch: the present objects, then changes, then the end (apiserver/pkg/storage/cacher).

    query                                     begins with              then
    no resourceVersion, or 0                  ADDED for what is there  changes
    resourceVersion=N                         changes since N; ERROR 410 if they are forgotten
    sendInitialEvents=true, with bookmarks    ADDED for what is there  BOOKMARK k8s.io/initial-events-end, changes
    sendInitialEvents=false                   changes from now on

An object that leaves the selectors is DELETED with its last selected content, one that enters them is ADDED. A
version still to come is waited for in silence: the changes up to it are not sent.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from integration.apiserver.errors import ApiError, expired
from integration.apiserver.options import Options
from integration.apiserver.reads import selects, wait_until_fresh
from integration.apiserver.records import Record
from integration.apiserver.resources import Resource
from integration.apiserver.store import Change, Store

BOOKMARK_INTERVAL = 60.0
LONGEST = 1800.0
"""Without timeoutSeconds a watch lasts between one and two of these (--min-request-timeout)."""
BEFORE_THE_END = 2.0
"""Seconds before the end the last bookmark is sent."""
_TICK = 1.0
_AT_ONCE = 256


class Event(NamedTuple):
    """kind: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR. line: as it travels, with its line feed."""

    kind: str
    line: bytes


class Watch:
    """Iterates over batches of events; an empty one at least each second, so that a client that left is noticed."""

    def __init__(
        self,
        store: Store,
        resource: Resource,
        namespace: str,
        options: Options,
        *,
        bookmark_interval: float = BOOKMARK_INTERVAL,
        encode: Callable[[Record], bytes] = Record.encoded,
        closed: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store, self._resource, self._namespace, self._options = store, resource, namespace, options
        self._encode, self._closed = encode, closed
        now = time.monotonic()
        lasts = options.timeout if options.timeout is not None else LONGEST * (1 + random.random())
        self._deadline = now + lasts
        self._interval = bookmark_interval
        self._last_bookmark_due = self._deadline - BEFORE_THE_END
        self._bookmark_due = min(now + bookmark_interval, max(now, self._last_bookmark_due))
        self._start = self._position = 0

    def __iter__(self) -> Iterator[list[Event]]:
        try:
            yield from self._beginning()
            while time.monotonic() < self._deadline and not self._closed():
                yield self._changes()
                yield self._bookmarks()
                due = min(self._deadline, self._bookmark_due if self._options.bookmarks else self._deadline)
                self._store.wait(self._position, max(0.0, min(_TICK, due - time.monotonic())))
        except ApiError as error:
            yield [error_event(error)]

    def _beginning(self) -> Iterator[list[Event]]:
        options = self._options
        if options.initial_events:
            wait_until_fresh(self._store, options.version)
        if options.initial_events or (options.initial_events is None and not options.version):
            with self._store.lock:
                self._start = self._position = self._store.version
                records = self._store.records(self._resource)
            chosen = sorted((r for r in records if selects(options, self._namespace, r)), key=lambda r: r.key)
            for first in range(0, len(chosen), _AT_ONCE):
                yield [self._of("ADDED", each) for each in chosen[first : first + _AT_ONCE]]
            if options.initial_events and options.bookmarks:
                yield [bookmark(self._resource, self._position, initial_events_end=True)]
        else:
            self._start = self._position = options.version or self._store.version
            if self._position < self._store.compacted:
                raise expired(f"too old resource version: {self._position} ({self._store.compacted})")

    def _changes(self) -> list[Event]:
        with self._store.lock:
            if self._position < self._store.compacted:
                raise expired("The resourceVersion for the provided watch is too old.")
            changes = self._store.changes_after(self._position)
            self._position = max(self._position, self._store.version)
        found = (self._event(change) for change in changes if change.resource is self._resource)
        return [each for each in found if each is not None]

    def _event(self, change: Change) -> Event | None:
        before, after = self._selected(change.before), self._selected(change.after)
        if after is not None:
            return self._of("ADDED" if before is None else "MODIFIED", after)
        return None if before is None else self._of("DELETED", before.at(change.version))

    def _of(self, kind: str, record: Record) -> Event:
        return Event(kind, b'{"type":"%s","object":' % kind.encode() + self._encode(record) + b"}\n")

    def _selected(self, record: Record | None) -> Record | None:
        return record if record is not None and selects(self._options, self._namespace, record) else None

    def _bookmarks(self) -> list[Event]:
        now = time.monotonic()
        if not self._options.bookmarks or now < self._bookmark_due:
            return []
        self._bookmark_due = now + self._interval
        if now < self._last_bookmark_due:
            self._bookmark_due = min(self._bookmark_due, self._last_bookmark_due)
        # One that tells nothing new since the beginning is not sent.
        return [bookmark(self._resource, self._position)] if self._position > self._start else []


def bookmark(resource: Resource, version: int, *, initial_events_end: bool = False) -> Event:
    metadata: dict[str, object] = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial_events_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    empty = f",{resource.empty}" if resource.empty else ""
    head = f'"kind":"{resource.kind}","apiVersion":"{resource.api_version}"'
    thing = f'{{{head},"metadata":{json.dumps(metadata, separators=(",", ":"))}{empty}}}'
    return Event("BOOKMARK", f'{{"type":"BOOKMARK","object":{thing}}}\n'.encode())


def error_event(error: ApiError) -> Event:
    text = json.dumps({"type": "ERROR", "object": error.status()}, separators=(",", ":"))
    return Event("ERROR", text.encode() + b"\n")
