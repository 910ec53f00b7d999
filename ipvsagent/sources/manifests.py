"""Follows files and directories of manifests as a source, and puts their objects into the inbox.

It decides when a file is complete: editors, `kubectl get > file` and configuration management write files in steps,
and half a file is often a valid one. cluster/manifests.py and cluster/manifest_set.py decide what the content means.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from threading import Event

import msgspec

from ipvsagent.cluster.manifest_set import ManifestSet, Update
from ipvsagent.cluster.manifests import Unreadable, read_manifest
from ipvsagent.cluster.objects import Changes
from ipvsagent.errors import SourceError
from ipvsagent.findings import Finding
from ipvsagent.sources.files import DOES_NOT_EXIST, Busy, Listing, Stamp, is_settled, list_files, read_whole
from ipvsagent.sources.inbox import Findings, Inbox
from ipvsagent.sources.view import SourceView

POLL_INTERVAL = 0.2
LONGEST_INTERVAL = 10.0
SCAN_SHARE = 0.002
"""The largest share of a core that scanning may take, unless that were less than one scan in LONGEST_INTERVAL."""
SCANS_COMPARED = 5
PATIENCE = 5.0
"""Seconds for which a file may be incomplete before that is a finding, or absent before it counts as deleted."""


class _Tracked:
    """Holds the state of a file from poll to poll."""

    def __init__(self) -> None:
        self.read: Stamp | None = None
        """The stamp of the content in the set."""
        self.last: Stamp | None = None
        """The stamp at the last poll."""
        self.since: float | None = None
        """When the file first differed from the content in the set."""


class ManifestSource:
    """Follows files and directories.

    Raises SourceError for a path that does not exist. allow_empty: see ManifestSet.
    """

    def __init__(self, paths: Iterable[Path], *, allow_empty: bool = False) -> None:
        self._roots = sorted(set(paths))
        for root in self._roots:
            if not root.exists():
                raise SourceError(f"{root} does not exist")
        self._allow_empty = allow_empty
        self._set = ManifestSet(", ".join(map(str, self._roots)), allow_empty=allow_empty)
        self._tracked: dict[str, _Tracked] = {}
        self._missing: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        self._scans: deque[float] = deque(maxlen=SCANS_COMPARED)
        self._synced = False

    @property
    def synced(self) -> bool:
        """Return whether every file has been read once, or given up for the moment."""
        return self._synced

    @property
    def interval(self) -> float:
        """Return how many seconds to wait between polls. The shortest of the last SCANS_COMPARED scans decides, because
        a scan may be interrupted, a clock may be coarse, and the first scan is slow as nothing is cached.
        """
        if len(self._scans) < SCANS_COMPARED:
            return POLL_INTERVAL
        return min(max(POLL_INTERVAL, min(self._scans) / SCAN_SHARE), LONGEST_INTERVAL)

    def run(self, inbox: Inbox, stop: Event) -> None:
        """Poll until `stop` is set. The first `Changes` is the first complete state and has synced=True."""
        while not stop.is_set():
            for message in self.poll(time.monotonic()):
                inbox.put(message)
            stop.wait(self.interval)

    def load_once(self) -> tuple[Changes, list[Finding]]:
        """Return the complete state of a source that has not been polled; wait some seconds for a file that is being
        written."""
        while True:
            messages = self.poll(time.monotonic())
            if self._synced:
                break
            time.sleep(POLL_INTERVAL)
        changes = next(m for m in messages if isinstance(m, Changes))
        return changes, [f for m in messages if isinstance(m, Findings) for f in m.findings]

    event_transport = None

    def view(self) -> SourceView:
        return SourceView(", ".join(map(str, self._roots)), self._synced)

    def poll(self, now: float) -> list[Changes | Findings]:
        """Look at the files once. now: monotonic seconds."""
        started = time.perf_counter()
        listing = list_files(self._roots)
        self._scans.append(time.perf_counter() - started)
        waiting = [path for path, stamp in listing.files.items() if not self._follow(path, stamp, now)]
        self._forget(listing, now)
        self._record_problems(listing)
        if not self._synced:
            if waiting:
                return []
            self._synced = True
            return self._messages(self._set.take(), first=True)
        return self._messages(self._set.take())

    def _follow(self, path: str, stamp: Stamp, now: float) -> bool:
        """Read the file if it is new or changed and is complete. Return False if it has to be looked at again."""
        tracked = self._tracked.setdefault(path, _Tracked())
        before, tracked.last = tracked.last, stamp
        if stamp == tracked.read:
            tracked.since = None
            return True
        if tracked.since is None:
            tracked.since = now
        problem = Busy.CHANGING.value
        if is_settled(before, stamp, time.time()):
            try:
                content = read_whole(path, stamp)
            except FileNotFoundError:
                return True
            except OSError as error:
                self._give_up(path, tracked, f"it cannot be read: {os.strerror(error.errno or 0)}")
                return True
            if isinstance(content, bytes):
                self._set.replace(path, read_manifest(content, only_json=path.endswith(".json")))
                tracked.read, tracked.since = stamp, None
                return True
            problem = content.value
        if now - tracked.since < PATIENCE:
            return False
        self._give_up(path, tracked, f"{problem} for more than {PATIENCE:g} s")
        return True

    def _give_up(self, path: str, tracked: _Tracked, reason: str) -> None:
        """Mark the file unreadable for now; every poll tries it again."""
        self._set.replace(path, Unreadable(reason))
        tracked.read = None

    def _forget(self, listing: Listing, now: float) -> None:
        """Remove deleted files from the set, once no further ones disappear: an editor that saves by renaming removes a
        file for a moment, and a directory that is being deleted loses one file after the other. Files below a
        directory that cannot be listed stay."""
        lost = [path for path, reason in listing.problems.items() if not self._is_gone(reason)]
        missing = {
            path: self._missing.get(path, now)
            for path in self._tracked
            if path not in listing.files and not any(_is_at_or_below(path, each) for each in lost)
        }
        settled = missing.keys() == self._missing.keys()
        for path, since in list(missing.items()):
            if settled or now - since >= PATIENCE:
                self._set.remove(path)
                del self._tracked[path], missing[path]
        self._missing = missing

    def _record_problems(self, listing: Listing) -> None:
        """Mark what cannot be listed unreadable; after the first poll only if it stays so."""
        problems = {path: reason for path, reason in listing.problems.items() if not self._is_gone(reason)}
        for path in self._problems.keys() - problems.keys() - listing.files.keys():
            self._set.remove(path)
        for path, reason in problems.items():
            if path in self._problems or not self._synced:
                self._set.replace(path, Unreadable(reason))
                self._tracked.pop(path, None)
        self._problems = problems

    def _is_gone(self, reason: str) -> bool:
        return self._allow_empty and reason == DOES_NOT_EXIST

    def _messages(self, update: Update, *, first: bool = False) -> list[Changes | Findings]:
        messages: list[Changes | Findings] = []
        changes = update.changes
        if first or changes.upserts or changes.removals or changes.blind is not None:
            messages.append(msgspec.structs.replace(changes, synced=True))
        messages.extend(Findings(f"manifests {name}".rstrip(), found) for name, found in update.findings.items())
        return messages


def _is_at_or_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
