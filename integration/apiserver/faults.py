"""The fault script: what goes wrong with which requests. Data, so that a test, a file and a control request say the
same.

    fault          what happens                                                        fields
    status         the request is refused                                              code, reason, message,
                                                                                       retry_after, body
    break          the connection ends, or goes on in silence for ever                 how, after_events
    slow           the answer trickles                                                 bytes, seconds
    garbage        a line that is no JSON, or any other text, is sent                  text, after_events
    error-event    an ERROR event, then the end                                        code, reason, message,
                                                                                       after_events
    duplicate      every event comes so many times                                     copies
    reorder        of every two events the second comes first                          -
    no-bookmarks   none is sent, not even the one that ends the initial events         -
    watch-list     sendInitialEvents is refused, or not known                          how

Which requests: `verb` (list, watch, get, create, update, patch, delete), `resource` (plural); each `*` by default.
`skip` so many of them, then `times` of them (null: all) meet the fault. `after_events` null: before the answer; 0:
after its head.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec
from msgspec import Struct

from integration.apiserver.errors import ApiError
from integration.apiserver.options import WatchList
from integration.apiserver.watches import Event, error_event


class _Fault(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="fault"):
    verb: str = "*"
    resource: str = "*"
    skip: int = 0
    times: int | None = 1


class Refuse(_Fault, tag="status"):
    """body: sent as it is, as a proxy's page would be, instead of a Status. retry_after: seconds."""

    code: int
    reason: str = ""
    message: str = ""
    retry_after: int | None = None
    body: str | None = None


class Break(_Fault, tag="break"):
    """how: reset (RST), close (FIN in place of the last chunk), cut-chunk (FIN inside a chunk), end (as the API server
    ends a watch that timed out), hang."""

    how: Literal["reset", "close", "cut-chunk", "end", "hang"]
    after_events: int | None = None


class Slow(_Fault, tag="slow"):
    """Sends so many bytes, then nothing for so many seconds."""

    bytes: int = 64
    seconds: float = 0.01


class Garbage(_Fault, tag="garbage"):
    text: str = "no JSON"
    after_events: int = 0


class ErrorEvent(_Fault, tag="error-event"):
    code: int = 410
    reason: str = "Expired"
    message: str = "too old resource version: 1 (2)"
    after_events: int = 0


class Duplicate(_Fault, tag="duplicate"):
    copies: int = 2


class Reorder(_Fault, tag="reorder"):
    pass


class NoBookmarks(_Fault, tag="no-bookmarks"):
    pass


class NoWatchList(_Fault, tag="watch-list"):
    how: Literal["refused", "ignored"] = "refused"


Fault = Refuse | Break | Slow | Garbage | ErrorEvent | Duplicate | Reorder | NoBookmarks | NoWatchList
_SCRIPT = msgspec.json.Decoder(list[Fault])


def read_script(text: bytes) -> list[Fault]:
    """Reads faults from a JSON list. Raises ValueError."""
    return _SCRIPT.decode(text)


class Faults:
    """The script while it runs. Any thread may change it; it holds for requests that begin after that."""

    def __init__(self, script: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._left = list(script)

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._left += faults

    def replace(self, script: Iterable[Fault]) -> None:
        with self._lock:
            self._left = list(script)

    def clear(self) -> None:
        self.replace(())

    @property
    def left(self) -> list[Fault]:
        """Returns the faults that are not used up."""
        with self._lock:
            return list(self._left)

    def meet(self, verb: str, resource: str) -> Disturbance:
        """Returns the faults of a request that begins now."""
        met: list[Fault] = []
        with self._lock:
            left: list[Fault] = []
            for fault in self._left:
                if fault.verb not in ("*", verb) or fault.resource not in ("*", resource):
                    left.append(fault)
                elif fault.skip:
                    left.append(msgspec.structs.replace(fault, skip=fault.skip - 1))
                else:
                    met.append(fault)
                    if fault.times is None:
                        left.append(fault)
                    elif fault.times > 1:
                        left.append(msgspec.structs.replace(fault, times=fault.times - 1))
            self._left = left
        return Disturbance(met)


class Disturbance:
    """The faults of one request."""

    def __init__(self, faults: list[Fault]) -> None:
        self.faults = faults
        self._sent = 0
        self._held: Event | None = None

    @property
    def refusal(self) -> Refuse | None:
        return next((fault for fault in self.faults if isinstance(fault, Refuse)), None)

    @property
    def before_the_answer(self) -> Break | None:
        return next((f for f in self.faults if isinstance(f, Break) and f.after_events is None), None)

    @property
    def slow(self) -> Slow | None:
        return next((fault for fault in self.faults if isinstance(fault, Slow)), None)

    @property
    def watch_list(self) -> WatchList:
        return next((WatchList(fault.how) for fault in self.faults if isinstance(fault, NoWatchList)), WatchList.SERVED)

    def apply(self, events: list[Event]) -> Iterator[Event | Break]:
        """Yields what is sent in place of a batch of events; nothing follows a Break."""
        if not self.faults:
            yield from events
            return
        for event in self._shuffled(events):
            due = self._due()
            yield from due
            if any(isinstance(each, Break) for each in due):
                return
            yield event
            self._sent += 1
        yield from self._due()

    def _shuffled(self, events: list[Event]) -> Iterator[Event]:
        copies = next((fault.copies for fault in self.faults if isinstance(fault, Duplicate)), 1)
        silent = any(isinstance(fault, NoBookmarks) for fault in self.faults)
        reorder = any(isinstance(fault, Reorder) for fault in self.faults)
        for event in events:
            if event.kind == "BOOKMARK" and silent:
                continue
            if reorder and event.kind != "BOOKMARK":
                if self._held is None:
                    self._held = event
                    continue
                yield event
                event, self._held = self._held, None
            for _ in range(copies):
                yield event

    def _due(self) -> list[Event | Break]:
        """Of what waits for as many events as have been sent; each once."""
        due: list[Event | Break] = []
        for fault in list(self.faults):
            if not isinstance(fault, Break | Garbage | ErrorEvent) or fault.after_events != self._sent:
                continue
            self.faults.remove(fault)
            if isinstance(fault, Garbage):
                due.append(Event("GARBAGE", fault.text.encode() + b"\n"))
            elif isinstance(fault, ErrorEvent):
                due.append(error_event(ApiError(fault.code, fault.reason, fault.message)))
                due.append(Break(how="end"))
            else:
                due.append(fault)
        return due
