"""Defines changes of rows, their diff, and the order in which changes are written."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from ipvsagent.errors import KernelError
from ipvsagent.rows.ipvs import RealServerRow, VirtualServerRow
from ipvsagent.rows.nat_chains import ChainsRow
from ipvsagent.rows.shared import SharedRow
from ipvsagent.rows.verb import Verb

Row = VirtualServerRow | RealServerRow | ChainsRow | SharedRow


class Op(Struct, frozen=True, gc=False):
    """Describes one change to one row."""

    verb: Verb
    row: Row

    @property
    def rank(self) -> int:
        """Return its place in the order of writes; the lowest is written first."""
        return self.row.rank[self.verb]

    def __str__(self) -> str:
        """Return the command of ipvsadm, ipset, iptables or `ip` that does the same."""
        return self.row.command(self.verb)


class Failure(Struct, frozen=True):
    """Holds an op that the kernel refused, and why."""

    op: Op
    error: KernelError


def diff(held: Iterable[Row], wanted: Iterable[Row]) -> list[Op]:
    """Return the ops that turn the held rows of one virtual server into the wanted ones, additions before deletions.

    Keys are unique on each side. The kernel deletes real servers with their virtual server, so that only the deletion
    of the latter is an op.
    """
    before = {row.key: row for row in held}
    if not before:
        return [Op(Verb.ADD, row) for row in wanted]
    ops = []
    for row in wanted:
        old = before.pop(row.key, None)
        if old is None:
            ops.append(Op(Verb.ADD, row))
        elif old != row:
            ops.append(Op(Verb.SET, row))
    whole = any(type(row) is VirtualServerRow for row in before.values())
    ops.extend([Op(Verb.DELETE, row) for row in before.values() if not (whole and type(row) is RealServerRow)])
    return ops


def order(ops: Iterable[Op]) -> list[Op]:
    """Sort ops so that traffic is attracted last and released first: make before break.

    A virtual server gets its real servers, and the packet filter its members, before its address is bound, and its
    address is removed before anything else is. New real servers are added before old ones are deleted, so that a
    virtual server whose endpoints are all replaced is never empty.
    """
    return sorted(ops, key=lambda op: op.rank)
