"""Decodes Kubernetes' objects into the values of `objects.py`.

There are three outcomes. *Accepted*, perhaps without some parts that no proxy can use, each named by a finding.
*Rejected* as a whole, because the object is broken: its last accepted version stays in use, so that a mistake in one
field never takes a Service down. *Ignored*, because kube-proxy would not read it either. Nothing that an object may
contain raises an exception. Which Services are served, and which addresses they may use, is for policy/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from ipvsagent.cluster import wire
from ipvsagent.cluster.decode_node import node_of
from ipvsagent.cluster.decode_service import service_of
from ipvsagent.cluster.decode_slice import SERVICE_LABEL, endpoint_slice_of
from ipvsagent.cluster.fields import NO_METADATA, Broken, identity_of, is_name
from ipvsagent.cluster.objects import Object, ObjectKey
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.wrong_types import in_words


class Accepted(Struct, frozen=True, gc=False):
    """Holds an object that can be used. findings: the parts that were left out."""

    value: Object
    findings: tuple[Finding, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return self.value.key


class Rejected(Struct, frozen=True, gc=False):
    """Reports an object that is broken as a whole."""

    key: ObjectKey
    """The key as far as it could be read; a name that is missing or invalid is ""."""
    finding: Finding
    service: str = ""
    """The name of an EndpointSlice's Service, "" if unknown."""


class Ignored(Struct, frozen=True, gc=False):
    """Reports a valid object that no Service proxy uses, such as an EndpointSlice of addressType FQDN."""

    key: ObjectKey


Decoded = Accepted | Rejected | Ignored

API_VERSIONS = {"Service": "v1", "EndpointSlice": "discovery.k8s.io/v1", "Node": "v1"}
"""The kinds that can be decoded, and the version of each."""


def decode_json(kind: str, raw: bytes | msgspec.Raw) -> Decoded:
    """Decode one object in JSON. `kind` is a key of `API_VERSIONS`; the text need not contain it."""
    decoder, _, convert = _KINDS[kind]
    try:
        item = decoder.decode(raw)
    except msgspec.ValidationError as error:
        return _rejected(kind, _plain(raw), *in_words(error))
    except (ValueError, RecursionError) as error:
        return _rejected(kind, None, "", f"it cannot be read: {error}")
    return _decoded(kind, convert, item)


def decode_item(kind: str, item: wire.Object) -> Decoded:
    """Decode one object that was parsed as part of something else."""
    return _decoded(kind, _KINDS[kind][2], item)


def decode_plain(kind: str, plain: object) -> Decoded:
    """Decode one object from mappings, lists and scalars, as YAML gives them."""
    _, shape, convert = _KINDS[kind]
    try:
        item = msgspec.convert(plain, shape)
    except msgspec.ValidationError as error:
        return _rejected(kind, plain, *in_words(error))
    except ValueError as error:
        return _rejected(kind, plain, "", f"it cannot be read: {error}")
    return _decoded(kind, convert, item)


def _decoded(kind: str, convert: _Convert, item: wire.Object) -> Decoded:
    findings: list[Finding] = []
    try:
        value = convert(item, findings)
        if value is None:
            namespace, name = identity_of(item.metadata or NO_METADATA)
            return Ignored(ObjectKey(kind, namespace, name))
    except Broken as broken:
        plain = {"metadata": msgspec.to_builtins(item.metadata)}
        return _rejected(kind, plain, broken.field, broken.reason)
    return Accepted(value, tuple(findings))


def _plain(raw: bytes | msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return None


def _rejected(kind: str, plain: object, field: str, reason: str) -> Rejected:
    """Read the identity of an object that may have any shape."""
    metadata = _member(plain, "metadata")
    name = _member(metadata, "name")
    namespace = "" if kind == "Node" else _member(metadata, "namespace") or "default"
    key = ObjectKey(kind, namespace if is_name(namespace) else "", name if is_name(name) else "")
    service = _member(_member(metadata, "labels"), SERVICE_LABEL) if kind == "EndpointSlice" else ""
    subject = str(key) if key.name else f"{kind} without a usable name"
    return Rejected(
        key,
        Finding(FindingKind.INVALID_OBJECT, subject, reason, field),
        service if is_name(service) else "",
    )


def _member(plain: object, name: str) -> Any:
    return plain.get(name) if isinstance(plain, dict) else None


_Convert = Callable[[Any, list[Finding]], Object | None]
_KINDS: dict[str, tuple[msgspec.json.Decoder[Any], Any, _Convert]] = {
    "Service": (msgspec.json.Decoder(wire.Service), wire.Service, service_of),
    "EndpointSlice": (msgspec.json.Decoder(wire.EndpointSlice), wire.EndpointSlice, endpoint_slice_of),
    "Node": (msgspec.json.Decoder(wire.Node), wire.Node, node_of),
}
