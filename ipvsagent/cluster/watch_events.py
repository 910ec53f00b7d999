"""Decodes the responses of a Kubernetes API server to list and watch: pages, and the lines of a watch.

Each object is decoded by itself: a broken one is `Rejected`, and never affects the others. An object is read in one
pass together with the event around it; only one with the wrong shape is read a second time.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ipvsagent.cluster import wire
from ipvsagent.cluster.decode import Decoded, Rejected, decode_item, decode_json
from ipvsagent.cluster.fields import NO_METADATA, is_name
from ipvsagent.cluster.objects import ObjectKey

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
EXPIRED = 410

T = TypeVar("T")


class Garbage(Exception):
    """Reports a line or a body that no API server writes. `str()` is a clause for people."""


class Put(Struct, frozen=True, gc=False):
    """Reports an event ADDED or MODIFIED."""

    decoded: Decoded
    version: str
    """The object's resourceVersion."""
    trigger: str = ""
    """The annotation `endpoints.kubernetes.io/last-change-trigger-time` of an EndpointSlice, "" if it has none. It is
    not part of the object, because it may change when nothing else does."""

    @property
    def triggered(self) -> float | None:
        """Return the trigger time in seconds since 1970; None if it is missing or invalid."""
        try:
            return datetime.fromisoformat(self.trigger).timestamp() if self.trigger else None
        except (ValueError, OverflowError):
            return None


class Deleted(Struct, frozen=True, gc=False):
    """Reports an event DELETED."""

    key: ObjectKey
    version: str


class Bookmark(Struct, frozen=True, gc=False):
    """Reports an event BOOKMARK."""

    version: str
    complete: bool
    """Every object that existed when the watch began has been sent."""


class Status(Struct, frozen=True, gc=False):
    """Holds a `Status` object, with which the API server refuses a request."""

    code: int = 0
    reason: str = ""
    message: str = ""
    retry_after: float | None = None
    """Seconds that the server asks to wait."""


Event = Put | Deleted | Bookmark | Status


class Page(Struct, frozen=True, gc=False):
    """Holds a page of a list."""

    objects: tuple[Decoded, ...]
    version: str
    more: str
    """The token for the next page, "" if this is the last."""


class _Event(Struct, Generic[T], frozen=True, gc=False):
    object: T
    type: str = ""


class _RawEvent(Struct, frozen=True, gc=False):
    type: str = ""
    object: msgspec.Raw = msgspec.Raw(b"null")


class _ListMetadata(Struct, frozen=True, gc=False):
    resourceVersion: str | None = None
    continue_: str | None = msgspec.field(default=None, name="continue")


class _List(Struct, frozen=True, gc=False):
    metadata: _ListMetadata | None = None
    items: list[msgspec.Raw] | UnsetType | None = UNSET


class _Details(Struct, frozen=True, gc=False):
    retryAfterSeconds: float | None = None


class _Status(Struct, frozen=True, gc=False):
    code: int | None = None
    reason: str | None = None
    message: str | None = None
    details: _Details | None = None


class _Versioned(Struct, frozen=True, gc=False):
    metadata: wire.Metadata | None = None


_EVENTS: dict[str, msgspec.json.Decoder[Any]] = {
    "Service": msgspec.json.Decoder(_Event[wire.Service]),
    "EndpointSlice": msgspec.json.Decoder(_Event[wire.EndpointSlice]),
    "Node": msgspec.json.Decoder(_Event[wire.Node]),
}
_RAW_EVENT = msgspec.json.Decoder(_RawEvent)
_LIST = msgspec.json.Decoder(_List)
_STATUS = msgspec.json.Decoder(_Status)
_VERSIONED = msgspec.json.Decoder(_Versioned)


def decode_event(kind: str, line: bytes) -> Event | None:
    """Decode one line of a watch; None for an event of an unknown type. Raises Garbage."""
    try:
        event = _EVENTS[kind].decode(line)
    except msgspec.ValidationError:
        return _decode_mismatch(kind, line)
    except (ValueError, RecursionError) as error:
        raise Garbage(f"a line of the watch is not JSON: {error}") from None
    item: wire.Object = event.object
    metadata = item.metadata or NO_METADATA
    version = metadata.resourceVersion or ""
    if event.type in ("ADDED", "MODIFIED"):
        decoded = _named(decode_item(kind, item))
        trigger = (metadata.annotations or {}).get(TRIGGER_TIME, "") if kind == "EndpointSlice" else ""
        return Put(decoded, version, trigger)
    return _other(kind, event.type, metadata, version, line)


def _decode_mismatch(kind: str, line: bytes) -> Event | None:
    """Decode an event whose object does not have the shape of its kind: it is a Status, or broken."""
    try:
        event = _RAW_EVENT.decode(line)
    except (ValueError, RecursionError) as error:
        raise Garbage(f"a line of the watch is not an event: {error}") from None
    try:
        metadata = _VERSIONED.decode(event.object).metadata or NO_METADATA
    except (ValueError, RecursionError):
        metadata = NO_METADATA
    version = metadata.resourceVersion or ""
    if event.type in ("ADDED", "MODIFIED"):
        return Put(_named(decode_json(kind, event.object)), version)
    return _other(kind, event.type, metadata, version, line)


def _other(kind: str, event_type: str, metadata: wire.Metadata, version: str, line: bytes) -> Event | None:
    if event_type == "DELETED":
        namespace = "" if kind == "Node" else metadata.namespace or ""
        if not is_name(metadata.name) or (namespace and not is_name(namespace)):
            raise Garbage(f"a {kind} without a usable name was deleted")
        return Deleted(ObjectKey(kind, namespace, metadata.name or ""), version)
    if event_type == "BOOKMARK":
        return Bookmark(version, (metadata.annotations or {}).get(INITIAL_EVENTS_END) == "true")
    if event_type == "ERROR":
        return decode_status(bytes(_RAW_EVENT.decode(line).object))
    return None


def _named(decoded: Decoded) -> Decoded:
    """Return an object that has a name. Raises Garbage for one without: a new list shows which one it is."""
    if isinstance(decoded, Rejected) and not decoded.key.name:
        raise Garbage(f"an object has no usable name: {decoded.finding.reason}")
    return decoded


def decode_page(kind: str, body: bytes) -> Page:
    """Decode the response to a list request. Raises Garbage."""
    try:
        page = _LIST.decode(body)
    except (ValueError, RecursionError) as error:
        raise Garbage(f"the list cannot be decoded: {error}") from None
    if page.metadata is None or page.items is UNSET:
        raise Garbage("the response is not a list")
    return Page(
        tuple([decode_json(kind, raw) for raw in page.items or ()]),
        page.metadata.resourceVersion or "",
        page.metadata.continue_ or "",
    )


def decode_status(body: bytes) -> Status:
    """Decode the body of a refusal; the result is empty if the body cannot be decoded."""
    try:
        status = _STATUS.decode(body)
    except (ValueError, RecursionError):
        return Status()
    after = status.details.retryAfterSeconds if status.details else None
    return Status(status.code or 0, status.reason or "", status.message or "", after)
