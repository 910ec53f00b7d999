"""Holds what is believed of each virtual server in the kernel. Pure: `now` is an argument.

The facts about one virtual server are independent of each other, and each changes for a reason of its own:

*dirty*      the desired value may have changed since the last round;
*confirmed*  the kernel accepted everything of the last desired value: its rows are the rows of that value plus those of
             drains, so nothing need be read to change it (the confirmed value is that very object);
*suspect*    a write failed or an audit found a difference: its rows are read before the next write;
*held*       the kernel holds rows of it that are not desired, as far as is known, and that stay for now;
*foreign*    another program has a virtual server in its place.

Each fact is a container of the ids that it applies to, so that the cost of a round depends on what is dirty, suspect or
held, and not on what exists.
"""

from __future__ import annotations

from msgspec import Struct

from ipvsagent.model import VirtualServer, VirtualServerId
from ipvsagent.reconcile.retry import RetryQueue, Suspect


class State(Struct, frozen=True):
    """Combines all that is believed of one virtual server."""

    confirmed: VirtualServer | None
    suspect: Suspect | None
    dirty: bool
    held: bool
    foreign: bool

    @property
    def settled(self) -> bool:
        """Return whether what the kernel holds should be what is believed."""
        return not (self.suspect or self.dirty or self.held)


class States:
    """Holds the states of all virtual servers; only the reconciler changes them."""

    def __init__(self) -> None:
        self.confirmed: dict[VirtualServerId, VirtualServer] = {}
        self.suspects: RetryQueue[VirtualServerId] = RetryQueue()
        self.dirty: set[VirtualServerId] = set()
        self.held: set[VirtualServerId] = set()
        self.foreign: set[VirtualServerId] = set()

    def of(self, server_id: VirtualServerId) -> State:
        return State(
            confirmed=self.confirmed.get(server_id),
            suspect=self.suspects.get(server_id),
            dirty=server_id in self.dirty,
            held=server_id in self.held,
            foreign=server_id in self.foreign,
        )

    def must_be_read(self, server_id: VirtualServerId) -> bool:
        """Return whether its rows have to be read before they are changed."""
        return server_id in self.suspects or server_id in self.foreign

    def confirm(self, server_id: VirtualServerId, desired: VirtualServer | None) -> bool:
        """Record that the kernel accepted everything. Return whether the virtual server was suspect until now."""
        if desired is None:
            self.confirmed.pop(server_id, None)
        else:
            self.confirmed[server_id] = desired
        if server_id not in self.suspects:
            return False
        self.suspects.settle(server_id)
        return True

    def mark_foreign(self, server_id: VirtualServerId) -> None:
        """Record that another program has its place, and a Service asks for it."""
        self.forget(server_id)
        self.foreign.add(server_id)

    def forget(self, server_id: VirtualServerId) -> None:
        """Drop what is believed: another program has its place, and no Service asks for it."""
        self.suspects.settle(server_id)
        self.confirmed.pop(server_id, None)
        self.foreign.discard(server_id)

    def unmark_foreign(self, server_id: VirtualServerId) -> bool:
        """Record that no other program has its place. Return whether one had until now."""
        if server_id not in self.foreign:
            return False
        self.foreign.discard(server_id)
        return True

    def release_held(self, now: float) -> None:
        """Have the next round read what is held, and decide again."""
        for server_id in self.held:
            self.suspects.mark_suspect(server_id, now)
        self.held.clear()

    def mark_all_suspect(self, now: float) -> None:
        for server_id in self.confirmed:
            self.suspects.mark_suspect(server_id, now)
