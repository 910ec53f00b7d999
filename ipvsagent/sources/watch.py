"""Follows one kind of object through list and watch, as a state machine without I/O, clock or chance.

The edge calls `request` for what to ask the server, then reports what came back: `accepted` or `refused` for the head
of the answer, `receive` for its body, `ended` for its end. `receive` returns events for a `Mirror`; the others return
None to ask again at once, or a `Trouble` to ask again after a pause.

The states, and the transitions between them, are a table in states.py.

A list replaces everything that was known, whether it is streamed or comes in pages. Versions of initial events are
ignored, because these events come in no particular order.
"""

from __future__ import annotations

from msgspec import Struct

from ipvsagent.api.resources import RESOURCES, Request
from ipvsagent.cluster.decode import Decoded
from ipvsagent.cluster.objects import ObjectKey
from ipvsagent.cluster.watch_events import (
    EXPIRED,
    Bookmark,
    Deleted,
    Garbage,
    Put,
    Status,
    decode_event,
    decode_page,
)
from ipvsagent.sources.states import Pause, State, Turn, after

PAGE = 500
WATCH_FOR = (300, 600)
"""Bounds of the seconds that a watch is asked to last; they spread the reconnections of many nodes."""
AFTER_A_CUT = (120, 240)
"""Bounds for the watch after one that was cut: its server may have been restored to an older state, which shows only
when the watch ends (QUIET)."""
MARGIN = 15.0
LIST_SILENCE = 60.0
LIST_LIMIT = 300.0
SHORT = 1.0
"""Seconds that a watch must last to count as progress."""
FRESH = 10.0
EMPTY_AGAIN = 30.0
"""Seconds after which an empty list is requested again: a `Mirror` treats it as a mistake until a list has objects."""
QUIET = 120.0
"""Seconds of silence after which a watch is suspect: bookmarks come each minute, unless the watch waits for a version
that a restore of etcd has lost."""
LINE_LIMIT = 64 * 1024 * 1024

TOO_MANY = 429
_UNSUPPORTED = (400, 404, 405, 406, 415, 422)
_UNKNOWN_FIELD = ("field label not supported", "is not a known field selector")
"""Messages of a server that cannot select by a field: for a kind that has selectable fields (pkg/apis/core/v1/
conversion.go), and for one that has none, as Services in Kubernetes 1.20 (apimachinery/pkg/runtime/conversion.go)."""


class Trouble(Struct, frozen=True):
    """Describes why the next request has to wait."""

    reason: str
    """A clause for people."""
    status: int = 0
    """The HTTP status, 0 if there was none."""
    retry_after: float | None = None
    """The least number of seconds that the server asks to wait."""


class Listed(Struct, frozen=True):
    """Reports a complete list: no other object of the kind exists."""

    objects: tuple[Decoded, ...]


Output = Listed | Put | Deleted


