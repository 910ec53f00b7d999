"""Implements graceful termination: what happens between "this real server is no longer desired" and its deletion.

Goals, in order:
1. A connection that can still be served is not cut, and no new connection goes to a server that should get none.
2. Nothing lingers for ever: every state but one ends in time, and that one ends with the next change of the slice.
3. A restart loses nothing: a server found at weight 0 and not desired is adopted.
4. No I/O, no clock, no thread: `now` and connection counts are arguments.

Kubernetes calls an endpoint *terminating*; a real server that is kept at weight 0 is *draining*.

| state     | event                                                       | next      | kernel          |
|-----------|-------------------------------------------------------------|-----------|-----------------|
| serving   | listed by a slice, but not used                             | LISTED    | weight 0        |
| serving   | gone from the slices                                        | LINGERING | nothing yet     |
| serving   | the same, found undesired after a restart                   | LEAVING   | weight 0        |
| LISTED    | gone from the slices                                        | LINGERING | nothing         |
| LINGERING | a window later; it was alive when last listed               | LEAVING   | weight 0        |
| LINGERING | a window later; it was terminating or not ready             | -         | delete          |
| LEAVING   | deadline reached                                            | -         | delete          |
| LISTED, LEAVING | no connections                                        | -         | delete          |
| any       | desired again                                               | serving   | weight restored |
| any       | its virtual server is deleted                               | -         | goes with it    |
| (start)   | held at weight 0, not desired and not listed                | LEAVING   | nothing         |

The window (about 0.1 s) is for an endpoint that moves between slices: for a moment it is in neither, and must neither
be cut nor, for UDP, be deleted. UDP, SCTP, scheduler dh and a drain timeout of 0 do not drain: their real servers are
deleted instead of set to weight 0.
An endpoint that was terminating when it vanished has ended: deletion lets `expire_nodest_conn` reset remaining
connections at once, where waiting would black-hole clients for up to 15 minutes (kubernetes/kubernetes#81308).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from heapq import heappop, heappush

from msgspec import Struct
from msgspec.structs import replace

from ipvsagent.address import Address
from ipvsagent.model import Protocol, RealServer, VirtualServer, VirtualServerId
from ipvsagent.rows import Observed, Op, RealServerRow, Verb, VirtualServerRow

Key = tuple[Address, int]


# dh hashes the Service's own address, so one real server gets all new connections, also at weight 0.
_CANNOT_DRAIN = frozenset(["dh"])


class Phase(StrEnum):
    LISTED = "listed"
    LINGERING = "lingering"
    LEAVING = "leaving"


class Drain(Struct, frozen=True, gc=False):
    """Describes one real server that the kernel holds and that is not desired."""

    row: RealServerRow
    """What the kernel should hold now."""
    phase: Phase
    until: float | None
    """The end of the phase on the caller's clock; None = open."""
    alive: bool
    """Whether it was ready when a slice last listed it."""


