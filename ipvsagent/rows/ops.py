"""Changes of rows, the one diff, and the order in which changes are written."""

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
    """One change to one row."""

    verb: Verb
    row: Row

    @property
    def rank(self) -> int:
        """Lower ones are written first."""
        return self.row.rank[self.verb]

    def __str__(self) -> str:
        """The command that would do it: of ipvsadm, ipset, iptables or `ip`."""
        return self.row.command(self.verb)


class Failure(Struct, frozen=True):
    """An op that the kernel refused, and why."""

    op: Op
    error: KernelError


def diff(held: Iterable[Row], wanted: Iterable[Row]) -> list[Op]:
    """Ops that turn the held rows of one virtual server into the wanted ones, additions before removals.

    Keys are unique on each side. Real servers go with their virtual server, so only its deletion is an op.
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
    """Make before break: attract traffic last, release it first.

    A virtual server gets its real servers, and the packet filter its members, before its address is bound, and its
    address goes before anything else does; new real servers come before old ones leave, so that a full swap never
    passes through none.
    """
    return sorted(ops, key=lambda op: op.rank)
