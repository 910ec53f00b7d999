"""Decodes the objects in the text of one manifest file.

It accepts what `kubectl get -o yaml` and `-o json` print and what people write: YAML with several documents, JSON
documents one after the other, `kind: List` and `ServiceList`, objects of other kinds in between. It does not
know where a file is, nor what was in it before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from ipvsagent.cluster.decode import API_VERSIONS, Decoded, Rejected, decode_json, decode_plain
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.yaml_documents import yaml_documents

_GZIP = b"\x1f\x8b"
_WATCH_EVENTS = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR")


class Content(Struct, frozen=True):
    """Holds what is in a file."""

    objects: tuple[Decoded, ...] = ()
    """The objects in the order of the text."""
    other: int = 0
    """How many objects are of kinds that ipvsagent does not read."""
    findings: tuple[Finding, ...] = ()
    """Findings about items that are null."""


class Unreadable(Struct, frozen=True):
    """Reports that the content of an input is unknown. reason: a clause such as `it is not JSON: ...`."""

    reason: str


def read_manifest(text: bytes, *, only_json: bool = False) -> Content | Unreadable:
    """Decode the text of a file. only_json: by its name, it is JSON; otherwise it is YAML, or JSON if it parses."""
    if text.startswith(_GZIP):
        return Unreadable("it is compressed with gzip; unpack it, as `gzip -d` does")
    text = text.removeprefix(b"\xef\xbb\xbf")
    try:
        if only_json or text.lstrip()[:1] == b"{":
            content = _read_json(text)
            if isinstance(content, Content) or only_json:
                return content
        return _Reader(_plain_head, decode_plain).read(yaml_documents(text))
    except _NotAManifest as error:
        return Unreadable(str(error))
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        return Unreadable(f"it is not YAML: {where}{error.problem}")
    except yaml.YAMLError as error:
        return Unreadable(f"it is not YAML: {' '.join(str(error).split())}")
    except RecursionError:
        return Unreadable("it is nested too deeply")


def _read_json(text: bytes) -> Content | Unreadable:
    try:
        return _Reader(_raw_head, decode_json).read([text])
    except msgspec.DecodeError:
        pass  # more than one document, perhaps
    except UnicodeDecodeError as error:
        return Unreadable(f"it is not UTF-8: {error.reason} at byte {error.start}")
    try:
        return _Reader(_raw_head, decode_json).read(_json_stream(text.decode()))
    except ValueError as error:
        return Unreadable(f"it is not JSON: {error}")


def _json_stream(text: str) -> Iterator[bytes]:
    """Split a text into its JSON documents, which msgspec cannot do."""
    decoder = json.JSONDecoder()
    text = text.strip()
    start = 0
    while start < len(text) or not text:
        _, end = decoder.raw_decode(text, start)
        yield text[start:end].encode()
        start = end
        while start < len(text) and text[start].isspace():
            start += 1


class _NotAManifest(Exception):
    """Reports valid text that does not consist of Kubernetes objects."""


class _Head(Struct, frozen=True):
    """Holds the fields that decide how a document is read."""

    api_version: object
    kind: object
    items: list[Any] | None
    """None if there is no such field; the items have the same type as the document."""
    event: object = None
    """The type of a watch event; None if the document is not one."""


_NULL = msgspec.Raw(b"null")


class _RawHead(Struct, frozen=True):
    apiVersion: Any = None
    kind: Any = None
    items: msgspec.Raw = _NULL
    type: Any = None
    object: msgspec.Raw = _NULL


_RAW_HEAD = msgspec.json.Decoder(_RawHead)
_RAW_ITEMS = msgspec.json.Decoder(list[msgspec.Raw] | None)


def _raw_head(raw: bytes | msgspec.Raw) -> _Head:
    try:
        head = _RAW_HEAD.decode(raw)
    except msgspec.ValidationError:
        raise _NotAManifest("it does not consist of Kubernetes objects") from None
    try:
        items = _RAW_ITEMS.decode(head.items)
    except msgspec.ValidationError:
        items = None
    return _Head(head.apiVersion, head.kind, items, None if head.object == _NULL else head.type)


def _plain_head(plain: object) -> _Head:
    if not isinstance(plain, dict):
        raise _NotAManifest("it does not consist of Kubernetes objects")
    items = plain.get("items")
    event = plain.get("type") if plain.get("object") is not None else None
    return _Head(plain.get("apiVersion"), plain.get("kind"), items if isinstance(items, list) else None, event)


class _Reader:
    """Decodes documents, which are JSON text or plain Python objects, whichever `head` and `decode` accept."""

    def __init__(self, head: Callable[[Any], _Head], decode: Callable[[str, Any], Decoded]) -> None:
        self._head = head
        self._decode = decode
        self._objects: list[Decoded] = []
        self._other = 0
        self._findings: list[Finding] = []

    def read(self, documents: Iterable[Any]) -> Content:
        for document in documents:
            self._add(document, None, None)
        return Content(tuple(self._objects), self._other, tuple(self._findings))

    def _add(self, document: Any, listed_version: object, listed_kind: str | None) -> None:
        """Add the objects of a document. `listed_*`: the version and kind that the list around it gives its items."""
        head = self._head(document)
        api_version, kind = head.api_version or listed_version, head.kind or listed_kind
        if not isinstance(kind, str):
            if head.event in _WATCH_EVENTS:
                raise _NotAManifest(
                    "it holds the events of a watch, not objects; use what `kubectl get` prints with -o yaml or "
                    "-o json, without --output-watch-events and --raw"
                )
            self._other += 1
        elif kind in API_VERSIONS:
            self._add_object(kind, api_version, document)
        elif head.items is not None and (kind == "List" or kind.removesuffix("List") in API_VERSIONS):
            listed = (None, None) if kind == "List" else (api_version, kind.removesuffix("List"))
            for index, item in enumerate(head.items):
                if item is None or item == _NULL:
                    reason = "is null, which is not an object; it is ignored"
                    self._findings.append(Finding(FindingKind.INVALID_OBJECT, kind, reason, f"items[{index}]"))
                else:
                    self._add(item, *listed)
        else:
            self._other += len(head.items) if head.items is not None and kind.endswith("List") else 1

    def _add_object(self, kind: str, api_version: object, document: Any) -> None:
        """Add an object. A kind of the same name in another API group, such as Knative's Service, is another kind."""
        wanted = API_VERSIONS[kind]
        if api_version == wanted:
            self._objects.append(self._decode(kind, document))
        elif not api_version or (isinstance(api_version, str) and _group(api_version) == _group(wanted)):
            reason = (
                f"is {api_version}, but only {wanted} is supported"
                if api_version
                else f"is missing; it must be {wanted}"
            )
            decoded = self._decode(kind, document)
            subject = decoded.finding.subject if isinstance(decoded, Rejected) else str(decoded.key)
            finding = Finding(FindingKind.INVALID_OBJECT, subject, reason, "apiVersion")
            service = getattr(decoded, "service", "") or getattr(getattr(decoded, "value", None), "service", "")
            self._objects.append(Rejected(decoded.key, finding, service))
        else:
            self._other += 1


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]
