"""What the loop needs of a source, and which one a configuration names."""

from __future__ import annotations

from threading import Event
from typing import Protocol

from ipvsagent.api.event_writer import EventTransport
from ipvsagent.cluster.objects import Changes
from ipvsagent.config import Config
from ipvsagent.findings import Finding
from ipvsagent.sources.inbox import Inbox
from ipvsagent.sources.view import SourceView


class Source(Protocol):
    def run(self, inbox: Inbox, stop: Event) -> None:
        """Puts `Changes` and `Findings` until `stop` is set. Once everything was said for the first time, `Changes`
        has synced=True. Raises SourceError, StartError."""

    def load_once(self) -> tuple[Changes, list[Finding]]:
        """Everything as it is now. Raises SourceError, StartError."""

    def view(self) -> SourceView: ...

    @property
    def event_transport(self) -> EventTransport | None:
        """By which Events are written; None if what is wrong with the objects is not for their cluster to know."""


def source_of(config: Config) -> Source:
    """Files if there are any, else the Kubernetes API. Raises ConfigError, SourceError, StartError."""
    if config.sources:
        from ipvsagent.sources.manifests import ManifestSource

        return ManifestSource(config.sources, allow_empty=config.allow_empty)
    from ipvsagent.sources.kubernetes import api_source

    return api_source(config)