class Drains:
    """Holds all drains by virtual server. `timeout` and `window` are in seconds."""

    def __init__(self, timeout: float = 900.0, window: float = 0.1) -> None:
        self.timeout = timeout
        self.window = window
        self._by_server: dict[VirtualServerId, dict[Key, Drain]] = {}
        self._ends: dict[VirtualServerId, float] = {}  # the earliest `until` of each server's drains
        self._queue: list[
            tuple[float, VirtualServerId]
        ] = []  # a heap of `_ends`; an entry that is not in `_ends` is stale

    def rows(self, server_id: VirtualServerId) -> list[RealServerRow]:
        """Return the rows that the kernel holds beside those of the virtual server itself."""
        drains = self._by_server.get(server_id)
        return [d.row for d in drains.values()] if drains else []

    def of(self, server_id: VirtualServerId) -> tuple[Drain, ...]:
        return tuple(self._by_server.get(server_id, {}).values())

    def __iter__(self) -> Iterator[VirtualServerId]:
        return iter(self._by_server)

    def __len__(self) -> int:
        return sum(len(d) for d in self._by_server.values())

    def transform(
        self,
        server_id: VirtualServerId,
        ops: Sequence[Op],
        before: VirtualServer | None,
        desired: VirtualServer | None,
        now: float,
    ) -> Sequence[Op]:
        """Rewrite the ops of one virtual server: deletions of real servers may become weight 0, or wait.

        before: the confirmed value; None if the rows were found by reading.
        """
        drains = self._by_server.get(server_id)
        if not drains and not any(op.verb is Verb.DELETE and type(op.row) is RealServerRow for op in ops):
            return ops
        if desired is None or any(op.verb is Verb.DELETE and type(op.row) is VirtualServerRow for op in ops):
            self.forget(server_id)
            return ops
        drains = self._by_server.setdefault(server_id, {})
        timeout = self.timeout if desired.drain_timeout is None else desired.drain_timeout
        if desired.scheduler in _CANNOT_DRAIN:
            timeout = 0.0
        listed = {(r.address, r.port): r for r in desired.unused}
        last_seen = {(r.address, r.port): r for r in (*before.unused, *before.real_servers)} if before else {}
        result: list[Op] = []
        undesired: set[Key] = set()
        for op in ops:
            row = op.row
            if op.verb is not Verb.DELETE or type(row) is not RealServerRow:
                result.append(op)
                continue
            undesired.add(row.key)
            drain = self._next(row, drains.get(row.key), listed.get(row.key), last_seen.get(row.key), now, timeout)
            if drain is None:
                drains.pop(row.key, None)
                result.append(op)
                continue
            drains[row.key] = drain
            if drain.row != row:
                result.append(Op(Verb.SET, drain.row))
        for key in [k for k in drains if k not in undesired]:
            del drains[key]
        if not drains:
            del self._by_server[server_id]
        self._schedule(server_id)
        return result

    def _next(
        self,
        row: RealServerRow,
        drain: Drain | None,
        listed: RealServer | None,
        seen: RealServer | None,
        now: float,
        timeout: float,
    ) -> Drain | None:
        """Return the next state of a held row that is not desired; None = delete it."""
        gentle = row.server.protocol is Protocol.TCP and timeout > 0
        quiet = replace(row, weight=0) if row.weight else row
        if listed:
            if not gentle or (drain and drain.phase is Phase.LISTED and _over(drain, now)):
                return None
            return Drain(quiet, Phase.LISTED, None, listed.alive)
        if drain is None and seen is None:
            return Drain(quiet, Phase.LEAVING, now + timeout, alive=True) if gentle else None
        if drain is None or drain.phase is Phase.LISTED:
            alive = drain.alive if drain else bool(seen and seen.alive)
            if self.window > 0:
                return Drain(row, Phase.LINGERING, now + self.window, alive)
            drain = Drain(row, Phase.LINGERING, now, alive)
        if drain.phase is Phase.LINGERING and _over(drain, now):
            if not (gentle and drain.alive):
                return None
            return Drain(quiet, Phase.LEAVING, now + timeout, alive=True)
        if _over(drain, now):
            return None
        return replace(drain, row=row if drain.phase is Phase.LINGERING else quiet)

    def update_connections(self, server_id: VirtualServerId, observed: Iterable[Observed], now: float) -> bool:
        """Update the connection counts of a virtual server with drains. Return whether some drain is over because of
        them."""
        drains = self._by_server.get(server_id, {})
        over = False
        for seen in observed:
            drain = drains.get(seen.row.key) if isinstance(seen.row, RealServerRow) else None
            if drain and drain.phase is not Phase.LINGERING and seen.active + seen.inactive == 0:
                drains[drain.row.key] = replace(drain, until=now)
                over = True
        if over:
            self._schedule(server_id)
        return over

    def forget(self, server_id: VirtualServerId) -> None:
        self._by_server.pop(server_id, None)
        self._ends.pop(server_id, None)

    def _schedule(self, server_id: VirtualServerId) -> None:
        """Recompute when the drains of a virtual server are due. Every change of any Service asks what is due, so that
        question must not look at each drain: a rollout has thousands."""
        ends = [d.until for d in self._by_server.get(server_id, {}).values() if d.until is not None]
        if not ends:
            self._ends.pop(server_id, None)
        elif self._ends.get(server_id) != (end := min(ends)):
            self._ends[server_id] = end
            heappush(self._queue, (end, server_id))

    def postpone(self, server_id: VirtualServerId, until: float) -> None:
        """Postpone what is due, as the rows of this virtual server cannot be read before `until`."""
        if self._ends.get(server_id, until) < until:
            self._ends[server_id] = until
            heappush(self._queue, (until, server_id))

    def due(self, now: float) -> list[VirtualServerId]:
        first = self.next_due()
        if first is None or first > now:
            return []
        return [i for i, end in self._ends.items() if end <= now]

    def next_due(self) -> float | None:
        while self._queue:
            end, server_id = self._queue[0]
            if self._ends.get(server_id) == end:
                return end
            heappop(self._queue)
        return None

    def to_poll(self) -> list[VirtualServerId]:
        """Return the virtual servers whose connection counts decide when a drain ends."""
        return [
            i for i, drains in self._by_server.items() if any(d.phase is not Phase.LINGERING for d in drains.values())
        ]


def _over(drain: Drain, now: float) -> bool:
    return drain.until is not None and drain.until <= now
