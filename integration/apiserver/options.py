"""Reads the query of a list or watch, and checks it as the API server does.

Defaults and refusals are those of apimachinery/pkg/apis/meta/internalversion (defaults.go, validation.go) with the
feature WatchList, which is on since Kubernetes 1.32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from integration.apiserver.errors import bad_request, invalid_options
from integration.apiserver.resources import Resource
from integration.apiserver.selectors import FieldTest, LabelTest, field_selector, label_selector


class WatchList(Enum):
    """How the server takes sendInitialEvents. REFUSED: a server that has it switched off. IGNORED: one before 1.27."""

    SERVED = "served"
    REFUSED = "refused"
    IGNORED = "ignored"


@dataclass(frozen=True)
class Options:
    """version: None where the query has none. timeout: seconds; None, and 0 in a query, is the server's own."""

    watch: bool = False
    version: int | None = None
    match: str = ""
    limit: int = 0
    proceed: str = ""
    bookmarks: bool = False
    initial_events: bool | None = None
    timeout: float | None = None
    labels: LabelTest | None = None
    fields: FieldTest | None = None


def read_options(query: Mapping[str, str], resource: Resource, watch_list: WatchList = WatchList.SERVED) -> Options:
    """Raises ApiError."""
    watch = flag(query, "watch")
    match, proceed = query.get("resourceVersionMatch", ""), query.get("continue", "")
    initial = flag(query, "sendInitialEvents") if "sendInitialEvents" in query else None
    text = query.get("resourceVersion", "")
    if watch_list is WatchList.IGNORED:
        initial, match = None, "" if watch else match
    elif watch_list is WatchList.SERVED and watch and initial is None and not match and text in ("", "0"):
        initial, match = True, "NotOlderThan"
    causes = (
        _watch_causes(match, proceed, initial, watch_list) if watch else _list_causes(match, proceed, initial, text)
    )
    if causes:
        raise invalid_options(causes)
    if proceed and text not in ("", "0") and not watch:
        raise bad_request("specifying resource version is not allowed when using continue")
    return Options(
        watch,
        _number(text, "resource version") if text else None,
        match,
        _number(query.get("limit", "0"), "limit"),
        proceed,
        flag(query, "allowWatchBookmarks"),
        initial,
        float(_number(query.get("timeoutSeconds") or "0", "timeoutSeconds")) or None,
        label_selector(query.get("labelSelector", "")),
        field_selector(query.get("fieldSelector", ""), resource),
    )


def flag(query: Mapping[str, str], name: str) -> bool:
    """Reads a flag: everything but false and 0 means true, even "" (apimachinery/pkg/runtime/conversion.go)."""
    return name in query and query[name].lower() not in ("0", "false")


def _number(text: str, what: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise bad_request(f'invalid {what} "{text}"')
    return number


def _list_causes(match: str, proceed: str, initial: bool | None, version: str) -> list[tuple[str, str]]:
    causes = []
    field = "resourceVersionMatch"
    if match:
        if not version:
            causes.append((field, "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided"))
        if proceed:
            causes.append((field, "Forbidden: resourceVersionMatch is forbidden when continue is provided"))
        if match not in ("Exact", "NotOlderThan"):
            supported = '"Exact", "NotOlderThan", ""'
            causes.append((field, f'Unsupported value: "{match}": supported values: {supported}'))
        if match == "Exact" and version == "0":
            text = 'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
            causes.append((field, text))
    if initial is not None:
        causes.append(("sendInitialEvents", "Forbidden: sendInitialEvents is forbidden for list"))
    return causes


def _watch_causes(match: str, proceed: str, initial: bool | None, watch_list: WatchList) -> list[tuple[str, str]]:
    causes = []
    field = "resourceVersionMatch"
    if initial is not None:
        if match != "NotOlderThan":
            text = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            causes.append((field, text))
        if watch_list is WatchList.REFUSED:
            text = "Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            causes.append(("sendInitialEvents", text))
    if match:
        if initial is None:
            text = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            causes.append((field, text))
        if match != "NotOlderThan":
            causes.append((field, f'Unsupported value: "{match}": supported values: "NotOlderThan"'))
        if proceed:
            causes.append((field, "Forbidden: resourceVersionMatch is forbidden when continue is provided"))
    return causes
