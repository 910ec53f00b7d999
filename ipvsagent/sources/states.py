"""What following one kind of object goes through: the table of the reflector (watch.py).

    state          turn         next           what it means
    STREAMED_LIST  complete     WATCH          the bookmark after the initial events came; the answer goes on as a watch
                   unsupported  PAGED_LIST     400, 404, 405, 406, 415, 422: never asked for again
                   expired      PAGED_LIST
                   malformed,
                   broken       PAGED_LIST     no sense, an ERROR but 429, or the end; what came is thrown away
                   refused      STREAMED_LIST  401, 403, 429, 5xx, no connection
    PAGED_LIST     more          PAGED_LIST    ask for the next page
                   complete      WATCH         that was the last page
                   expired       PAGED_LIST    410: from its beginning, and as one page
                   unsupported,
                   malformed,
                   broken        PAGED_LIST    from its beginning
                   refused       PAGED_LIST    the same page
    WATCH          ended         WATCH         the server's time was over: resume from the last version
                   broken,
                   refused       WATCH         the same, after a pause
                   expired,
                   unsupported,
                   malformed     STREAMED_LIST (or PAGED_LIST) 410; a line that makes no sense, an ERROR but 429

A watch also counts as expired when what it goes on from is in doubt: its list was empty (EMPTY_AGAIN ago), a version
is older than the one before it, or nothing came at all (for QUIET, from a server that sends bookmarks). The list that
follows is then not from a cache.
The watch after one that was cut is a short one, so that the last of these shows soon.

A turn is followed by a pause unless it is progress: `complete`, `more`, `unsupported` of a streamed list, `ended`
after SHORT, and `expired` when the last list is older than FRESH. A server that answers nonsense is asked as seldom as
one that does not answer.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    STREAMED_LIST = "streamed list"
    PAGED_LIST = "paged list"
    WATCH = "watch"


class Turn(Enum):
    COMPLETE = "complete"
    MORE = "more"
    ENDED = "ended"
    EXPIRED = "expired"
    UNSUPPORTED = "unsupported"
    MALFORMED = "malformed"
    BROKEN = "broken"
    REFUSED = "refused"


TABLE: dict[State, dict[Turn, State]] = {
    State.STREAMED_LIST: {
        Turn.COMPLETE: State.WATCH,
        Turn.UNSUPPORTED: State.PAGED_LIST,
        Turn.EXPIRED: State.PAGED_LIST,
        Turn.MALFORMED: State.PAGED_LIST,
        Turn.BROKEN: State.PAGED_LIST,
        Turn.REFUSED: State.STREAMED_LIST,
    },
    State.PAGED_LIST: {
        Turn.MORE: State.PAGED_LIST,
        Turn.COMPLETE: State.WATCH,
        Turn.EXPIRED: State.PAGED_LIST,
        Turn.UNSUPPORTED: State.PAGED_LIST,
        Turn.MALFORMED: State.PAGED_LIST,
        Turn.BROKEN: State.PAGED_LIST,
        Turn.REFUSED: State.PAGED_LIST,
    },
    State.WATCH: {
        Turn.ENDED: State.WATCH,
        Turn.BROKEN: State.WATCH,
        Turn.REFUSED: State.WATCH,
        Turn.EXPIRED: State.STREAMED_LIST,
        Turn.UNSUPPORTED: State.STREAMED_LIST,
        Turn.MALFORMED: State.STREAMED_LIST,
    },
}
