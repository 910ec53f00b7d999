"""Validates Events written by events.k8s.io/v1, as the API server does (pkg/apis/core/validation/events.go)."""

from __future__ import annotations

import re
from typing import Any

from integration.apiserver.errors import ApiError, bad_request
from integration.apiserver.records import Thing

_LIMITS = {"reportingController": 0, "reportingInstance": 128, "action": 128, "reason": 128}
_FIXED = ("regarding", "reason", "note", "eventTime", "action", "reportingController", "reportingInstance", "type")
_QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")


def check_event(thing: Thing, old: Thing | None = None) -> None:
    """old: what it replaces. Raises ApiError: 400 for a time that is none, 422 for all else."""
    _check_times(thing)
    name = thing["metadata"].get("name", "")
    wrong = {} if _SUBDOMAIN.fullmatch(name) and len(name) <= 253 else {"metadata.name": "Invalid value"}
    if old is not None:
        wrong |= {field: "field is immutable" for field in _FIXED if thing.get(field) != old.get(field)}
    else:
        wrong |= _of_a_new_one(thing)
    series = thing.get("series")
    if series is not None and series != (old or {}).get("series"):
        if not isinstance(series.get("count"), int) or series["count"] < 2:
            wrong["series.count"] = "should be at least 2"
        if not series.get("lastObservedTime"):
            wrong["series.lastObservedTime"] = "Required value"
    if wrong:
        text = ", ".join(f"{field}: {why}" for field, why in wrong.items())
        details = {"name": name, "group": "events.k8s.io", "kind": "Event"}
        raise ApiError(422, "Invalid", f'Event.events.k8s.io "{name}" is invalid: [{text}]', details)


def _of_a_new_one(thing: Thing) -> dict[str, str]:
    wrong = {}
    for field, limit in _LIMITS.items():
        text = thing.get(field) or ""
        if not text or (limit and len(text) > limit):
            wrong[field] = f"can have at most {limit} characters" if text else "Required value"
    if thing.get("reportingController") and not _QUALIFIED.fullmatch(thing["reportingController"]):
        wrong["reportingController"] = "Invalid value"
    if not thing.get("eventTime"):
        wrong["eventTime"] = "Required value"
    if thing.get("type") not in ("Normal", "Warning"):
        wrong["type"] = "Invalid value"
    if len((thing.get("note") or "").encode()) > 1024:
        wrong["note"] = "can have at most 1024 characters"
    about: dict[str, Any] = thing.get("regarding") or {}
    allowed = [about["namespace"]] if about.get("namespace") else ["default", "kube-system"]
    if thing["metadata"].get("namespace") not in allowed:
        wrong["regarding.namespace"] = "does not match event.namespace"
    return wrong


def _check_times(thing: Thing) -> None:
    """Requires microseconds: Go's RFC 3339 with six digits (apimachinery/pkg/apis/meta/v1/micro_time.go)."""
    for text in (thing.get("eventTime"), (thing.get("series") or {}).get("lastObservedTime")):
        if text is not None and not (isinstance(text, str) and _MICRO_TIME.fullmatch(text)):
            raise bad_request(f'Event in version "v1" cannot be handled as a Event: parsing time "{text}"')
