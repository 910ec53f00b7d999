"""What the API server asks of an Event that is written by events.k8s.io/v1 (pkg/apis/core/validation/events.go)."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

from integration.apiserver.errors import ApiError
from integration.apiserver.records import Thing

_LIMITS = {"reportingController": 0, "reportingInstance": 128, "action": 128, "reason": 128}
_FIXED = ("regarding", "reason", "note", "eventTime", "action", "reportingController", "reportingInstance", "type")
_QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def check_event(thing: Thing, old: Thing | None = None) -> None:
    """old: what it replaces. Raises ApiError (422)."""
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
        if not _is_time(series.get("lastObservedTime")):
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
    if not _is_time(thing.get("eventTime")):
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


def _is_time(text: object) -> bool:
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S.%fZ") is not None
    except ValueError:
        return False
