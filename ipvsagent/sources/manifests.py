"""A folder of manifests as a cluster: follows the files and sends what they say to the inbox.

It decides when a file may be believed: files are written in steps, by editors, by `kubectl get > file`, by
configuration management, and half a file is often a valid one. What their content means is for
cluster/manifests.py and cluster/manifest_set.py.
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
"""Scanning takes no more than this share of a core, if that is not less often than once in LONGEST_INTERVAL."""
SCANS_COMPARED = 5
PATIENCE = 5.0
"""After so many seconds of waiting for a file to be complete, or to come back, that is a finding, or it is gone."""


class _Tracked:
    """A file from poll to poll. read: the stamp of what is in the set. last: the stamp seen last.
    since: when what is on disk first differed from what is in the set."""

    def __init__(self) -> None:
        self.read: Stamp | None = None
        self.last: Stamp | None = None
        self.since: float | None = None


class ManifestSource:
    """paths: files and folders. Raises SourceError for one that does not exist. allow_empty: see ManifestSet."""

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
        """Every file has been read once, or given up for the moment."""
        return self._synced

    @property
    def interval(self) -> float:
        """Seconds to wait between polls. The least of the last scans counts, and none before there are some: one that
        was interrupted, or timed by a clock that ticks, says nothing. The first is the slowest, as nothing is cached.
        """
        if len(self._scans) < SCANS_COMPARED:
            return POLL_INTERVAL
        return min(max(POLL_INTERVAL, min(self._scans) / SCAN_SHARE), LONGEST_INTERVAL)

    def run(self, inbox: Inbox, stop: Event) -> None:
        """Until `stop` is set. The first `Changes` is the first complete state and has synced=True."""
        while not stop.is_set():
            for message in self.poll(time.monotonic()):
                inbox.put(message)
            stop.wait(self.interval)

    def load_once(self) -> tuple[Changes, list[Finding]]:
        """The complete state now, from a source that has not been polled; waits some seconds for a file that is
        being written."""
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
        """Looks at the files once. now: seconds of a clock that never goes back."""
        started = time.perf_counter()
        listing = list_files(self._roots)
        self._scans.append(time.perf_counter() - started)
        waiting = [path for path, stamp in listing.files.items() if not self._follow(path, stamp, now)]
        self._forget(listing, now)
        self._note(listing)
        if not self._synced:
            if waiting:
                return []
            self._synced = True
            return self._messages(self._set.take(), first=True)
        return self._messages(self._set.take())

    def _follow(self, path: str, stamp: Stamp, now: float) -> bool:
        """Reads the file if it is new or changed and may be believed. False if it is too early to say anything."""
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
        """For the moment: it is tried again at every poll."""
        self._set.replace(path, Unreadable(reason))
        tracked.read = None

    def _forget(self, listing: Listing, now: float) -> None:
        """Files that are gone, once no more of them go: an editor that saves by renaming takes a file away for a
        moment, and a folder that is being deleted loses one file after the other. What is below a folder that
        cannot be listed is not gone."""
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

    def _note(self, listing: Listing) -> None:
        """What cannot be read is an input of which nothing is known; after the first poll only if it stays so."""
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


def _is_at_or_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
