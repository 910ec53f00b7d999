"""Defines the protocol of a source, and chooses one by configuration."""

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
    """Provides Services, EndpointSlices and Nodes."""

    def run(self, inbox: Inbox, stop: Event) -> None:
        """Put `Changes` and `Findings` into the inbox until `stop` is set. From the first complete state on, `Changes`
        has synced=True. Raises SourceError, StartError."""

    def load_once(self) -> tuple[Changes, list[Finding]]:
        """Return the complete current state. Raises SourceError, StartError."""

    def view(self) -> SourceView: ...

    @property
    def event_transport(self) -> EventTransport | None:
        """Return where Events are written, or None if the source has no cluster that could take them."""


def source_of(config: Config) -> Source:
    """Return the configured files, otherwise the Kubernetes API. Raises ConfigError, SourceError, StartError."""
    if config.sources:
        from ipvsagent.sources.manifests import ManifestSource

        return ManifestSource(config.sources, allow_empty=config.allow_empty)
    from ipvsagent.sources.kubernetes import api_source

    return api_source(config)
