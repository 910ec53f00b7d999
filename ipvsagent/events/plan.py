"""Decides which Event is written when. No clock, no I/O; times are seconds on any monotonic clock.

Five thousand nodes that find the same broken Service must not all write about it:

1. They give the Event the same name, so that the first one creates it and the API server answers the others that it
   exists (409), which settles the matter for an hour. The node that created it confirms every half hour that it still
   holds (`series`), since Events live for an hour.
2. Before it writes, and between two Events, each node waits a random time that grows with the number of Nodes, such
   that all nodes together send PER_SECOND requests a second; each writes in a random order. The first of many waits
   next to nothing, so the Event appears within seconds in a cluster of any size.
3. An Event of one topic (object and reason) is written BURST times in a row and then once in AGAIN seconds, however
   often its findings change (client-go's EventCorrelator does the same for each object, with 25 and 300).
4. No more than MOST topics are kept; others are dropped and counted.

An Event about this node alone is written at once, under a name of its own, and limited by the third rule.
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
CONFIRM_AFTER = 1800.0
LOOK_AGAIN = 3600.0
MOST = 1000
_NEVER = float("inf")


class Outcome(Enum):
    CREATED = "created"
    REPEATED = "repeated"
    KNOWN = "known"
    """Another node created it."""
    GONE = "gone"
    """The Event no longer exists."""
    POINTLESS = "pointless"
    """The object is gone, or the API server will never accept the Event."""
    FAILED = "failed"
    """The write failed, and is to be tried again."""


class Write(Struct, frozen=True):
    """Describes a request to the API."""

    event: Event
    count: int = 0
    """How often it was written before; 0 = it is to be created."""


class _TopicState:
    """Records what is to be written about a topic, from `since` on, and what was."""

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
    """Keeps what is to be written about each topic."""

    def __init__(self, node: str, start: str, chance: Callable[[], float]) -> None:
        """node: the name of our Node. start: see `event_of`. chance: returns a random number from 0 to 1."""
        self._node = node
        self._start = start
        self._chance = chance
        self._nodes: int | None = None
        self._topics: dict[Topic, _TopicState] = {}
        self._resolved: dict[Topic, None] = {}
        self._starting: Event | None = None
        # Shared topics wait, from then on, for this share of the spread.
        self._paced_since = float("-inf")
        self._share = 0.0

    def starts(self, text: str) -> None:
        self._starting = start_of(self._node, text, self._start)

    def set_cluster_size(self, nodes: int) -> None:
        """Set the number of nodes; before it is known, no shared topic is written."""
        self._nodes = max(1, nodes)

    def found(self, appeared: Iterable[Finding], cleared: Iterable[Finding], now: float) -> int:
        """Update the findings. Return how many were dropped."""
        dropped = 0
        for finding in appeared:
            topic = topic_of(finding, self._node)
            if topic is None:
                continue
            state = self._topics.get(topic)
            if state is None:
                if len(self._topics) >= MOST:
                    if not self._resolved:
                        dropped += 1
                        continue
                    oldest = next(iter(self._resolved))
                    del self._resolved[oldest], self._topics[oldest]
                state = self._topics[topic] = _TopicState(now)
            state.findings[finding] += 1
            self._resolved.pop(topic, None)
            if topic.shared and self._free_at() <= now and not self._shared_due(now):
                self._paced_since, self._share = now, self._chance()
            self._schedule(state, now)
        for finding in cleared:
            topic = topic_of(finding, self._node)
            state = self._topics.get(topic) if topic else None
            if topic is None or state is None or finding not in state.findings:
                continue
            state.findings[finding] -= 1
            if not state.findings[finding]:
                del state.findings[finding]
            if not state.findings:
                state.pending = False
                self._resolved[topic] = None
        return dropped

    def due_at(self) -> float:
        """Return when `next` has something to write, as far as is known now; infinity if never."""
        if self._starting:
            return 0.0
        return min((self._due(topic, state) for topic, state in self._topics.items()), default=_NEVER)

    def next(self, now: float) -> Write | None:
        """Return what to write now. Call `wrote` with the outcome before the next call."""
        if self._starting:
            return Write(self._starting)
        due = [topic for topic, state in self._topics.items() if self._due(topic, state) <= now]
        if not due:
            return None
        own = [topic for topic in due if not topic.shared]
        topic = own[0] if own else due[min(int(self._chance() * len(due)), len(due) - 1)]
        state = self._topics[topic]
        state.tokens, state.asked_at = self._tokens(state, now) - 1.0, now
        state.pending = False
        if topic.shared:
            self._paced_since, self._share = now, 0.5 + self._chance()
        event = event_of(topic, state.findings, self._node, self._start)
        return Write(event, state.count if event.name == state.name else 0)

    def wrote(self, write: Write, outcome: Outcome, now: float) -> None:
        """Record the outcome of a write, and schedule the next one about its topic."""
        if write.event == self._starting:
            self._starting = None if outcome is not Outcome.FAILED else self._starting
            return
        state = self._topics.get(write.event.topic)
        if state is None:
            return
        later = 0.0
        if outcome is Outcome.FAILED:
            state.tokens += 1.0
        elif outcome is Outcome.GONE:
            state.count = 0
        else:
            ours = outcome in (Outcome.CREATED, Outcome.REPEATED)
            state.name = write.event.name
            state.count = write.count + 1 if ours else 0
            later = CONFIRM_AFTER if ours else LOOK_AGAIN
        if state.findings and not state.pending:
            self._schedule(state, now + later)

    def _schedule(self, state: _TopicState, since: float) -> None:
        if not state.pending or since < state.since:
            state.pending, state.since = True, since

    def _shared_due(self, now: float) -> bool:
        return any(state.pending and state.since <= now and topic.shared for topic, state in self._topics.items())

    def _due(self, topic: Topic, state: _TopicState) -> float:
        if not state.pending:
            return _NEVER
        at = max(state.since, state.asked_at + (1.0 - state.tokens) * AGAIN)
        if not topic.shared:
            return at
        return _NEVER if self._nodes is None else max(at, self._free_at())

    def _free_at(self) -> float:
        return self._paced_since + self._share * self._spread()

    def _spread(self) -> float:
        return (self._nodes or 1) / PER_SECOND

    def _tokens(self, state: _TopicState, now: float) -> float:
        return min(float(BURST), state.tokens + (now - state.asked_at) / AGAIN)
