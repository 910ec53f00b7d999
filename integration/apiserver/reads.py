"""GET of one object and of a page of a list (apiserver/pkg/storage/etcd3/store.go, storage/continue.go)."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from integration.apiserver.errors import bad_request, expired, not_found, too_large_version
from integration.apiserver.options import Options
from integration.apiserver.records import Record, key_of
from integration.apiserver.resources import Resource
from integration.apiserver.store import Store

_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True)
class Page:
    """remaining: None where the API server does not count them: on the last page, and under selectors."""

    version: int
    records: list[Record]
    proceed: str = ""
    remaining: int | None = None


def get(store: Store, resource: Resource, namespace: str, name: str) -> Record:
    """Raises ApiError."""
    found = store.get(resource, key_of(namespace, name))
    if found is None:
        raise not_found(resource.plural, name, resource.group)
    return found


def selects(options: Options, namespace: str, record: Record) -> bool:
    if namespace and record.namespace != namespace:
        return False
    if options.labels is not None and not options.labels(record.labels):
        return False
    return options.fields is None or options.fields(record.decoded())


def wait_until_fresh(store: Store, version: int | None) -> None:
    """Waits for a version. Raises ApiError (504) if it is not reached in time."""
    if version and not store.wait(version - 1, store.fresh_within):
        raise too_large_version(version, store.version)


def list_page(store: Store, resource: Resource, namespace: str, options: Options) -> Page:
    """Raises ApiError."""
    limit, start = options.limit, ""
    if options.proceed:
        at, start = _read_token(options.proceed)
        if at is not None and at < store.compacted:
            error = expired(_TOO_OLD)
            error.proceed = _token(None, start)
            raise error
    elif options.version and (options.match == "Exact" or (limit and not options.match)):
        at = options.version
        if at > store.version:
            raise too_large_version(at, store.version)
    else:
        wait_until_fresh(store, options.version)
        at = None
        if options.version == 0:
            limit = 0  # answered from the watch cache, which has no pages
    with store.lock:
        version = at if at is not None else store.version
        records = store.records(resource, at)
    chosen = [r for r in records if r.key >= start and selects(options, namespace, r)]
    chosen.sort(key=lambda record: record.key)
    if not limit or len(chosen) <= limit:
        return Page(version, chosen)
    counted = options.labels is None and options.fields is None
    following = chosen[limit - 1].key + "\0"
    return Page(version, chosen[:limit], _token(version, following), len(chosen) - limit if counted else None)


def list_metadata(page: Page) -> dict[str, object]:
    metadata: dict[str, object] = {"resourceVersion": str(page.version)}
    if page.proceed:
        metadata["continue"] = page.proceed
    if page.remaining is not None:
        metadata["remainingItemCount"] = page.remaining
    return metadata


def list_body(resource: Resource, page: Page) -> bytes:
    metadata = list_metadata(page)
    head = f'{{"kind":"{resource.kind}List","apiVersion":"{resource.api_version}","metadata":{json.dumps(metadata)},'
    return head.encode() + b'"items":[' + b",".join([record.item for record in page.records]) + b"]}\n"


def _token(version: int | None, start: str) -> str:
    """Encodes a continue token. One without a version continues with the present objects."""
    content = {"v": "meta.k8s.io/v1", "rv": -1 if version is None else version, "start": start}
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def _read_token(token: str) -> tuple[int | None, str]:
    try:
        content = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        version, start = int(content["rv"]), str(content["start"])
    except (ValueError, KeyError, TypeError) as error:
        raise bad_request(f"continue key is not valid: {error}") from error
    return (None if version < 0 else version), start
