"""Presents the translations for clients on this node as a `KernelTable`: each row is a rule of table nat
(render/iptables/ipvs_rules.py, goal 7).

The main loop must not wait for iptables, so a write only records the desired rows; the rule keeper writes them into the
kernel and repairs them there (`PacketFilter.translate`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence

from ipvsagent.address import Address, pack, unpack
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import Failure, Keys, Observed, Op, TranslationRow, Verb

_RULE = re.compile(
    r"-d (\S+?)(?:/\d+)? -p (tcp|udp|sctp) .*--dport (\d+) .*-j DNAT --to-destination \[?([0-9a-f.:]+?)\]?:(\d+)$"
)


def parse_translation(rule: str) -> TranslationRow | None:
    """Parse a rule of the chain of translations, as iptables-save prints it after `-A CHAIN `. Return None if it is
    another rule."""
    match = _RULE.match(rule)
    if match is None:
        return None
    source, protocol, port, target, target_port = match.groups()
    kind = Protocol(protocol.upper())
    try:
        return TranslationRow(
            VirtualServerId(kind, unpack(pack(Address(source))), int(port)),
            VirtualServerId(kind, unpack(pack(Address(target))), int(target_port)),
        )
    except (OSError, ValueError):
        return None


class TranslationTable:
    """Holds the desired translations; the kernel follows later."""

    def __init__(
        self,
        held: Callable[[], Collection[TranslationRow]],
        changed: Callable[[frozenset[TranslationRow]], None],
    ) -> None:
        """held: returns what the kernel holds, and is called once. changed: called with all desired rows after every
        write; it must not wait."""
        self._held = held
        self._changed = changed
        self._rows: set[TranslationRow] | None = None

    def read(self, keys: Keys) -> Iterator[Observed]:
        """Read rows as recorded. Raises StartError if iptables is not installed."""
        rows = self._known()
        return iter([Observed(row) for row in (rows if keys is None else keys) if row in rows])

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        """Record rows, which the next write of the packet rules puts into the kernel; return no failures."""
        rows = self._known()
        for op in ops:
            assert isinstance(op.row, TranslationRow)
            (rows.discard if op.verb is Verb.DELETE else rows.add)(op.row)
        self._changed(frozenset(rows))
        return []

    def _known(self) -> set[TranslationRow]:
        if self._rows is None:
            self._rows = set(self._held())
        return self._rows
