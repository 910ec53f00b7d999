"""Which Event is to be written when. No clock, no I/O; times are seconds of any clock that never goes back.

Five thousand nodes that see the same broken Service must not all tell of it:

1. They give the Event the same name, so that the first one creates it, and the API server tells the others that it is
   there (409), which ends the matter for an hour. Who created it says every half hour that it still holds (`series`),
   since Events live for an hour.
2. Each waits a random time before it writes, and between two Events, that grows with the number of Nodes, such that
   all nodes together ask PER_SECOND times a second; and takes them in any order. The first of many waits next to
   nothing, so a person sees the Event within seconds in a cluster of any size.
3. An Event of one topic (object and reason) is written BURST times in a row and then once in AGAIN seconds, whatever
   comes and goes (client-go's EventCorrelator does the same for each object, with 25 and 300).
4. No more than MOST topics are kept; others are dropped and counted.

What is about this node alone is said at once, under a name of its own, and limited by the third rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum

from msgspec import Struct

from ipvsagent.events.event import Event, Topic, event_of, start_of, topic_of
from ipvsagent.findings import Finding

PER_SECOND = 10.0
BURST, AGAIN = 5, 300.0
STILL_SO = 1800.0
LOOK_AGAIN = 3600.0
MOST = 1000
_NEVER = float("inf")


class Outcome(Enum):
    CREATED = "created"
    REPEATED = "repeated"
    KNOWN = "known"
    """Another node said it already."""
    GONE = "gone"
    """The Event is not there any more."""
    POINTLESS = "pointless"
    """The object is gone, or the API server will never take it."""
    FAILED = "failed"
    """To be tried again."""


class Write(Struct, frozen=True):
    """count: how often it was said before; 0 = it is to be created."""

    event: Event
    count: int = 0


class _Told:
    """What is to be said of a topic, from `since` on, and was."""

    __slots__ = ("asked_at", "count", "findings", "name", "pending", "since", "tokens")

    def __init__(self, now: float) -> None:
        self.findings: Counter[Finding] = Counter()
        self.pending = False
        self.since = now
        self.name = ""
        self.count = 0
        self.tokens = float(BURST)
        self.asked_at = now


class EventPlan:
    """node: the name of ours. start: see `event_of`. chance: 0 to 1, another each time."""

    def __init__(self, node: str, start: str, chance: Callable[[], float]) -> None:
        self._node = node
        self._start = start
        self._chance = chance
        self._nodes: int | None = None
        self._told: dict[Topic, _Told] = {}
        self._over: dict[Topic, None] = {}
        self._starting: Event | None = None
        # What others may have to say, too, waits from then on for this share of the spread.
        self._paced_since = float("-inf")
        self._share = 0.0

    def starts(self, text: str) -> None:
        self._starting = start_of(self._node, text, self._start)

    def set_cluster_size(self, nodes: int) -> None:
        """Before this is known, nothing is written that other nodes may have to say, too."""
        self._nodes = max(1, nodes)

    def found(self, appeared: Iterable[Finding], cleared: Iterable[Finding], now: float) -> int:
        """How many were dropped."""
        dropped = 0
        for finding in appeared:
            topic = topic_of(finding, self._node)
            if topic is None:
                continue
            told = self._told.get(topic)
            if told is None:
                if len(self._told) >= MOST:
                    if not self._over:
                        dropped += 1
                        continue
                    oldest = next(iter(self._over))
                    del self._over[oldest], self._told[oldest]
                told = self._told[topic] = _Told(now)
            told.findings[finding] += 1
            self._over.pop(topic, None)
            if topic.shared and self._free_at() <= now and not self._shared_due(now):
                self._paced_since, self._share = now, self._chance()
            self._want(told, now)
        for finding in cleared:
            topic = topic_of(finding, self._node)
            told = self._told.get(topic) if topic else None
            if topic is None or told is None or finding not in told.findings:
                continue
            told.findings[finding] -= 1
            if not told.findings[finding]:
                del told.findings[finding]
            if not told.findings:
                told.pending = False
                self._over[topic] = None
        return dropped

    def due_at(self) -> float:
        """When `next` has something, unless more is found; infinity if never."""
        if self._starting:
            return 0.0
        return min((self._due(topic, told) for topic, told in self._told.items()), default=_NEVER)

    def next(self, now: float) -> Write | None:
        """What to write now; tell `wrote` what became of it before the next one."""
        if self._starting:
            return Write(self._starting)
        due = [topic for topic, told in self._told.items() if self._due(topic, told) <= now]
        if not due:
            return None
        own = [topic for topic in due if not topic.shared]
        topic = own[0] if own else due[min(int(self._chance() * len(due)), len(due) - 1)]
        told = self._told[topic]
        told.tokens, told.asked_at = self._tokens(told, now) - 1.0, now
        told.pending = False
        if topic.shared:
            self._paced_since, self._share = now, 0.5 + self._chance()
        event = event_of(topic, told.findings, self._node, self._start)
        return Write(event, told.count if event.name == told.name else 0)

    def wrote(self, write: Write, outcome: Outcome, now: float) -> None:
        if write.event == self._starting:
            self._starting = None if outcome is not Outcome.FAILED else self._starting
            return
        told = self._told.get(write.event.topic)
        if told is None:
            return
        later = 0.0
        if outcome is Outcome.FAILED:
            told.tokens += 1.0
        elif outcome is Outcome.GONE:
            told.count = 0
        else:
            ours = outcome in (Outcome.CREATED, Outcome.REPEATED)
            told.name = write.event.name
            told.count = write.count + 1 if ours else 0
            later = STILL_SO if ours else LOOK_AGAIN
        if told.findings and not told.pending:
            self._want(told, now + later)

    def _want(self, told: _Told, since: float) -> None:
        if not told.pending or since < told.since:
            told.pending, told.since = True, since

    def _shared_due(self, now: float) -> bool:
        return any(told.pending and told.since <= now and topic.shared for topic, told in self._told.items())

    def _due(self, topic: Topic, told: _Told) -> float:
        if not told.pending:
            return _NEVER
        at = max(told.since, told.asked_at + (1.0 - told.tokens) * AGAIN)
        if not topic.shared:
            return at
        return _NEVER if self._nodes is None else max(at, self._free_at())

    def _free_at(self) -> float:
        return self._paced_since + self._share * self._spread()

    def _spread(self) -> float:
        return (self._nodes or 1) / PER_SECOND

    def _tokens(self, told: _Told, now: float) -> float:
        return min(float(BURST), told.tokens + (now - told.asked_at) / AGAIN)
