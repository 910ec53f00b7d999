"""Label and field selectors (apimachinery/pkg/labels/selector.go, fields/selector.go)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from integration.apiserver.errors import bad_request
from integration.apiserver.resources import Resource

Labels = Mapping[str, str]
LabelTest = Callable[[Labels], bool]
FieldTest = Callable[[Mapping[str, Any]], bool]

_KEY = r"[A-Za-z0-9][A-Za-z0-9./_-]*"
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_EQUALS = re.compile(rf"({_KEY})\s*(==|=|!=)\s*([A-Za-z0-9._-]*)")
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
# Commas inside the brackets of a set separate values, not requirements.
_REQUIREMENTS = re.compile(r"(?:[^,(]|\([^)]*\))+")


def label_selector(text: str) -> LabelTest | None:
    """None: selects everything. Raises ApiError."""
    tests = [_label_requirement(part.strip(), text) for part in _REQUIREMENTS.findall(text)]
    if not tests:
        return None
    return lambda labels: all(test(labels) for test in tests)


def _label_requirement(part: str, whole: str) -> LabelTest:
    if found := _EXISTS.fullmatch(part):
        absent, key = bool(found[1]), found[2]
        return lambda labels: (key in labels) is not absent
    if found := _EQUALS.fullmatch(part):
        key, differs, value = found[1], found[2] == "!=", found[3]
        # A label that is not there differs from every value.
        return lambda labels: (labels.get(key) == value) is not differs
    if found := _SET.fullmatch(part):
        key, outside = found[1], found[2] == "notin"
        values = {value.strip() for value in found[3].split(",")}
        return lambda labels: (labels.get(key) in values) is not outside
    raise bad_request(f"unable to parse requirement: found {part!r} in {whole!r}")


def field_selector(text: str, resource: Resource) -> FieldTest | None:
    """None: selects everything. Raises ApiError for a field by which this resource cannot be selected."""
    tests = [_field_requirement(part.strip(), resource) for part in text.split(",") if part.strip()]
    if not tests:
        return None
    return lambda thing: all(test(thing) for test in tests)


def _field_requirement(part: str, resource: Resource) -> FieldTest:
    found = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", part)
    if not found:
        raise bad_request(f"invalid selector: '{part}'; can't understand '{part}'")
    path, differs, value = found[1], found[2] == "!=", found[3]
    known = path == "metadata.name" or (path == "metadata.namespace" and resource.namespaced) or path in resource.fields
    if not known:
        raise bad_request(f"field label not supported: {path}")
    return lambda thing: (_field(thing, path) == value) is not differs


def _field(thing: Mapping[str, Any], path: str) -> str:
    value: Any = thing
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        value = value.get("component")  # of an Event's source
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
