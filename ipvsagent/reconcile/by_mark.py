"""Retires virtual servers by firewall mark, which agents up to 0.1.0 made for clients on their node.

Packets no longer get such a mark, so these get no new connections; existing ones continue while the real servers are
there. Pure: `now` is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from ipvsagent.model import VirtualServerId
from ipvsagent.rows import Observed, Op, RealServerRow, Verb

LOOK_EVERY = 5.0


class ByMark:
    """Holds the virtual servers by mark that are still there."""

    def __init__(self) -> None:
        self._left: dict[VirtualServerId, tuple[float, float]] = {}
        """The deadline of each and the time of the next look, in seconds on the caller's clock."""

    def __contains__(self, server_id: VirtualServerId) -> bool:
        return server_id in self._left

    def due(self, now: float) -> list[VirtualServerId]:
        return [server_id for server_id, (_, due) in self._left.items() if due <= now]

    def next_due(self) -> float | None:
        return min((due for _, due in self._left.values()), default=None)

    def transform(
        self, server_id: VirtualServerId, read: Sequence[Observed], removal: Sequence[Op], now: float, timeout: float
    ) -> Sequence[Op]:
        """Return the removal once there are no connections or `timeout` seconds are over, otherwise ops that set weight
        0."""
        deadline = self._left[server_id][0] if server_id in self._left else now + timeout
        if now >= deadline or not any(seen.active + seen.inactive for seen in read):
            self._left.pop(server_id, None)
            return removal
        self._left[server_id] = (deadline, min(now + LOOK_EVERY, deadline))
        real_servers = (seen.row for seen in read if isinstance(seen.row, RealServerRow))
        return [Op(Verb.SET, replace(row, weight=0)) for row in real_servers if row.weight]
