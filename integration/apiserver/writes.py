"""Creating, replacing and deleting, with the checks and the bookkeeping that the API server does."""

from __future__ import annotations

import secrets
import string
import time
import uuid
from collections.abc import Callable
from typing import Any

from integration.apiserver.errors import ApiError, already_exists, bad_request, conflict, not_found
from integration.apiserver.events import check_event
from integration.apiserver.reads import get
from integration.apiserver.records import Record, Thing, key_of
from integration.apiserver.resources import ENDPOINT_SLICES, NAMESPACES, NEW_EVENTS, SERVICES, Resource
from integration.apiserver.services import complete_service
from integration.apiserver.shapes import check_shape
from integration.apiserver.store import Store

_FIXED = ("uid", "creationTimestamp", "selfLink", "deletionTimestamp", "generation")


def create(store: Store, resource: Resource, namespace: str, thing: Thing) -> Record:
    """Raises ApiError."""
    metadata = _metadata(resource, namespace, "", thing)
    if metadata.get("resourceVersion"):
        raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
    if not metadata.get("name"):
        if not metadata.get("generateName"):
            text = f'{resource.kind} "" is invalid: metadata.name: Required value: name or generateName is required'
            raise ApiError(422, "Invalid", text, {"kind": resource.kind})
        metadata["name"] = metadata["generateName"] + _random_name()
    with store.lock:
        if resource.namespaced and store.get(NAMESPACES, namespace) is None:
            raise not_found("namespaces", namespace)
        if store.get(resource, key_of(namespace, metadata["name"])) is not None:
            raise already_exists(resource.plural, metadata["name"], resource.group)
        thing = {**thing, "metadata": {**metadata, "uid": str(uuid.uuid4()), "creationTimestamp": now()}}
        thing["metadata"].pop("resourceVersion", None)
        if resource is ENDPOINT_SLICES:
            thing["metadata"]["generation"] = 1
        elif resource is NAMESPACES:
            thing.update(spec={"finalizers": ["kubernetes"]}, status={"phase": "Active"})
            thing["metadata"]["labels"] = {
                **thing["metadata"].get("labels", {}),
                "kubernetes.io/metadata.name": metadata["name"],
            }
        elif resource is SERVICES:
            thing["status"] = {"loadBalancer": {}}
            thing = complete_service(store, thing)
        elif resource is NEW_EVENTS:
            check_event(thing)
        return store.put(resource, thing)


def update(
    store: Store, resource: Resource, namespace: str, name: str, thing: Thing, *, status: bool = False
) -> tuple[Record, bool]:
    """Whether it was created, beside the result. status: only that part. Raises ApiError."""
    if not (thing.get("metadata") or {}).get("name"):
        raise bad_request(f"the name of the object ({name} based on URL) was undeterminable: name must be provided")
    metadata = _metadata(resource, namespace, name, thing)
    version = metadata.get("resourceVersion", "")
    with store.lock:
        if store.get(resource, key_of(namespace, name)) is None and resource.created_by_update and not version:
            return create(store, resource, namespace, thing), True
        return change(store, resource, namespace, name, lambda _: thing, status=status), False


def change(
    store: Store,
    resource: Resource,
    namespace: str,
    name: str,
    new: Callable[[Thing], Thing],
    *,
    status: bool = False,
) -> Record:
    """What `new` makes of the present object replaces it, if it names no other version. Raises ApiError."""
    with store.lock:
        before = get(store, resource, namespace, name)
        old = before.decoded()
        thing = new(old)
        metadata = dict(_metadata(resource, namespace, name, thing))
        version = metadata.pop("resourceVersion", "")
        if version and version != str(before.version):
            raise conflict(resource.plural, name, resource.group)
        if metadata.get("uid") not in (None, old["metadata"].get("uid")):
            why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: "
            raise conflict(resource.plural, name, resource.group, why + str(old["metadata"].get("uid", "")))
        metadata.update({key: old["metadata"][key] for key in _FIXED if key in old["metadata"]})
        thing = {**thing, "metadata": metadata}
        if status:
            thing = {**old, "metadata": metadata, "status": thing.get("status", {})}
        elif resource.has_status:
            thing.pop("status", None)
            if "status" in old:
                thing["status"] = old["status"]
        if resource is SERVICES and not status:
            thing = complete_service(store, thing, old)
        if resource is NEW_EVENTS:
            check_event(thing, old)
        if resource is ENDPOINT_SLICES and _differs(old, thing):
            metadata["generation"] = old["metadata"].get("generation", 0) + 1
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            return store.remove(resource, before.key)
        return store.put(resource, thing)


def delete(store: Store, resource: Resource, namespace: str, name: str, options: Thing | None = None) -> Record:
    """Marks it only, while it has finalizers. options: a DeleteOptions. Raises ApiError."""
    conditions = (options or {}).get("preconditions") or {}
    with store.lock:
        before = get(store, resource, namespace, name)
        metadata = before.decoded()["metadata"]
        for field, wanted in (("uid", conditions.get("uid")), ("resourceVersion", conditions.get("resourceVersion"))):
            if wanted and wanted != metadata.get(field):
                words = {"uid": "UID", "resourceVersion": "ResourceVersion"}[field]
                why = f"Precondition failed: {words} in precondition: {wanted}, {words} in object meta: "
                raise conflict(resource.plural, name, resource.group, why + str(metadata.get(field, "")))
        if metadata.get("finalizers"):
            if metadata.get("deletionTimestamp"):
                return before
            marked = {**before.decoded(), "metadata": {**metadata, "deletionTimestamp": now()}}
            return store.put(resource, marked)
        if resource is NAMESPACES:
            _empty_namespace(store, name)
        return store.remove(resource, before.key)


def _empty_namespace(store: Store, namespace: str) -> None:
    for resource, key in [(r, record.key) for r in store.resources for record in store.records(r) if r.namespaced]:
        if key.startswith(f"{namespace}/"):
            store.remove(resource, key)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _differs(old: Thing, new: Thing) -> bool:
    def content(thing: Thing) -> Thing:
        kept = {key: value for key, value in thing.items() if key not in ("kind", "apiVersion", "metadata")}
        return {**kept, "labels": thing["metadata"].get("labels")}

    return content(old) != content(new)


def _metadata(resource: Resource, namespace: str, name: str, thing: Thing) -> dict[str, Any]:
    """Checked against the path. name: empty for a new object."""
    check_shape(resource, thing)
    kind, version = thing.get("kind", resource.kind), thing.get("apiVersion", resource.api_version)
    if (kind, version) != (resource.kind, resource.api_version):
        raise bad_request(
            f"{kind} in version {version!r} cannot be handled as a {resource.kind}: "
            f"{resource.kind} in version {resource.api_version!r} is expected"
        )
    metadata = dict(thing.get("metadata") or {})
    if resource.namespaced:
        if metadata.get("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        metadata["namespace"] = namespace
    if name:
        if metadata.get("name", name) != name:
            raise bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"
            )
        metadata["name"] = name
    return metadata


def _random_name() -> str:
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(5))