class Reflector:
    """Follows one kind of object. Times are seconds of any monotonic clock."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.state = State.STREAMED_LIST
        self.version = ""
        self.connected = False
        self.heard_at: float | None = None
        self.requests = 0
        self.lists = 0
        self._resource = RESOURCES[kind]
        self._streams = True
        self._selects_fields = True
        self._whole = False
        self._more = ""
        self._asked_at = 0.0
        self._listed_at = float("-inf")
        self._watch_for = 0
        self._cut = False
        self._empty = False
        self._bookmarks = False
        self._quiet = True
        self._fresh: dict[ObjectKey, Decoded] = {}
        self._pages: list[Decoded] = []
        self._rest: list[bytes] = []
        self._size = 0

    # What to ask

    def request(self, now: float, chance: float) -> Request:
        """Return the next request. chance: a new random number from 0 to 1."""
        self.requests += 1
        self._asked_at = now
        self._quiet = True
        self._rest.clear()
        self._size = 0
        resource = self._resource
        query = []
        if resource.labels:
            query.append(("labelSelector", resource.labels))
        if resource.fields and self._selects_fields:
            query.append(("fieldSelector", resource.fields))
        if self.state is State.PAGED_LIST:
            return Request(resource.path, (*query, *self._page_query()), LIST_SILENCE)
        shortest, longest = AFTER_A_CUT if self._cut else WATCH_FOR
        self._watch_for = int(shortest + (longest - shortest) * chance)
        query += [("watch", "true"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", str(self._watch_for))]
        if self.state is State.STREAMED_LIST:
            self._fresh = {}
            query += [("sendInitialEvents", "true"), ("resourceVersionMatch", "NotOlderThan")]
        else:
            query.append(("resourceVersion", self.version))
        return Request(resource.path, tuple(query), self._watch_for + MARGIN)

    def _page_query(self) -> list[tuple[str, str]]:
        """Return the query of a page: the first list may come from the server's cache, a later one may not be older
        than what is known."""
        if self._more:
            return [("limit", str(PAGE)), ("continue", self._more)]
        self._pages = []
        if self._whole:
            return []
        if not self.version:
            return [("limit", str(PAGE)), *((("resourceVersion", "0"),) if not self.lists else ())]
        return [("limit", str(PAGE)), ("resourceVersion", self.version), ("resourceVersionMatch", "NotOlderThan")]

    def deadline(self) -> float:
        """Return the time by which the current answer must have ended, or a list must have brought something."""
        if self.state is State.WATCH:
            end = self._asked_at + self._watch_for + MARGIN
            return min(end, self._listed_at + EMPTY_AGAIN) if self._empty else end
        heard = max(self._asked_at, self.heard_at or self._asked_at)
        return min(heard + LIST_SILENCE, self._asked_at + LIST_LIMIT)

    # What came back

    def accepted(self, now: float) -> None:
        """Record status 200; the body follows."""
        self.connected = True
        self.heard_at = now

    def refused(self, status: Status, now: float) -> Trouble | None:
        """Record another status, or that there was no answer. What is known does not become any newer."""
        self.connected = False
        return self._refusal(status, now)

    def receive(self, data: bytes, now: float) -> list[Output]:
        """Decode a piece of the body. Raises Stopped when the answer is of no further use and has to be closed."""
        self.heard_at = now
        self._quiet = False
        if self.state is State.PAGED_LIST:
            self._rest.append(data)
            return []
        *lines, rest = data.split(b"\n")
        if lines:
            self._rest.append(lines[0])
            lines[0] = b"".join(self._rest)
            self._rest = []
        if rest:
            self._rest.append(rest)
        self._size = len(rest) if lines else self._size + len(rest)
        outputs: list[Output] = []
        try:
            if self._size > LINE_LIMIT:
                raise Garbage(f"a line of the watch is longer than {LINE_LIMIT >> 20} MiB")
            for line in lines:
                if line and not line.isspace():
                    self._line(line, now, outputs)
        except Garbage as error:
            raise Stopped(outputs, self._turn(Turn.MALFORMED, now, str(error))) from None
        except _WentBack as error:
            raise Stopped(outputs, self._expire(now, str(error))) from None
        except _Refused as refused:
            raise Stopped(outputs, self._refusal(refused.status, now, Turn.MALFORMED)) from None
        return outputs

    def ended(self, now: float, reason: str = "") -> tuple[list[Output], Trouble | None]:
        """Record the end of the body. reason: why it ended early, "" if it did not."""
        self.connected = False
        if self.state is State.WATCH and self._is_suspect(now):
            return [], self._expire(now, reason)
        if reason:
            return [], self._turn(Turn.BROKEN, now, reason)
        if self.state is State.STREAMED_LIST:
            return [], self._turn(Turn.BROKEN, now, "the server ended the list before it was complete")
        if self.state is State.WATCH:
            return [], self._turn(Turn.ENDED, now, "the server ends every watch at once")
        body = b"".join(self._rest)
        self._rest = []
        try:
            page = decode_page(self.kind, body)
            if page.more and (not page.objects or page.more == self._more):
                raise Garbage("the pages of the list do not end")
            if not page.more and not page.version:
                raise Garbage("the list has no resourceVersion")
        except Garbage as error:
            return [], self._turn(Turn.MALFORMED, now, str(error))
        self._pages.extend(page.objects)
        if page.more:
            self._more = page.more
            return [], self._turn(Turn.MORE, now)
        listed, self._pages = Listed(tuple(self._pages)), []
        return [listed], self._complete(listed, page.version, now)

    def _line(self, line: bytes, now: float, outputs: list[Output]) -> None:
        event = decode_event(self.kind, line)
        if isinstance(event, Status):
            raise _Refused(event)
        self._bookmarks = self._bookmarks or isinstance(event, Bookmark)
        if self.state is State.STREAMED_LIST:
            if isinstance(event, Put):
                self._fresh[event.decoded.key] = event.decoded
            elif isinstance(event, Deleted):
                self._fresh.pop(event.key, None)
            elif isinstance(event, Bookmark) and event.complete:
                if not event.version:
                    raise Garbage("the list has no resourceVersion")
                listed, self._fresh = Listed(tuple(self._fresh.values())), {}
                outputs.append(listed)
                self._complete(listed, event.version, now)
        elif event is not None:
            if _is_older(event.version, self.version):
                raise _WentBack(f"the server's versions went back from {self.version} to {event.version}")
            if not isinstance(event, Bookmark):
                outputs.append(event)
            self.version = event.version or self.version

    def _complete(self, listed: Listed, version: str, now: float) -> Trouble | None:
        self._empty = not listed.objects
        self.version = version
        self._listed_at = now
        self.lists += 1
        return self._turn(Turn.COMPLETE, now)

    def _is_suspect(self, now: float) -> bool:
        """Return whether a watch that ends now must be followed by a list."""
        if self._quiet and self._bookmarks and now - self._asked_at >= QUIET:
            return True
        return self._empty and now - self._listed_at >= EMPTY_AGAIN

    # Turns

    def _expire(self, now: float, reason: str) -> Trouble | None:
        """List again, without a version: neither a cache nor one that may never have existed may decide."""
        self.version = ""
        return self._turn(Turn.EXPIRED, now, reason)

    def _refusal(self, status: Status, now: float, turn: Turn = Turn.REFUSED) -> Trouble | None:
        """Make the turn that a refusal means. turn: for a status without a meaning of its own."""
        code = status.code
        reason = ": ".join(part for part in (f"{code or ''} {status.reason}".strip(), status.message) if part)
        if "Too large resource version" in status.message:
            self.version = ""  # the server has been restored to an older state
            return self._turn(Turn.EXPIRED, now, reason, status)
        if code == EXPIRED:
            return self._turn(Turn.EXPIRED, now, reason, status)
        if code == 400 and self._selects_fields and any(words in status.message for words in _UNKNOWN_FIELD):
            return self._turn(Turn.FIELDS_UNKNOWN, now)
        if code in _UNSUPPORTED:
            return self._turn(Turn.UNSUPPORTED, now, reason, status)
        return self._turn(Turn.REFUSED if code == TOO_MANY else turn, now, reason, status)

    def _turn(self, turn: Turn, now: float, reason: str = "", status: Status = Status()) -> Trouble | None:  # noqa: B008
        before = self.state
        if turn is Turn.UNSUPPORTED and before is State.STREAMED_LIST:
            self._streams = False
        elif turn is Turn.FIELDS_UNKNOWN:
            self._selects_fields = False
        self.state, pause = after(before, turn, streams=self._streams)
        same_request = turn in (Turn.REFUSED, Turn.FIELDS_UNKNOWN)
        if not same_request and turn is not Turn.MORE:
            self._more = ""
        if not same_request:
            self._cut = before is self.state is State.WATCH and now - self._asked_at < self._watch_for
        if turn is Turn.COMPLETE:
            self._whole = False
        elif turn is Turn.EXPIRED:
            self._whole = before is State.PAGED_LIST
        return Trouble(reason, status.code, status.retry_after) if self._pauses(pause, now) else None

    def _pauses(self, pause: Pause, now: float) -> bool:
        if pause is Pause.IF_SHORT:
            return now - self._asked_at < SHORT
        if pause is Pause.IF_FRESH:
            return now - self._listed_at < FRESH
        return pause is Pause.ALWAYS


class Stopped(Exception):
    """Reports that the body of an answer contains a reason to end it. outputs: what came before that."""

    def __init__(self, outputs: list[Output], trouble: Trouble | None) -> None:
        super().__init__()
        self.outputs = outputs
        self.trouble = trouble


class _WentBack(Exception):
    pass


class _Refused(Exception):
    def __init__(self, status: Status) -> None:
        super().__init__()
        self.status = status


def _is_older(version: str, known: str) -> bool:
    """Return whether a version is older; only decimal versions have an order. (`int` refuses long ones.)"""
    return version.isdecimal() and known.isdecimal() and (len(version), version) < (len(known), known)
