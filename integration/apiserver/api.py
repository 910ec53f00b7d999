"""Answers requests: everything between HTTP and the store."""

from __future__ import annotations

import gzip
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from integration.apiserver import reads, tables, writes
from integration.apiserver.access import Access
from integration.apiserver.discovery import HEALTH, discovery
from integration.apiserver.errors import ApiError, bad_request
from integration.apiserver.faults import Disturbance, Faults
from integration.apiserver.options import flag, read_options
from integration.apiserver.patches import APPLY_PATCH, patched
from integration.apiserver.records import Record, Thing
from integration.apiserver.routes import Route, route
from integration.apiserver.store import Store
from integration.apiserver.watches import BOOKMARK_INTERVAL, Watch

JSON = "application/json"
COMPRESSED_FROM = 128 * 1024
"""Bytes from which an answer is compressed, for those who ask (apiserver/pkg/endpoints/handlers/responsewriters)."""
JOURNAL = 100_000
_WRITES = ("create", "update", "patch", "delete", "deletecollection")


@dataclass(frozen=True)
class Request:
    """certificate: of the client, verified, as SSLSocket.getpeercert gives it."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    certificate: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Answer:
    code: int
    body: bytes
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Entry:
    """A request in the journal. at: seconds since 1970. verb, resource: empty where it was none for objects.
    code: 0 until it is known."""

    at: float
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    user: str = ""
    verb: str = ""
    resource: str = ""
    code: int = 0


class Api:
    """journal: the latest requests, oldest first. closed: whether watches must come to their end."""

    def __init__(
        self,
        store: Store,
        access: Access,
        faults: Faults,
        *,
        bookmark_interval: float = BOOKMARK_INTERVAL,
        closed: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store, self.access, self.faults = store, access, faults
        self.bookmark_interval = bookmark_interval
        self.journal: deque[Entry] = deque(maxlen=JOURNAL)
        self._closed = closed

    def answer(self, request: Request) -> tuple[Answer | Watch, Disturbance]:
        """Answers a request; never raises, whatever the client sends."""
        entry = Entry(time.time(), request.method, request.path, dict(request.query), dict(request.headers.items()))
        self.journal.append(entry)
        disturbance = Disturbance([])
        answer: Answer | Watch
        try:
            entry.user = self.access.user(request.headers, request.certificate)
            if (fixed := self._fixed(request)) is not None:
                answer = fixed
            else:
                way = route(request.method, request.path, watch=flag(request.query, "watch"))
                entry.verb, entry.resource = way.verb, way.resource.plural
                disturbance = self.faults.meet(way.verb, way.resource.plural)
                answer = _refused(disturbance, way, entry.user) or self._objects(request, way, disturbance)
        except ApiError as error:
            answer = _failure(error)
        entry.code = answer.code if isinstance(answer, Answer) else 200
        return answer, disturbance

    def _fixed(self, request: Request) -> Answer | None:
        if request.path.rstrip("/") in HEALTH:
            return Answer(200, b"ok", "text/plain; charset=utf-8")
        document = discovery(request.path.rstrip("/")) if request.method == "GET" else None
        return None if document is None else Answer(200, _json(document))

    def _objects(self, request: Request, way: Route, disturbance: Disturbance) -> Answer | Watch:
        accepted = request.headers.get("Accept") or "*/*"
        if not any(kind in accepted for kind in ("json", "*/*", "application/*")):
            raise ApiError(406, "NotAcceptable", f"only the following media types are accepted: {JSON}")
        resource, namespace, name = way.resource, way.namespace, way.name
        store = self._rehearsed(request) if way.verb in _WRITES and "dryRun" in request.query else self.store
        status = way.subresource == "status"
        if way.verb == "watch":
            options = read_options(request.query, resource, disturbance.watch_list)
            return Watch(
                store,
                resource,
                namespace,
                options,
                bookmark_interval=self.bookmark_interval,
                encode=tables.encoder() if tables.WANTED in accepted else Record.encoded,
                closed=self._closed,
            )
        if way.verb == "list":
            options = read_options(request.query, resource)
            page = reads.list_page(store, resource, namespace, options)
            if tables.WANTED in accepted:
                return Answer(200, _json(tables.table(resource, page.records, reads.list_metadata(page))))
            return _compressed(Answer(200, reads.list_body(resource, page)), request)
        if way.verb == "get":
            found = reads.get(store, resource, namespace, name)
            if tables.WANTED in accepted:
                return Answer(200, _json(tables.table(resource, [found], {"resourceVersion": str(found.version)})))
            return _one(found)
        if way.verb == "create":
            return _one(writes.create(store, resource, namespace, _thing(request)), 201)
        if way.verb == "update":
            made, created = writes.update(store, resource, namespace, name, _thing(request), status=status)
            return _one(made, 201 if created else 200)
        if way.verb == "patch":
            return _patch(store, request, way, status=status)
        body = _thing(request) if request.body else None
        if way.verb == "delete":
            gone = writes.delete(store, resource, namespace, name, body)
            return _one(gone) if resource.returns_deleted else Answer(200, _json(_deleted(way, gone)))
        page = reads.list_page(store, resource, namespace, read_options({**request.query, "limit": "0"}, resource))
        for record in page.records:
            writes.delete(store, resource, record.namespace, record.name, body)
        return Answer(200, reads.list_body(resource, page))

    def _rehearsed(self, request: Request) -> Store:
        if request.query["dryRun"] != "All":
            raise ApiError(422, "Invalid", f'dryRun: Unsupported value: "{request.query["dryRun"]}": supported: "All"')
        return self.store.copy()


def _patch(store: Store, request: Request, way: Route, *, status: bool) -> Answer:
    content_type = request.headers.get("Content-Type") or ""
    resource, namespace, name = way.resource, way.namespace, way.name

    def new(old: Thing) -> Thing:
        # What the patch says of the version is a condition; what the object says is none.
        metadata = {key: value for key, value in old["metadata"].items() if key != "resourceVersion"}
        return patched({**old, "metadata": metadata}, content_type, request.body)

    with store.lock:
        try:
            return _one(writes.change(store, resource, namespace, name, new, status=status))
        except ApiError as error:
            if error.code != 404 or not content_type.startswith(APPLY_PATCH):
                raise
        thing = patched({}, content_type, request.body)
        thing.setdefault("metadata", {})["name"] = name
        return _one(writes.create(store, resource, namespace, thing), 201)


def _refused(disturbance: Disturbance, way: Route, user: str) -> Answer | None:
    fault = disturbance.refusal
    if fault is None:
        return None
    group = f'API group "{way.resource.group}"'
    where = f'in the namespace "{way.namespace}"' if way.namespace else "at the cluster scope"
    known = {
        401: ("Unauthorized", "Unauthorized"),
        403: (
            "Forbidden",
            f'{way.resource.plural} is forbidden: User "{user}" cannot {way.verb} resource "{way.resource.plural}" '
            f"in {group} {where}",
        ),
        410: ("Expired", "The resourceVersion for the provided list is too old."),
        429: ("TooManyRequests", "Too many requests, please try again later."),
        500: ("InternalError", "Internal error occurred"),
        503: ("ServiceUnavailable", "apiserver not ready"),
        504: ("Timeout", "Timeout: request did not complete within the allotted timeout"),
    }
    reason, message = known.get(fault.code, ("", f"HTTP {fault.code}"))
    error = ApiError(fault.code, fault.reason or reason, fault.message or message, retry_after=fault.retry_after)
    answer = _failure(error)
    if fault.body is not None:
        return Answer(answer.code, fault.body.encode(), "text/html", answer.headers)
    return answer


def _failure(error: ApiError) -> Answer:
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return Answer(error.code, _json(error.status()), headers=headers)


def _one(record: Record, code: int = 200) -> Answer:
    return Answer(code, record.encoded() + b"\n")


def _deleted(way: Route, gone: Record) -> dict[str, Any]:
    details = {"name": way.name, "kind": way.resource.plural, "uid": gone.decoded()["metadata"].get("uid", "")}
    if way.resource.group:
        details["group"] = way.resource.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _thing(request: Request) -> Thing:
    content_type = (request.headers.get("Content-Type") or JSON).partition(";")[0]
    if content_type not in (JSON, "application/yaml"):
        text = (
            f"the body of the request was in an unknown format - accepted media types include: {JSON}, application/yaml"
        )
        raise ApiError(415, "UnsupportedMediaType", text)
    try:
        thing = yaml.safe_load(request.body) if content_type == "application/yaml" else json.loads(request.body)
    except (ValueError, yaml.YAMLError) as error:
        raise bad_request(f"the object provided cannot be read: {error}") from error
    if not isinstance(thing, dict):
        raise bad_request("the object provided is unrecognized (must be of type object)")
    return thing


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _compressed(answer: Answer, request: Request) -> Answer:
    if len(answer.body) < COMPRESSED_FROM or "gzip" not in (request.headers.get("Accept-Encoding") or ""):
        return answer
    return Answer(
        answer.code, gzip.compress(answer.body, 4), answer.content_type, {**answer.headers, "Content-Encoding": "gzip"}
    )
