"""Translations of this node's own clients, as a `KernelTable`: each row is a rule of nat
(render/iptables/ipvs_rules.py, goal 7).

The main loop must not wait for iptables, so a write only says what is wanted; whoever keeps the packet rules puts it
into the kernel and repairs it there (`PacketFilter.translate`).
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
    """A rule of the chain of translations, as iptables-save prints it after the chain's name; None if it is none."""
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
    """held: what the kernel has, asked once. changed: is given all that is wanted, after every write; must not wait."""

    def __init__(
        self,
        held: Callable[[], Collection[TranslationRow]],
        changed: Callable[[frozenset[TranslationRow]], None],
    ) -> None:
        self._held = held
        self._changed = changed
        self._rows: set[TranslationRow] | None = None

    def read(self, keys: Keys) -> Iterator[Observed]:
        """Raises StartError if there is no iptables."""
        rows = self._known()
        return iter([Observed(row) for row in (rows if keys is None else keys) if row in rows])

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        """Takes effect when the packet rules are written next; fails never."""
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
