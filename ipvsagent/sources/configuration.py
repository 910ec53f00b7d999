"""Follows configuration files: a new version is used as a whole if it is valid, or not at all.

config/reload.py decides which settings a running agent can change.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from threading import Event

import msgspec
from msgspec import Struct

from ipvsagent.config import Config, Remark, for_this_node, resolve
from ipvsagent.config.reload import finding
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.sources.files import Stamp, is_settled, read_whole
from ipvsagent.sources.inbox import Findings, Inbox

ORIGIN = "configuration files"
POLL_INTERVAL = 1.0
_STAYS = "the settings in force are kept"


class NewConfig(Struct, frozen=True):
    """Reports a complete and valid new configuration."""

    config: Config
    warnings: tuple[Remark, ...]
    origins: dict[str, Remark]
    """Where each value was written, by field of Config."""


class ConfigurationFiles:
    """Follows files of settings.

    options: the command line's, which override the files. contents: of the files when the agent started, by name.
    """

    def __init__(
        self, paths: Iterable[Path], options: Mapping[str, str | tuple[str, ...]], contents: Mapping[str, bytes]
    ) -> None:
        self._paths = [str(path) for path in paths]
        self._options = options
        self._contents = dict(contents)
        self._known: dict[str, Stamp] = {}
        self._last: dict[str, Stamp] = {}
        self._failed_before = False
        self._wrong = False

    def run(self, inbox: Inbox, stop: Event) -> None:
        """Poll until `stop` is set."""
        while not stop.is_set():
            for message in self.poll():
                inbox.put(message)
            stop.wait(POLL_INTERVAL)

    def poll(self) -> list[NewConfig | Findings]:
        """Look at the files once. A file that is missing in one poll only is being replaced."""
        try:
            read = self._read_changed()
        except OSError as error:
            reason = f"cannot be read ({os.strerror(error.errno or 0)}); {_STAYS}"
            again, self._failed_before = self._failed_before, True
            self._known.clear()
            if not again:
                return []
            self._wrong = True
            return [Findings(ORIGIN, (Finding(FindingKind.CONFIGURATION, str(error.filename), reason),))]
        self._failed_before = False
        if read is None:
            return []
        if not self._wrong and all(self._contents[path] == content for path, content in read.items()):
            return []
        self._contents |= read
        self._wrong = False
        resolved = resolve(self._options, {path: self._contents[path] for path in self._paths})
        if resolved.config is None:
            self._wrong = True
            problems = [msgspec.structs.replace(p, reason=f"{p.reason}; {_STAYS}") for p in resolved.problems]
            return [Findings(ORIGIN, tuple(finding(problem, Severity.ERROR) for problem in problems))]
        return [Findings(ORIGIN), NewConfig(for_this_node(resolved.config), resolved.warnings, resolved.origins)]

    def _read_changed(self) -> dict[str, bytes] | None:
        """Return the contents of changed files; None if there are none, or if one is still being written."""
        stamps: dict[str, Stamp] = {}
        read: dict[str, bytes] = {}
        for path in self._paths:
            stamp = Stamp.of(os.stat(path))
            before, self._last[path] = self._last.get(path), stamp
            if stamp == self._known.get(path):
                continue
            content = read_whole(path, stamp) if is_settled(before, stamp, time.time()) else None
            if not isinstance(content, bytes):
                return None
            stamps[path], read[path] = stamp, content
        self._known |= stamps
        return read or None
