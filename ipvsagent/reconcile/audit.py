"""Audits the kernel: reads a part of it now and then, so that what other programs change there is repaired.

It reads and compares; the reconciler repairs. The caller decides how much is read and when.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice

from ipvsagent.model import VirtualServerId
from ipvsagent.reconcile.kernel_tables import KernelTables
from ipvsagent.reconcile.reconciler import Reconciler, is_foreign
from ipvsagent.reconcile.report import Report
from ipvsagent.rows import Observed

FAST_PASS = 5.0
SLOW_PASS = 300.0
LAST_PASS = 900.0
"""Seconds that one pass over everything takes: on a small table, on a large one, and at most."""
SHARE = 0.003
"""The share of a core that looks may use."""


class Pace:
    """Decides how much of the kernel each look reads, by how long earlier looks took."""

    def __init__(self) -> None:
        self._costs: deque[float] = deque(maxlen=5)

    def count(self, servers: int, every: float) -> int:
        """Return how many of `servers` virtual servers a look that happens every `every` seconds reads.

        A pass over all takes 5 s when they are few, and 5 minutes when they are many. Where reading is slow, as on a
        small machine, it takes longer, so that looks use no more than SHARE of a core, but at most 15 minutes.
        """
        count = max(math.ceil(servers * every / SLOW_PASS), min(servers, math.ceil(100 * every / FAST_PASS)))
        cost = min(self._costs, default=0.0)
        if cost * count > SHARE * every:
            count = int(SHARE * every / cost)
        return max(count, math.ceil(servers * every / LAST_PASS), 1)

    def record(self, count: int, seconds: float) -> None:
        """Record how long a look took. The fastest of the last few counts, as a look that repairs takes longer."""
        self._costs.append(seconds / count)


class Audit:
    """Reads the kernel piece by piece and has differences repaired."""

    def __init__(self, reconciler: Reconciler, tables: KernelTables) -> None:
        self._reconciler = reconciler
        self._tables = tables
        self._polled = 0
        self._cursor: Iterator[VirtualServerId] = iter(())

    def look(self, count: int, now: float, report: Report | None = None) -> Report:
        """Read the next `count` virtual servers, and those that another program is known to have changed, and repair
        what differs. A missing one causes a full comparison.

        When all have been read once, the ids in the kernel and the members of our sets are compared, too: a virtual
        server on one of our addresses that no Service asks for would be missed otherwise. Raises what
        `Reconciler.start` raises.
        """
        reconciler, states = self._reconciler, self._reconciler.states
        report = Report() if report is None else report
        ids, passed = self._next_slice(count)
        modified = [i for i in self._tables.take_externally_modified() if reconciler.is_settled(i)]
        ids = list(dict.fromkeys([*ids, *modified]))
        differing: dict[VirtualServerId, Sequence[Observed]] = {}
        found = dict(self._tables.read(ids)) if ids else {}
        for server_id in ids:
            rows = found.get(server_id, [])
            if server_id in states.foreign:
                if not is_foreign(rows):
                    differing[server_id] = rows
            elif not rows and server_id in states.confirmed:
                # It stays suspect if the comparison fails before this point.
                states.suspects.mark_suspect(server_id, now)
                return reconciler.start(now, report)
            elif reconciler.differences(server_id, [seen.row for seen in rows]):
                differing[server_id] = rows
        if passed:
            reconciler.shared.check_contents(now)
            strays = [i for i in self._tables.ours() if i not in states.confirmed and reconciler.is_settled(i)]
            if strays:
                self._tables.adopt(strays)  # one that is held may lose its address before it can be removed
                differing.update(self._tables.read(strays))
        if differing:
            reconciler.repair(differing, now, report)
        return report

    def poll_drains(self, count: int, now: float) -> None:
        """Read the connections of at most `count` virtual servers that drain, so that idle drains become due."""
        drains = self._reconciler.drains
        draining = drains.to_poll()
        first = self._polled % len(draining) if draining else 0
        ids = [*draining[first:], *draining[:first]][:count]
        self._polled = first + len(ids)
        if ids:
            for server_id, rows in self._tables.read(ids):
                drains.update_connections(server_id, rows, now)

    def _next_slice(self, count: int) -> tuple[list[VirtualServerId], bool]:
        """Return the next ids to look at, and whether a pass over all of them ended with these."""
        reconciler = self._reconciler
        confirmed, foreign = reconciler.states.confirmed, reconciler.states.foreign
        ids = list(islice(self._cursor, count))
        passed = len(ids) < count
        if passed:
            self._cursor = iter([*confirmed, *foreign])
            ids = list(dict.fromkeys([*ids, *islice(self._cursor, count - len(ids))]))
        return [i for i in ids if (i in confirmed or i in foreign) and reconciler.is_settled(i)], passed
