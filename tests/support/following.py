"""A source that runs in a thread, and all that it reports."""

from __future__ import annotations

import threading
import time

from ipvsagent.cluster.objects import Changes
from ipvsagent.sources.inbox import Findings, Inbox
from ipvsagent.sources.kubernetes import ApiSource


class Following:
    """Runs a source in a thread, and keeps what it reports."""

    def __init__(self, source: ApiSource) -> None:
        self.source = source
        self.inbox = Inbox()
        self.stop = threading.Event()
        self.messages: list[object] = []
        self.objects: dict[object, object] = {}
        self.found: dict[str, tuple] = {}
        self.synced = False
        self.blind = None
        self.error = None
        self.thread = threading.Thread(target=source.run, args=(self.inbox, self.stop), daemon=True)
        self.thread.start()

    def until(self, condition, patience=30.0):
        """Wait until the condition holds, or has held between two messages that arrived together."""
        end = time.monotonic() + patience
        met = condition()
        while not met:
            assert time.monotonic() < end, (self.objects, self.found, self.error)
            for message in self.inbox.take(0.02):
                self.take(message)
                met = met or condition()
            met = met or condition()

    def take(self, message) -> None:
        self.messages.append(message)
        if isinstance(message, Changes):
            self.synced = message.synced
            self.blind = message.blind or self.blind
            self.objects.update({item.key: item for item in message.upserts})
            for key in message.removals:
                del self.objects[key]
        elif isinstance(message, Findings):
            self.found[message.origin] = message.findings
        else:
            self.error = message

    @property
    def says(self):
        return " | ".join(str(finding) for found in self.found.values() for finding in found)

    @property
    def names(self):
        return sorted(key.name for key in self.objects)

    def close(self):
        self.stop.set()
        self.thread.join(5)
        assert not self.thread.is_alive()
