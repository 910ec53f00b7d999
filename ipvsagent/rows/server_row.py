"""Defines the row of a whole virtual server, whatever backend it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from msgspec import Struct

from ipvsagent.model import VirtualServerId
from ipvsagent.rows.verb import Verb


class ServerRow(Struct, frozen=True, gc=False):
    """Defines what `VirtualServerRow` and `ChainsRow` have in common."""

    noun: ClassVar[str] = "virtual server"
    rank: ClassVar[Mapping[Verb, int]] = {Verb.ADD: 0, Verb.SET: 0, Verb.DELETE: 7}

    id: VirtualServerId

    @property
    def key(self) -> VirtualServerId:
        return self.id

    @property
    def server(self) -> VirtualServerId:
        return self.id
