"""PATCH: JSON merge patch (RFC 7386), JSON patch (RFC 6902) and strategic merge patch.

The last is what kubectl sends for apply, label, annotate and patch (apimachinery/pkg/util/strategicpatch). Of its lists
only those of the kinds served here are known, by the merge keys in their types' struct tags.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml

from integration.apiserver.errors import ApiError, bad_request
from integration.apiserver.records import Thing

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

# By the path without list positions. An EndpointSlice's lists are replaced as a whole.
_MERGE_KEYS = {
    "metadata.ownerReferences": "uid",
    "spec.ports": "port",
    "status.conditions": "type",
    "status.addresses": "type",
    "spec.taints": "key",
}
_OPERATIONS = ("add", "remove", "replace", "move", "copy", "test")
_MERGED_VALUES = {"metadata.finalizers", "spec.podCIDRs"}


def patched(thing: Thing, content_type: str, body: bytes) -> Thing:
    """Returns a new object. Raises ApiError."""
    media = content_type.partition(";")[0].strip()
    patch = _read(body, media)
    if media == JSON_PATCH:
        return _json_patch(thing, patch)
    if not isinstance(patch, dict):
        raise bad_request("a patch must be an object")
    if media == MERGE_PATCH:
        merged: Thing = _merge(thing, patch)
        return merged
    if media == STRATEGIC_PATCH:
        return _strategic(thing, patch, "")
    if media == APPLY_PATCH:
        patch.get("metadata", {}).pop("managedFields", None)
        return _strategic(thing, patch, "")
    known = f"{JSON_PATCH}, {MERGE_PATCH}, {STRATEGIC_PATCH}, {APPLY_PATCH}"
    text = f"the body of the request was in an unknown format - accepted media types include: {known}"
    raise ApiError(415, "UnsupportedMediaType", text)


def _read(body: bytes, media: str) -> Any:
    try:
        return yaml.safe_load(body) if media == APPLY_PATCH else json.loads(body)
    except (ValueError, yaml.YAMLError) as error:
        raise bad_request(f"error decoding patch: {error}") from error


def _merge(value: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), change)
    return result


def _strategic(value: Any, patch: Thing, path: str) -> Thing:
    result = dict(value) if isinstance(value, dict) else {}
    if patch.get("$patch") == "replace":
        return {key: change for key, change in patch.items() if key != "$patch"}
    if "$retainKeys" in patch:
        result = {key: kept for key, kept in result.items() if key in patch["$retainKeys"]}
    for key, change in patch.items():
        here = f"{path}.{key}" if path else key
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [each for each in result.get(name) or [] if each not in change]
        elif key.startswith("$"):
            continue
        elif change is None:
            result.pop(key, None)
        elif isinstance(change, dict):
            result[key] = _strategic(result.get(key), change, here)
        elif isinstance(change, list) and here in _MERGED_VALUES:
            old = result.get(key) or []
            result[key] = old + [each for each in change if each not in old]
        elif isinstance(change, list) and (by := _MERGE_KEYS.get(here)):
            order = patch.get(f"$setElementOrder/{key}")
            result[key] = _merge_list(result.get(key) or [], change, by, here, order)
        else:
            result[key] = change
    return result


def _merge_list(old: list[Any], changes: list[Any], by: str, path: str, order: list[Any] | None) -> list[Any]:
    result = list(old)
    for change in changes:
        if change.get("$patch") == "replace":
            return [each for each in changes if "$patch" not in each]
        found = next((n for n, each in enumerate(result) if each.get(by) == change.get(by)), None)
        if change.get("$patch") == "delete":
            if found is not None:
                del result[found]
        elif found is None:
            result.append(change)
        else:
            result[found] = _strategic(result[found], change, path)
    if order:
        positions = {entry.get(by): n for n, entry in enumerate(order)}
        result.sort(key=lambda each: positions.get(each.get(by), len(positions)))
    return result


def _json_patch(thing: Thing, operations: Any) -> Thing:
    result = copy.deepcopy(thing)
    if not isinstance(operations, list) or not all(isinstance(each, dict) for each in operations):
        raise bad_request("error decoding patch: it must be a list of operations")
    for operation in operations:
        if operation.get("op") not in _OPERATIONS:
            raise bad_request(f"invalid operation {json.dumps(operation)}: unsupported operation")
        try:
            _operate(result, operation)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            text = f"the server rejected our request due to an error in our request: {error!r}"
            raise ApiError(422, "Invalid", text) from error
    return result


def _operate(thing: Thing, operation: dict[str, Any]) -> None:
    kind, path = operation["op"], operation["path"]
    if kind in ("move", "copy"):
        value = copy.deepcopy(_at(thing, operation["from"]))
        if kind == "move":
            _operate(thing, {"op": "remove", "path": operation["from"]})
        _operate(thing, {"op": "add", "path": path, "value": value})
        return
    if kind == "test":
        if _at(thing, path) != operation["value"]:
            raise ValueError(f"testing path {path} value failed")
        return
    parent, key = _at(thing, path.rpartition("/")[0]), _words(path)[-1]
    if isinstance(parent, list):
        position = len(parent) if key == "-" else int(key)
        if kind == "add":
            parent.insert(position, operation["value"])
        elif kind == "remove":
            del parent[position]
        else:
            parent[position] = operation["value"]
    elif kind == "remove":
        del parent[key]
    else:
        if kind == "replace" and key not in parent:
            raise KeyError(path)
        parent[key] = operation["value"]


def _at(value: Any, path: str) -> Any:
    for word in _words(path):
        value = value[int(word)] if isinstance(value, list) else value[word]
    return value


def _words(path: str) -> list[str]:
    return [word.replace("~1", "/").replace("~0", "~") for word in path.split("/")[1:]]
