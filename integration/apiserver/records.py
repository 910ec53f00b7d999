"""Stored objects, encoded once, so that lists and events only join their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from integration.apiserver.resources import Resource

Thing = dict[str, Any]
"""An object as decoded from JSON."""
_encode = msgspec.json.Encoder().encode
_NO_LABELS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Record:
    """One object in one version. rest: its JSON behind metadata.resourceVersion, which comes first."""

    resource: Resource
    namespace: str
    name: str
    version: int
    labels: Mapping[str, str]
    rest: bytes

    @property
    def key(self) -> str:
        """The key by which lists are ordered, as in etcd."""
        return key_of(self.namespace, self.name)

    @property
    def item(self) -> bytes:
        """The object in a list, where the API server omits kind and apiVersion."""
        return b'{"metadata":{"resourceVersion":"%d",' % self.version + self.rest

    def encoded(self) -> bytes:
        """The object on its own, with kind and apiVersion."""
        resource = self.resource
        head = f'{{"kind":"{resource.kind}","apiVersion":"{resource.api_version}","metadata":{{"resourceVersion":"'
        return head.encode() + b'%d",' % self.version + self.rest

    def decoded(self) -> Thing:
        thing: Thing = msgspec.json.decode(self.encoded())
        return thing

    def at(self, version: int) -> Record:
        return replace(self, version=version)


def key_of(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def record(resource: Resource, thing: Thing, version: int) -> Record:
    """Encodes an object with metadata.name, and metadata.namespace if it is namespaced."""
    metadata = {key: value for key, value in thing["metadata"].items() if key != "resourceVersion"}
    others = {key: value for key, value in thing.items() if key not in ("metadata", "kind", "apiVersion")}
    # {"name":...},"spec":...}: the brace that opens metadata is written with the version.
    rest = _encode(metadata)[1:]
    if others:
        rest += b"," + _encode(others)[1:]
    else:
        rest += b"}"
    labels = metadata.get("labels")
    namespace = metadata.get("namespace", "") if resource.namespaced else ""
    return Record(
        resource, namespace, metadata["name"], version, labels if isinstance(labels, dict) else _NO_LABELS, rest
    )
