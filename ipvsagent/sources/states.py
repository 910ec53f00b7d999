"""Defines the states that following one kind of object passes through, and every transition between them (for
watch.py).

A watch also counts as expired when the version that it continues from is suspect: its list was empty (EMPTY_AGAIN ago),
a version is older than the one before it, or nothing came at all (for QUIET, from a server that sends bookmarks). The
list that follows must then not come from a cache. The watch after one that was cut is short, so that the last of these
cases is detected soon.

Only progress is followed by another request at once. A server whose answers make no sense is asked as seldom as one
that does not answer.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    STREAMED_LIST = "streamed list"
    PAGED_LIST = "paged list"
    WATCH = "watch"


class Turn(Enum):
    """Names what can happen to a request."""

    COMPLETE = "complete"
    """The list ends: with the bookmark after the initial events (the answer continues as a watch), or the last page."""
    MORE = "more"
    """The page is not the last one."""
    ENDED = "ended"
    """The time of the watch is over."""
    EXPIRED = "expired"
    """410, or the version that a watch continues from is suspect."""
    FIELDS_UNKNOWN = "fields unknown"
    """400, in the words of a server that cannot select by this field: it is not asked to again."""
    UNSUPPORTED = "unsupported"
    """400, 404, 405, 406, 415, 422."""
    MALFORMED = "malformed"
    """The answer makes no sense, or is an ERROR event other than 429."""
    BROKEN = "broken"
    """The answer ends before it should."""
    REFUSED = "refused"
    """401, 403, 429, 5xx, or no connection."""


class Pause(Enum):
    """Names whether a pause follows a turn."""

    NONE = "none"
    ALWAYS = "always"
    IF_SHORT = "unless the watch lasted for SHORT"
    IF_FRESH = "unless the last list is older than FRESH"


class UnexpectedTurn(Exception):
    """Reports a turn that cannot happen in a state: a defect of this program."""

    def __init__(self, state: State, turn: Turn) -> None:
        super().__init__(f"{turn.value!r} cannot happen to a {state.value}")


# A server that does not stream lists is asked for pages instead; one that refuses is asked for the same page again.
TABLE: dict[State, dict[Turn, tuple[State, Pause]]] = {
    State.STREAMED_LIST: {
        Turn.COMPLETE: (State.WATCH, Pause.NONE),
        Turn.FIELDS_UNKNOWN: (State.STREAMED_LIST, Pause.NONE),
        Turn.UNSUPPORTED: (State.PAGED_LIST, Pause.NONE),
        Turn.EXPIRED: (State.PAGED_LIST, Pause.ALWAYS),
        Turn.MALFORMED: (State.PAGED_LIST, Pause.ALWAYS),
        Turn.BROKEN: (State.PAGED_LIST, Pause.ALWAYS),
        Turn.REFUSED: (State.STREAMED_LIST, Pause.ALWAYS),
    },
    State.PAGED_LIST: {
        Turn.MORE: (State.PAGED_LIST, Pause.NONE),
        Turn.COMPLETE: (State.WATCH, Pause.NONE),
        Turn.FIELDS_UNKNOWN: (State.PAGED_LIST, Pause.NONE),
        Turn.UNSUPPORTED: (State.PAGED_LIST, Pause.ALWAYS),
        Turn.EXPIRED: (State.PAGED_LIST, Pause.ALWAYS),
        Turn.MALFORMED: (State.PAGED_LIST, Pause.ALWAYS),
        Turn.BROKEN: (State.PAGED_LIST, Pause.ALWAYS),
        Turn.REFUSED: (State.PAGED_LIST, Pause.ALWAYS),
    },
    State.WATCH: {
        Turn.ENDED: (State.WATCH, Pause.IF_SHORT),
        Turn.FIELDS_UNKNOWN: (State.WATCH, Pause.NONE),
        Turn.BROKEN: (State.WATCH, Pause.ALWAYS),
        Turn.REFUSED: (State.WATCH, Pause.ALWAYS),
        Turn.EXPIRED: (State.STREAMED_LIST, Pause.IF_FRESH),
        Turn.UNSUPPORTED: (State.STREAMED_LIST, Pause.ALWAYS),
        Turn.MALFORMED: (State.STREAMED_LIST, Pause.ALWAYS),
    },
}


def after(state: State, turn: Turn, *, streams: bool) -> tuple[State, Pause]:
    """Return the next state, and whether to pause before its request.

    streams: the server has not refused to stream a list. Raises UnexpectedTurn.
    """
    found = TABLE[state].get(turn)
    if found is None:
        raise UnexpectedTurn(state, turn)
    following, pause = found
    return (State.PAGED_LIST if following is State.STREAMED_LIST and not streams else following), pause
